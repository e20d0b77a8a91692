"""Who gets a place: what serves, then what is asked for of it, then whoever is new, in the order of age.

Nobody who serves is sent away, however the sums turn out later. Whoever is new and finds no place for the first
replica, even in the fleet at its largest, is not given to Ray at all: Ray would let it wait in a queue, and the place
of a replica that dies for a moment would be the newcomer's, not its successor's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rayfleet_operator.plan.arithmetic import asked_text, why_not
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY
from rayfleet_operator.plan.demand import Ask
from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_operator.plan.packing import Need, Packed, Packing, Replica, units
from rayfleet_operator.plan.room import Room

MOST_MOVED = 10_000
"""Replicas that one pass puts elsewhere to see whether one more fits, each as often as that is tried: a tenth of a
second. Beyond it, who is new fits where there is room as things lie, or waits."""

AGAIN = "needs room that others had a moment ago"
"""Said once at most: the next pass has it taken."""
UNTOLD = "waits until Ray says again what runs"


class Waiting(NamedTuple):
    """Replicas of one application for which there is no room."""

    model: str
    """"" for routers and what is no model's."""
    label: str
    version: str
    replicas: int
    """That wait."""
    of: int
    """That there should be."""
    why: str
    """With the sums: "needs 0.5 GPU, 0.2 free on 2 GPUs"."""
    refused: bool
    """Not one of them has a place, so none is given to Ray."""

    @property
    def text(self) -> str:
        """In a sentence."""
        which = f"version {self.version}: " if self.model and self.version else ""
        if self.refused:
            return f"{which}a replica {self.why}; it waits until there is room"
        return f"{which}{self.replicas} of {self.of} replicas wait: each {self.why}"


@dataclass(frozen=True)
class Admission:
    """A fleet's replicas, each with its place or with the reason why it has none."""

    packing: Packing
    waiting: tuple[Waiting, ...]
    out: tuple[Ask, ...]
    """What gets no place."""
    refused: Mapping[str, ResolutionProblem]
    """The same, instead of what the registry says of those versions."""
    places: Mapping[str, Mapping[str, int]]
    """Replicas that have a place, by model and application, where some have none; or that had one, where Ray does not
    say what runs."""

    def workers(self) -> list[Packed]:
        return self.packing.workers()

    def fits(self, ask: Ask) -> bool:
        """Whether there is room for all without which it is not let in, as things lie in the end."""
        return self.packing.room_for(ask.need, ask.needed) == ask.needed

    def shortage(self, model: str) -> str | None:
        """Why not all replicas of the model have a place; None where they have, or where it was refused as a whole."""
        return "; ".join(each.text for each in self.waiting if each.model == model and not each.refused) or None


def admit(room: Room, asks: Iterable[Ask], out: Sequence[Ask] = ()) -> Admission:
    """The same for the same asks, in whatever order they come. `out` were refused already: without them others go on
    as they are.

    First come the replicas that run, and of each that serves one; then those that Serve was told to keep; then versions
    that were let in and have no request yet, each with all that it needs or not at all; then what those that serve want
    more. All of this was let in before. Only then comes who is new.
    """
    filled = _Filled(room)
    every = sorted(asks, key=lambda ask: (ask.order, ask.deployment))
    staying = [ask for ask in every if ask.live and not ask.leaving and not ask.idle]
    filled.add(_largest_first((ask, _firm(ask)) for ask in staying))
    filled.add(_largest_first((ask, min(ask.wanted, ask.given) - filled.count[ask]) for ask in staying))
    refused = {ask.key: (ask, "") for ask in out}
    let_in = []
    for ask in [ask for ask in every if ask.idle and not ask.leaving]:
        if filled.let_in(ask):
            let_in.append(ask)
        else:
            refused[ask.key] = (ask, filled.why_not(ask))
            filled.add((ask, _replica(ask)) for _ in range(ask.running))
    filled.add(_largest_first((ask, ask.wanted) for ask in every if ask.live and ask.leaving))
    filled.add(_largest_first((ask, ask.wanted - filled.count[ask]) for ask in (*staying, *let_in)))
    silent = any(ask.unknown for ask in every)
    new = []
    for ask in [ask for ask in every if not ask.live]:
        if not silent and filled.let_in(ask):
            new.append(ask)
        else:
            refused[ask.key] = (ask, filled.why_not(ask))
    filled.add((ask, _replica(ask)) for ask in new for _ in range(ask.wanted - filled.count[ask]))
    waiting: list[Waiting] = []
    places: dict[str, dict[str, int]] = {}
    for ask in (*staying, *let_in, *new):
        # Those that were moved may have made room.
        filled.add((ask, _replica(ask)) for _ in range(ask.wanted - filled.count[ask]))
        # More may run than have a place by these sums: they are not less for it.
        there = max(filled.count[ask], ask.running)
        short = there < ask.wanted
        # Where Ray does not say what runs, others may have more than is counted: nobody is told of more meanwhile.
        most = min(there if short else ask.size.most, ask.size.most if ask.limit is None else ask.limit)
        if short or (ask.limit is not None and ask.limit < ask.wanted):
            why = why_not(filled.packing, ask.need) if short else UNTOLD
            waiting.append(_waiting(ask, most, why, refused=False))
        if ask.model and most < ask.size.most:
            places.setdefault(ask.model, {})[ask.app] = most
    problems: dict[str, ResolutionProblem] = {}
    for key, (ask, then) in refused.items():
        # By what is left in the end, where that is no more than there was.
        why = filled.why_not(ask)
        if why == AGAIN:
            why = UNTOLD if silent else then or AGAIN
        told = _waiting(ask, 0, why, refused=True)
        problems[key] = ResolutionProblem(INSUFFICIENT_CAPACITY, told.text)
        waiting.append(told)
    out = tuple(ask for ask, _ in refused.values())
    return Admission(filled.packing, tuple(sorted(waiting)), out, problems, places)


