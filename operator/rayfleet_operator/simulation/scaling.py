"""How many replicas there should be, decided once a second by what routers and replicas have seen."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rayfleet_operator.simulation.ledger import Ledger
from rayfleet_operator.simulation.replica import Replica
from rayfleet_serving.autoscaling.delays import Delays, Pace
from rayfleet_serving.autoscaling.need import Goal, Load, Need, held, need

INTERVAL_S = 1.0
"""Between decisions. Serve decides ten times as often, on counts that it gets once a second."""
LAG_S = 2.0
"""Routers tell replicas once a second, and replicas tell Serve; a step load on a real fleet counted 1.9 s later."""
SETTLED_S = 5.0
"""As in `rayfleet_serving.router.load`: a mean over less than this takes what is not there for nothing."""
BUSY_S = 10.0
"""As in `rayfleet_serving.model.scaling`: over how long the busy share of a replica is taken."""


def unscheduled(now: float) -> tuple[int, str]:
    """Where no schedule is ever on."""
    return 0, ""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """When replicas come and go."""

    goal: Goal
    pace: Pace
    look_back_s: float = 30.0
    lag_s: float = LAG_S
    """From what routers see until it counts for a decision."""
    scheduled: Callable[[float], tuple[int, str]] = unscheduled
    """Replicas that a schedule asks for, and its name, at a time in seconds from the beginning of the run; 0 for none.
    """


def fixed(replicas: int) -> Scaling:
    """Always so many."""
    return Scaling(goal=Goal(ongoing=1.0), pace=Pace(least=replicas, most=replicas))


class LookBack:
    """What routers and replicas tell of the last seconds, whole intervals at a time.

    `within_s` is the latency target, which says how full batches may be.
    """

    def __init__(self, ledger: Ledger, seconds: float, within_s: float) -> None:
        self._ledger = ledger
        self._seconds = seconds
        self._within_s = within_s
        length = max(1, round(seconds / INTERVAL_S))
        self._open_s: deque[tuple[float, float]] = deque([(0.0, 0.0)], maxlen=length + 1)
        """Time, and request-seconds until then."""
        self._latency: dict[int, int] = {}
        self._latencies: deque[dict[int, int]] = deque()
        self._length = length
        self._replicas = 0
        self._work: dict[Replica, deque[tuple[float, float, int, float]]] = {}
        """Time, seconds for which the replica had computed by then, and rows and seconds of the batches that ended."""

    def load(self, running: Sequence[Replica], now: float) -> Load:
        """To be asked once at the end of each interval. Of the shares, those of the replica that has most to do: each
        says what is needed by its own, and the largest number counts."""
        self._open_s.append((now, self._ledger.open.sum(now)))
        began, before = self._open_s[0]
        over = max(now - began, min(SETTLED_S, self._seconds))
        ongoing = (self._open_s[-1][1] - before) / over
        self._count(self._ledger.take_latency())
        if len(running) != self._replicas:
            # Latency is that of the replicas that there are.
            self._replicas = len(running)
            self._ledger.counts_from = now
            self._latency.clear()
            self._latencies.clear()
        shares = [self._shares(replica, now) for replica in running]
        busy, used, proven = (max(each) for each in zip(*shares, strict=True)) if shares else (0.0, 0.0, 0.0)
        return Load(ongoing=ongoing, latency=self._latency, busy=busy, used=used, proven=proven)

    def _count(self, newest: dict[int, int]) -> None:
        for bucket, count in newest.items():
            self._latency[bucket] = self._latency.get(bucket, 0) + count
        self._latencies.append(newest)
        if len(self._latencies) > self._length:
            for bucket, count in self._latencies.popleft().items():
                self._latency[bucket] -= count
                if not self._latency[bucket]:
                    del self._latency[bucket]

    def _shares(self, replica: Replica, now: float) -> tuple[float, float, float]:
        """For how much of the time it computed, and for how much it would have had to in fuller batches: in any, and in
        such as there were lately."""
        marks = self._work.setdefault(replica, deque(maxlen=round(BUSY_S / INTERVAL_S) + 1))
        if not marks:
            marks.append((replica.began, 0.0, 0, 0.0))
        marks.append((now, replica.busy.sum(now), replica.rows, replica.rows_s))
        passed, busy_s, rows, rows_s = (new - old for new, old in zip(marks[-1], marks[0], strict=True))
        if passed <= 0:
            return 0.0, 0.0, 0.0
        if not rows_s:
            rows, rows_s = replica.newest
        busy, curve = min(1.0, busy_s / passed), replica.curve

        def used(row_s: float | None) -> float:
            return busy if row_s is None or not rows_s else busy * min(1.0, rows * row_s / rows_s)

        within_s = self._within_s
        return (
            busy,
            used(curve.seconds_for_a_row(within_s, now)),
            used(curve.seconds_for_a_row(within_s, now, proven=True)),
        )

    def forget(self, replica: Replica) -> None:
        """It does not run any more."""
        self._work.pop(replica, None)


class Scaler:
    """Follows the load with the number of replicas that there should be."""

    def __init__(self, scaling: Scaling, ledger: Ledger) -> None:
        self.scaling = scaling
        self.need = Need(0, "")
        """What was needed at the last decision, before bounds and delays."""
        target_s = scaling.goal.latency_s
        self.look_back = LookBack(ledger, scaling.look_back_s, math.inf if target_s is None else target_s)
        self._ledger = ledger
        self._delays = Delays(scaling.pace)
        self._told: deque[Need] = deque(maxlen=round(scaling.lag_s / INTERVAL_S) + 1)
        """What was needed at the last intervals; the first one is what is known by now."""

    def first(self) -> int:
        """Replicas to begin with."""
        return self._bounded(0.0).least

    def decide(self, target: int, running: Sequence[Replica], now: float) -> int:
        """Replicas that there should be from now on, where until now there should have been `target`."""
        load = self.look_back.load(running, now)
        self._delays.pace = self._bounded(now)
        if running:
            self._told.append(need(load, self.scaling.goal, len(running)))
        else:
            self._told.clear()
        if len(self._told) == self._told.maxlen:
            self.need = self._told[0]
        elif target:
            # As long as nobody says what is needed, all stays as it is.
            self.need = Need(target, "nothing is known yet")
        else:
            waiting = self._ledger.open.now
            requests = "1 request waits" if waiting == 1 else f"{waiting} requests wait"
            self.need = Need(min(waiting, 1), f"{requests} for the first replica")
        return self._delays.decide(held(self.need.replicas, target, stays=self.need.stays), target, now)

    def reason(self, wanted: int, now: float) -> str:
        """Why there should be `wanted` replicas, in the words of a model's status."""
        pace, (_, name) = self._bounded(now), self.scaling.scheduled(now)
        if self.need.replicas < wanted == pace.least:
            return f"schedule {name}" if pace.least > self.scaling.pace.least else "no fewer are allowed"
        if self.need.replicas > wanted == pace.most:
            return f"{self.need.reason}; no more than {wanted} are allowed"
        return self.need.reason

    def _bounded(self, now: float) -> Pace:
        """The pace with the schedules' lower bound."""
        pace = self.scaling.pace
        scheduled = min(self.scaling.scheduled(now)[0], pace.most)
        return replace(pace, least=scheduled) if scheduled > pace.least else pace
