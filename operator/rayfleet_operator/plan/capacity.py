"""Whether a fleet's workers can hold what its models ask for.

Ray places a replica on one worker, and waits for ever for one that is large enough. Said here, it is said at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayfleet_operator.api import quantity
from rayfleet_operator.api.fleet import ModelFleetSpec, WorkerGroup
from rayfleet_operator.api.template import WORKER
from rayfleet_operator.api.types import ModelDeployment, Resources
from rayfleet_operator.plan.observed import ResolutionProblem

REASON = "InsufficientCapacity"
SUMS = "the fleet's models and routers ask for"
"""How a `shortage` begins."""
GIB = 2**30


def misfits(models: Sequence[ModelDeployment], spec: ModelFleetSpec) -> dict[str, ResolutionProblem]:
    """The models of which not one replica fits on any worker, by name. Giving them to Ray would be of no use."""
    return {
        model.metadata.name: ResolutionProblem(REASON, problem, held=True)
        for model in models
        if (problem := _misfit(model.spec.resources, spec.worker_groups)) is not None
    }


def _misfit(resources: Resources, groups: Sequence[WorkerGroup]) -> str | None:
    workers = [Worker.of(group) for group in groups]
    if any(_fits(resources, worker) for worker in workers):
        return None
    asks = [f"{resources.cpu_count:g} CPUs"]
    if resources.memory is not None:
        asks.append(f"{resources.memory} memory")
    if resources.gpu is not None:
        asks.append(f"{resources.gpu_count:g} GPUs")
    has = "; ".join(f"{each.group}: {each.cpus} CPUs, {each.memory_text} memory, {each.gpus} GPUs" for each in workers)
    return (
        f"one replica asks for {', '.join(asks)}, and no worker has that ({has or 'the fleet has no workers'}). "
        f"Lower spec.resources, or give the fleet a larger worker group"
    )


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What Ray hands out on one worker of a group."""

    group: str
    cpus: int
    gpus: int
    memory: int
    """Bytes."""
    memory_text: str

    @classmethod
    def of(cls, group: WorkerGroup) -> Worker:
        """CPUs are those of the group, as the operator tells Ray. GPUs and memory KubeRay reads from the container's
        limits, which a template may change."""
        limits = _limits(group)
        # Of several kinds of GPU, KubeRay counts the first by name.
        kinds = sorted(name for name in limits if name.endswith("gpu") or _MIG.search(name))
        memory = str(limits.get("memory", group.memory))
        try:
            counts = [int(quantity.parse_count(str(limits[name]))) for name in kinds]
            found = next((count for count in counts if count), 0)
            size = quantity.parse_bytes(memory)
        except ValueError:
            # The API server refuses the template, and says so.
            found, size, memory = 0, quantity.parse_bytes(group.memory), group.memory
        return cls(
            group=group.name,
            cpus=math.ceil(quantity.parse_count(group.cpu)),
            gpus=found,
            memory=size,
            memory_text=memory,
        )


_MIG = re.compile(r"nvidia\.com/mig-\d+g\.\d+gb$")
"""A share of a GPU that Kubernetes hands out; KubeRay counts it as one."""


def _limits(group: WorkerGroup) -> dict[str, object]:
    """The limits of the worker's own container."""
    limits: dict[str, object] = {"memory": group.memory}
    if group.gpu is not None:
        limits["nvidia.com/gpu"] = group.gpu
    containers = (group.template.get("spec") or {}).get("containers") or []
    own: Mapping[str, object] = next((each for each in containers if each["name"] == WORKER), {})
    match own.get("resources"):
        case {"limits": Mapping() as theirs}:
            limits |= theirs
    return {name: value for name, value in limits.items() if value is not None}


def _fits(resources: Resources, worker: Worker) -> bool:
    return (
        resources.cpu_count <= worker.cpus
        and resources.gpu_count <= worker.gpus
        and (resources.memory_bytes or 0) <= worker.memory
    )


def _replicas(model: ModelDeployment) -> list[int]:
    """Of its own version, and of each other that its traffic names. URIs that are spelled alike are one version."""
    found = {model.spec.model.uri: model.spec.replicas}
    for version in model.spec.traffic.versions if model.spec.traffic is not None else []:
        found.setdefault(version.uri, version.replicas or model.spec.replicas)
    return list(found.values())


def shortage(models: Sequence[ModelDeployment], spec: ModelFleetSpec) -> str | None:
    """Why not all replicas of all models can run at once, if so; None when the sums leave room.

    Sums only: what fits by sum may still not fit by worker. Rollouts need room for two versions for a while.
    """
    replicas = [(count, model.spec.resources) for model in models for count in _replicas(model)]
    workers = [(group.ceiling, Worker.of(group)) for group in spec.worker_groups]
    routers = spec.routers.replicas * spec.routers.cpu_count
    sums = {
        "CPUs": (sum(n * each.cpu_count for n, each in replicas) + routers, sum(n * each.cpus for n, each in workers)),
        "GPUs": (sum(n * each.gpu_count for n, each in replicas), sum(n * each.gpus for n, each in workers)),
        "GiB of memory": (
            sum(n * (each.memory_bytes or 0) for n, each in replicas) / GIB,
            sum(n * each.memory for n, each in workers) / GIB,
        ),
    }
    lacking = [
        f"{wanted:.4g} {name}, and its workers have {there:.4g}"
        for name, (wanted, there) in sums.items()
        # Ray counts in ten-thousandths, and ten times 0.1 is not quite one.
        if round(wanted, 4) > round(there, 4)
    ]
    if not lacking:
        return None
    return (
        f"{SUMS} {' and '.join(lacking)}. "
        "Raise maxReplicas of a worker group, or lower spec.replicas or spec.resources of a model"
    )
