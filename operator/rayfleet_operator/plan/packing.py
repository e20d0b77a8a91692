"""Replicas put onto workers, as Ray would put them.

A replica lies on one worker, with its CPUs and its memory. One that asks for a share of a GPU lies on one GPU; one that
asks for whole GPUs has them to itself. Memory of a GPU is summed where it is known. Ray counts in ten-thousandths, so
that is what is counted here.

Best fit: what is in use already before what is not, workers without a GPU for what needs none, and of several the one
that is left with least. The same replicas in the same order always lie in the same places.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from rayfleet_operator.plan.room import Kind, Room, Worker

UNIT = 10_000
"""Of one CPU or GPU: the steps that Ray's scheduler counts in."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one replica asks for."""

    cpus: float = 0.0
    memory: int = 0
    """Bytes."""
    gpus: float = 0.0
    """A share of one, or a whole number of them."""
    gpu_memory: int = 0
    """Bytes, on each of its GPUs."""
    accelerator: str = ""
    """What kind of GPU; "" for any."""
    steady: bool = False
    """Never on a spot worker."""

    @property
    def whole(self) -> int:
        """GPUs that it has to itself; 0 for a share or none."""
        return round(self.gpus) if units(self.gpus) >= UNIT else 0

    def may_run_on(self, worker: Worker) -> bool:
        """Whether it is the right kind of worker, however large."""
        return (not self.accelerator or self.accelerator == worker.accelerator) and not (self.steady and worker.spot)


@dataclass(frozen=True)
class Replica:
    """One of an application."""

    app: str
    label: str
    """What people call it."""
    need: Need


@dataclass
class Gpu:
    """One GPU of a worker."""

    share: int = UNIT
    """Free, in ten-thousandths."""
    memory: int | None = None
    """Bytes that are free; None where nobody knows how many it has."""
    replicas: list[Replica] = field(default_factory=list)


@dataclass
class Packed:
    """One worker, and what lies on it."""

    worker: Worker
    kind: int
    """Which of the room's kinds it is."""
    number: int
    """Among those of its kind, from 0."""
    cpus: int
    """Free, in ten-thousandths."""
    memory: int
    """Bytes that are free."""
    gpus: list[Gpu]
    replicas: list[Replica] = field(default_factory=list)

    @classmethod
    def empty(cls, worker: Worker, kind: int, number: int) -> Packed:
        gpus = [Gpu(memory=worker.gpu_memory) for _ in range(worker.gpus)]
        return cls(worker, kind, number, units(worker.cpus), worker.memory, gpus)

    @property
    def state(self) -> tuple[object, ...]:
        """Workers with the same one are as good as each other."""
        return (self.kind, self.cpus, self.memory, tuple((gpu.share, gpu.memory) for gpu in self.gpus))

    def gpus_for(self, need: Need) -> list[int] | None:
        """Which of its GPUs the replica would lie on; None where they leave no room for it."""
        if not need.gpus:
            return []
        there = [
            (gpu.share, gpu.memory or 0, number)
            for number, gpu in enumerate(self.gpus)
            if gpu.share >= min(units(need.gpus), UNIT) and (gpu.memory is None or gpu.memory >= need.gpu_memory)
        ]
        wanted = need.whole or 1
        return [number for *_, number in sorted(there)[:wanted]] if len(there) >= wanted else None

    def takes(self, need: Need) -> list[int] | None:
        """The same, and None where it is the wrong kind of worker, or has too little else."""
        if not need.may_run_on(self.worker) or units(need.cpus) > self.cpus or need.memory > self.memory:
            return None
        return self.gpus_for(need)

    def put(self, replica: Replica, gpus: Sequence[int]) -> None:
        need = replica.need
        self.cpus -= units(need.cpus)
        self.memory -= need.memory
        self.replicas.append(replica)
        for number in gpus:
            gpu = self.gpus[number]
            gpu.share -= UNIT if need.whole else units(need.gpus)
            gpu.replicas.append(replica)
            if gpu.memory is not None:
                gpu.memory -= need.gpu_memory


