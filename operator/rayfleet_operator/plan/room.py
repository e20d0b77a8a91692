"""What workers there are, or may be, and what Ray hands out on each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rayfleet_operator.api import quantity
from rayfleet_operator.api.fleet import ModelFleetSpec, WorkerGroup
from rayfleet_operator.api.template import WORKER

ACCELERATOR = "accelerator:"
"""Beginning of the custom resource of Ray's that workers with one kind of GPU offer, and that replicas which need that
kind ask for. Ray's own `accelerator_type:` is only offered where Ray knows the GPU by itself, which its autoscaler, who
reads `rayStartParams`, does not know of a worker that is yet to come."""
ON_DEMAND = "on-demand"
"""Custom resource of workers whose machines are not taken away, in a fleet that has others as well. Routers ask for
it."""
OFFERED = 1000
"""How much of a custom resource a worker offers; Ray's autoscaler takes whole numbers only."""
ASKED = 0.001
"""How much a replica asks for: more replicas than a worker can hold never ask for all of it."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What Ray hands out on one worker of a group."""

    group: str
    cpus: int
    gpus: int
    memory: int
    """Bytes."""
    memory_text: str
    gpu_memory: int | None = None
    """Bytes of each GPU; None where it is not known."""
    accelerator: str = ""
    """What kind its GPUs are; "" where nobody says."""
    spot: bool = False

    @classmethod
    def of(cls, group: WorkerGroup) -> Worker:
        """CPUs are those of the group, as the operator tells Ray. GPUs and memory KubeRay reads from the container's
        limits, which a template may change."""
        limits = _limits(group)
        # Of several kinds of GPU, KubeRay counts the first by name; what it does not count, Ray is told.
        kinds = sorted(name for name in limits if name.endswith("gpu") or _MIG.search(name))
        if group.gpu_resource is not None:
            kinds = [group.gpu_resource]
        memory = str(limits.get("memory", group.memory))
        try:
            counts = [int(quantity.parse_count(str(limits[name]))) for name in kinds if name in limits]
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
            gpu_memory=group.gpu_memory_bytes,
            accelerator=group.accelerator or "",
            spot=group.spot,
        )


_MIG = re.compile(r"nvidia\.com/mig-\d+g\.\d+gb$")
"""A share of a GPU that Kubernetes hands out; KubeRay counts it as one."""


def _limits(group: WorkerGroup) -> dict[str, object]:
    """The limits of the worker's own container."""
    limits: dict[str, object] = {"memory": group.memory}
    if group.gpu is not None:
        limits[group.gpu_resource or NVIDIA] = group.gpu
    containers = (group.template.get("spec") or {}).get("containers") or []
    own: Mapping[str, object] = next((each for each in containers if each["name"] == WORKER), {})
    match own.get("resources"):
        case {"limits": Mapping() as theirs}:
            limits |= theirs
    return {name: value for name, value in limits.items() if value is not None}


NVIDIA = "nvidia.com/gpu"
"""The resource of a group's GPUs where it names no other."""


@dataclass(frozen=True)
class Kind:
    """Workers that are alike."""

    worker: Worker
    least: int
    """That there always are."""
    most: int
    """That there may be."""


@dataclass(frozen=True)
class Room:
    """Everything that a fleet may grow to."""

    kinds: tuple[Kind, ...]
    """No two of one name."""

    @classmethod
    def of(cls, spec: ModelFleetSpec) -> Room:
        """The fleet at its largest."""
        return cls(tuple(Kind(Worker.of(group), group.min_replicas, group.ceiling) for group in spec.worker_groups))


def steady(spec: ModelFleetSpec) -> bool:
    """Whether routers are kept off spot workers: where there are spot workers and others."""
    return {group.spot for group in spec.worker_groups} == {True, False}