class _Filled:
    """A room, and who was put into it."""

    def __init__(self, room: Room) -> None:
        self.packing = Packing(room)
        self.count: Counter[Ask] = Counter()
        self._placed: list[Replica] = []
        self._hopeless: set[tuple[Need, int]] = set()
        self._moves = 0

    def add(self, replicas: Iterable[tuple[Ask, Replica]]) -> None:
        """As many as find a place."""
        full: set[Need] = set()
        for ask, replica in replicas:
            if ask.need in full:
                continue
            if not self.packing.place(replica):
                full.add(ask.need)
            else:
                self._placed.append(replica)
                self.count[ask] += 1

    def let_in(self, ask: Ask) -> bool:
        """Put in all that it needs, and others elsewhere if need be; or nothing."""
        replicas = [_replica(ask)] * ask.needed
        if self.fits(ask):
            for replica in replicas:
                self.packing.place(replica)
        else:
            tries = (ask.need, ask.needed) not in self._hopeless and self._moves + len(self._placed) < MOST_MOVED
            self._moves += len(self._placed) if tries else 0
            moved = _moved(self.packing.room, [*self._placed, *replicas]) if tries else None
            if moved is None:
                # There is no more room for the next one that asks for the same.
                self._hopeless.add((ask.need, ask.needed))
                return False
            self.packing = moved
        self._placed += replicas
        self.count[ask] += ask.needed
        return True

    def fits(self, ask: Ask) -> bool:
        """Whether all that it needs would find a place as things lie."""
        if ask.needed == 1:
            return self.packing.fits(ask.need)
        return self.packing.room_for(ask.need, ask.needed) == ask.needed

    def why_not(self, ask: Ask) -> str:
        """With the sums, where that is so."""
        found = self.packing.room_for(ask.need, ask.needed)
        if found == ask.needed:
            return AGAIN
        if found:
            return f"needs {asked_text(ask.need)}, and of the {ask.needed} that it starts with, {found} would find room"
        return why_not(self.packing, ask.need)


def _firm(ask: Ask) -> int:
    """Replicas of what serves that nobody else takes the place of: those that run and are to go on, and a first one.
    Routers wait for nobody."""
    return max(1, min(ask.running, ask.wanted)) if ask.model else ask.wanted


def _replica(ask: Ask) -> Replica:
    return Replica(ask.app, ask.label, ask.need)


def _waiting(ask: Ask, there: int, why: str, *, refused: bool) -> Waiting:
    return Waiting(ask.model, ask.label, ask.version, ask.wanted - there, ask.wanted, why, refused)


def _largest_first(asks: Iterable[tuple[Ask, int]]) -> list[tuple[Ask, Replica]]:
    """Replicas for which it is hardest to find a place come first, so that more find one."""
    ordered = sorted(asks, key=lambda each: (_ease(each[0].need), each[0].app))
    return [(ask, _replica(ask)) for ask, number in ordered for _ in range(number)]


def _ease(need: Need) -> tuple[float, ...]:
    return (
        -bool(need.accelerator),
        -need.whole,
        -need.gpus,
        -need.gpu_memory,
        -need.steady,
        -need.cpus,
        -need.memory,
    )


def _moved(room: Room, replicas: Sequence[Replica]) -> Packing | None:
    """All of them in other places, where each has one then."""
    if not _in_sum(room, replicas):
        return None
    packing = Packing(room)
    for replica in sorted(replicas, key=lambda each: (_ease(each.need), each.app)):
        if not packing.place(replica):
            return None
    return packing


def _in_sum(room: Room, replicas: Sequence[Replica]) -> bool:
    """Whether there is enough for all of them in sum, wherever it is."""
    needs = [replica.need for replica in replicas]
    workers = [(kind.worker, kind.most) for kind in room.kinds]
    return (
        sum(units(need.cpus) for need in needs) <= sum(most * units(each.cpus) for each, most in workers)
        and sum(units(need.gpus) for need in needs) <= sum(most * units(each.gpus) for each, most in workers)
        and sum(need.memory for need in needs) <= sum(most * each.memory for each, most in workers)
    )