class Packing:
    """A room that is being filled."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.used: list[Packed] = []
        """Workers on which something lies, in the order in which they were taken."""
        self._alike: dict[tuple[object, ...], list[int]] = {}
        """Places in `used`, by state: a fleet may have thousands of workers, of which few differ."""
        self._taken = [0] * len(room.kinds)

    def place(self, replica: Replica) -> bool:
        """Put it where it fits best; False, and nothing changed, where it fits nowhere."""
        best: tuple[tuple[int, ...], Packed, list[int], tuple[object, ...] | None] | None = None
        for worker, state in self._choices():
            gpus = worker.takes(replica.need)
            if gpus is None:
                continue
            score = self._score(worker, replica.need, gpus, fresh=state is None)
            if best is None or score < best[0]:
                best = (score, worker, gpus, state)
        if best is None:
            return False
        _, worker, gpus, state = best
        if state is None:
            self.used.append(worker)
            self._taken[worker.kind] += 1
            place = len(self.used) - 1
        else:
            place = heapq.heappop(self._alike[state])
            if not self._alike[state]:
                del self._alike[state]
        worker.put(replica, gpus)
        heapq.heappush(self._alike.setdefault(worker.state, []), place)
        return True

    def fits(self, need: Need) -> bool:
        """Whether `place` would find a place."""
        return any(worker.takes(need) is not None for worker, _ in self._choices())

    def room_for(self, need: Need, most: int) -> int:
        """How many replicas with this need would find a place, of so many."""
        found = 0
        for worker, count in self.sorts():
            if found >= most:
                break
            trial = replace(worker, gpus=[replace(gpu, replicas=[]) for gpu in worker.gpus], replicas=[])
            fits = 0
            while fits * count < most - found and (gpus := trial.takes(need)) is not None:
                trial.put(Replica("", "", need), gpus)
                fits += 1
            found += fits * count
        return min(found, most)

    def _choices(self) -> Iterator[tuple[Packed, tuple[object, ...] | None]]:
        """One worker of each sort: those in use with their state, then one of each kind that is not."""
        for state, places in self._alike.items():
            yield self.used[places[0]], state
        for number, kind in enumerate(self.room.kinds):
            if self._taken[number] < kind.most:
                yield Packed.empty(kind.worker, number, self._taken[number]), None

    def _score(self, worker: Packed, need: Need, gpus: Sequence[int], *, fresh: bool) -> tuple[int, ...]:
        """The least is the best."""
        kind = self.room.kinds[worker.kind]
        left = [worker.gpus[number] for number in gpus]
        return (
            int(bool(worker.gpus) and not need.gpus),
            int(bool(worker.worker.accelerator) and not need.accelerator),
            int(fresh),
            int(worker.number >= kind.least),
            sum(gpu.share for gpu in left),
            sum(gpu.memory or 0 for gpu in left),
            worker.cpus,
            worker.memory,
            worker.kind,
            worker.number,
        )

    def workers(self) -> list[Packed]:
        """Those in use and those that there always are, by kind and number."""
        always = [
            Packed.empty(kind.worker, number, each)
            for number, kind in enumerate(self.room.kinds)
            for each in range(self._taken[number], kind.least)
        ]
        return sorted([*self.used, *always], key=lambda each: (each.kind, each.number))

    def spare(self, kind: int) -> int:
        """Workers of this kind on which nothing lies, of those that there may be."""
        return self.room.kinds[kind].most - self._taken[kind]

    def sorts(self) -> Iterator[tuple[Packed, int]]:
        """One worker of each sort, and how many there are of it."""
        for places in self._alike.values():
            yield self.used[places[0]], len(places)
        for number, kind in enumerate(self.room.kinds):
            if spare := self.spare(number):
                yield Packed.empty(kind.worker, number, self._taken[number]), spare


def units(count: float) -> int:
    """CPUs or GPUs in ten-thousandths."""
    return round(count * UNIT)


def kinds_named(kinds: Sequence[Kind]) -> str:
    """The kinds of GPU that there are, for people."""
    return ", ".join(sorted({kind.worker.accelerator for kind in kinds if kind.worker.accelerator})) or "none"
