"""Models of which not one replica fits on any worker of their fleet, however empty it is.

Ray places a replica on one worker, and waits for ever for one that is large enough. Said here, it is said at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment, Resources
from rayfleet_operator.plan import demand
from rayfleet_operator.plan.arithmetic import size_text
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY
from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_operator.plan.packing import Packed
from rayfleet_operator.plan.room import Room, Worker


def misfits(models: Sequence[ModelDeployment], spec: ModelFleetSpec) -> dict[str, ResolutionProblem]:
    """The models of which not one replica fits on any worker, by name. Giving them to Ray would be of no use."""
    room = Room.of(spec)
    return {
        model.metadata.name: ResolutionProblem(INSUFFICIENT_CAPACITY, problem, held=True)
        for model in models
        if (problem := misfit(model.spec.resources, room)) is not None
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
