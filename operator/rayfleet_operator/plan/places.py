"""Where each replica has its place, in a form to be shown: by worker, by GPU, by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rayfleet_operator.api.status import GroupCapacity, WaitingModel
from rayfleet_operator.plan.admission import Admission, Waiting
from rayfleet_operator.plan.arithmetic import count_text, size_text
from rayfleet_operator.plan.packing import UNIT, Packed, Packing, Replica, units

MOST_GROUPS = 16
MOST_WAITING = 64


@dataclass(frozen=True)
class GpuPlaces:
    """One GPU of a worker."""

    number: int
    free: float
    """Share of it."""
    memory: int | None
    """Bytes that it has; None where nobody knows."""
    memory_free: int | None
    """Bytes that nobody has asked for; None where nobody knows how many there are."""
    replicas: tuple[str, ...]
    """What lies on it, each with its share."""


@dataclass(frozen=True)
class WorkerPlaces:
    """Workers of one group on which the same lies."""

    group: str
    accelerator: str
    spot: bool
    first: int
    """Number of the first, from 1."""
    last: int
    of: int
    """That there may be of the group."""
    cpus: int
    cpus_free: float
    memory: int
    """Bytes."""
    memory_free: int
    gpus: tuple[GpuPlaces, ...]
    replicas: tuple[str, ...]
    """What lies on it without a GPU."""


@dataclass(frozen=True)
class Places:
    """All of a fleet."""

    workers: tuple[WorkerPlaces, ...]
    waiting: tuple[Waiting, ...]


def of(admission: Admission) -> Places:
    """Every worker that is in use or always there; of several on which the same lies, one after the other, one."""
    workers: list[WorkerPlaces] = []
    for packed in admission.workers():
        place = _worker(packed, admission.packing)
        before = workers[-1] if workers else None
        if before is not None and before.last == place.first - 1 and _same(before, place):
            workers[-1] = WorkerPlaces(**{**vars(before), "last": place.last})
        else:
            workers.append(place)
    return Places(tuple(workers), admission.waiting)


def _same(one: WorkerPlaces, other: WorkerPlaces) -> bool:
    numbers = {"first": 0, "last": 0}
    return {**vars(one), **numbers} == {**vars(other), **numbers}


def _worker(packed: Packed, packing: Packing) -> WorkerPlaces:
    worker = packed.worker
    return WorkerPlaces(
        group=worker.group,
        accelerator=worker.accelerator,
        spot=worker.spot,
        first=packed.number + 1,
        last=packed.number + 1,
        of=packing.room.kinds[packed.kind].most,
        cpus=worker.cpus,
        cpus_free=packed.cpus / UNIT,
        memory=worker.memory,
        memory_free=packed.memory,
        gpus=tuple(
            GpuPlaces(number, gpu.share / UNIT, worker.gpu_memory, gpu.memory, _counted(map(_on_gpu, gpu.replicas)))
            for number, gpu in enumerate(packed.gpus)
        ),
        replicas=_counted(each.label for each in packed.replicas if not each.need.gpus),
    )


def _on_gpu(replica: Replica) -> str:
    need = replica.need
    share = "" if need.whole else f" {count_text(units(need.gpus))}"
    return f"{replica.label}{share}" + (f" ({size_text(need.gpu_memory)})" if need.gpu_memory else "")


def _counted(labels: Iterable[str]) -> tuple[str, ...]:
    found = Counter(labels)
    return tuple(label if number == 1 else f"{number} x {label}" for label, number in sorted(found.items()))


def lines(places: Places) -> list[str]:
    """For a terminal."""
    found: list[str] = []
    for worker in places.workers:
        found += _lines(worker)
    return found + [f"waiting: {waiting(each)}" for each in places.waiting]


def waiting(each: Waiting) -> str:
    """One application that has no room, in a line."""
    if each.refused:
        return f"{each.label}: a replica {each.why}"
    return f"{each.label}: {each.replicas} of {each.of} replicas, each {each.why}"


def _lines(worker: WorkerPlaces) -> list[str]:
    which = f"{worker.first}" if worker.first == worker.last else f"{worker.first} to {worker.last}"
    alike = f", each of {worker.last - worker.first + 1}" if worker.last > worker.first else ""
    kind = "".join(f", {each}" for each in (worker.accelerator, "spot" if worker.spot else "") if each)
    head = (
        f"{worker.group} {which} of {worker.of}{kind}{alike}: {worker.cpus_free:.10g} of {worker.cpus} CPUs free, "
        f"{size_text(worker.memory_free)} of {size_text(worker.memory)} memory not reserved"
    )
    on_gpus = [f"  GPU {gpu.number}: {_free(gpu)}{_listed(gpu.replicas)}" for gpu in worker.gpus]
    without = ["  without a GPU" + _listed(worker.replicas)] if worker.replicas else []
    return [head, *on_gpus, *without]


def _free(gpu: GpuPlaces) -> str:
    share = f"{gpu.free:.10g} free"
    if gpu.memory is None or gpu.memory_free is None:
        return share
    return f"{share}, {size_text(gpu.memory_free)} of {size_text(gpu.memory)} free"


def _listed(replicas: Sequence[str]) -> str:
    return f": {', '.join(replicas)}" if replicas else ""


def groups(admission: Admission) -> list[GroupCapacity]:
    """What is asked of each group and what is free, in the fleet at its largest."""
    found = []
    packing = admission.packing
    for number, kind in enumerate(packing.room.kinds[:MOST_GROUPS]):
        worker = kind.worker
        sorts = [(packed, count) for packed, count in packing.sorts() if packed.kind == number]

        cpus = sum(count * packed.cpus for packed, count in sorts)
        memory = sum(count * packed.memory for packed, count in sorts)
        gpus = [(gpu, count) for packed, count in sorts for gpu in packed.gpus]
        share = sum(count * gpu.share for gpu, count in gpus)
        gpu_free = sum(count * (gpu.memory or 0) for gpu, count in gpus)
        gpu_all = kind.most * worker.gpus * (worker.gpu_memory or 0)
        known = worker.gpu_memory is not None and worker.gpus > 0
        found.append(
            GroupCapacity(
                name=worker.group,
                accelerator=worker.accelerator,
                workers=kind.most,
                cpus_asked=count_text(units(kind.most * worker.cpus) - cpus),
                cpus_free=count_text(cpus),
                memory_asked=_quantity(kind.most * worker.memory - memory),
                memory_free=_quantity(memory),
                gpus=kind.most * worker.gpus,
                gpus_asked=count_text(units(kind.most * worker.gpus) - share) if worker.gpus else "",
                gpus_free=count_text(share) if worker.gpus else "",
                gpu_largest_free=count_text(max((gpu.share for gpu, _ in gpus), default=0)) if worker.gpus else "",
                gpu_memory_asked=_quantity(gpu_all - gpu_free) if known else "",
                gpu_memory_free=_quantity(gpu_free) if known else "",
            )
        )
    return found


def waiting_models(admission: Admission) -> list[WaitingModel]:
    """For a fleet's status."""
    return [
        WaitingModel(
            name=each.model or each.label[:63],
            version=each.version[:64],
            replicas=each.replicas,
            refused=each.refused,
            message=each.text[:1024],
        )
        for each in admission.waiting[:MOST_WAITING]
    ]


def _quantity(size: int) -> str:
    """Bytes as Kubernetes writes them."""
    for factor, suffix in ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki")):
        if size and size % factor == 0:
            return f"{size // factor}{suffix}"
    return str(size)
