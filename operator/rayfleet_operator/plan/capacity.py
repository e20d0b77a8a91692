"""Whether a fleet's workers can hold what its models ask for.

Ray places a replica on one worker, and waits for ever for one that is large enough. Said here, it is said at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment, Resources
from rayfleet_operator.plan import demand, size
from rayfleet_operator.plan.arithmetic import size_text
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY
from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_operator.plan.packing import GIB, Packed
from rayfleet_operator.plan.room import Room, Worker

__all__ = ["REASON", "SUMS", "Worker", "misfits", "shortage"]

REASON = INSUFFICIENT_CAPACITY
SUMS = "the fleet's models and routers ask for"
"""How a `shortage` begins."""


def misfits(models: Sequence[ModelDeployment], spec: ModelFleetSpec) -> dict[str, ResolutionProblem]:
    """The models of which not one replica fits on any worker, by name. Giving them to Ray would be of no use."""
    return {
        model.metadata.name: ResolutionProblem(REASON, problem, held=True)
        for model in models
        if (problem := misfit(model.spec.resources, Room.of(spec))) is not None
    }


def misfit(resources: Resources, room: Room) -> str | None:
    """Why not one replica fits on a worker of which nothing else is asked; None where it does."""
    workers = [kind.worker for kind in room.kinds]
    need = demand.of_resources(resources)
    if any(Packed.empty(worker, 0, 0).takes(need) is not None for worker in workers):
        return None
    asks = [f"{resources.cpu_count:g} CPUs"]
    if resources.memory is not None:
        asks.append(f"{resources.memory} memory")
    if resources.gpu is not None:
        kind = f" of the kind {resources.accelerator}" if resources.accelerator is not None else ""
        asks.append(f"{resources.gpu_count:g} GPUs{kind}")
    if resources.gpu_memory is not None:
        asks.append(f"{resources.gpu_memory} GPU memory")
    has = "; ".join(map(_has, workers))
    return (
        f"one replica asks for {', '.join(asks)}, and no worker has that ({has or 'the fleet has no workers'}). "
        f"Lower spec.resources, or give the fleet a larger worker group"
    )


def _has(worker: Worker) -> str:
    kind = f" of the kind {worker.accelerator}" if worker.accelerator else ""
    each = f" with {size_text(worker.gpu_memory)} each" if worker.gpu_memory is not None and worker.gpus else ""
    return f"{worker.group}: {worker.cpus} CPUs, {worker.memory_text} memory, {worker.gpus} GPUs{kind}{each}"


def shortage(models: Sequence[ModelDeployment], spec: ModelFleetSpec) -> str | None:
    """Why not all replicas of all models can run at once, if so; None when the sums leave room.

    Sums only: what fits by sum may still not fit by worker. Rollouts need room for two versions for a while.
    """
    asked = [(each.least, model.spec.resources) for model in models for each in size.each_version(model).values()]
    workers = [(group.ceiling, Worker.of(group)) for group in spec.worker_groups]
    routers = spec.routers.replicas * spec.routers.cpu_count
    sums = {
        "CPUs": (sum(n * each.cpu_count for n, each in asked) + routers, sum(n * each.cpus for n, each in workers)),
        "GPUs": (sum(n * each.gpu_count for n, each in asked), sum(n * each.gpus for n, each in workers)),
        "GiB of memory": (
            sum(n * (each.memory_bytes or 0) for n, each in asked) / GIB,
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
