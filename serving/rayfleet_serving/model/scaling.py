"""What one replica says of how many there must be: the loads that all routers told it, and its own share of busy time.

Each replica hears of the whole load, so each comes to nearly the same number; the policy takes the largest.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from rayfleet_serving.autoscaling import stats
from rayfleet_serving.autoscaling.curve import Curve
from rayfleet_serving.autoscaling.need import Goal, Load, Need, need, percentile
from rayfleet_serving.autoscaling.slots import Slots
from rayfleet_serving.config import Autoscaling, Wanted
from rayfleet_serving.link.call import RouterLoad

SILENT_S = 4.0
"""A router that has told nothing for so long is not counted: it tells once a second. Too long, and the load of one that
is gone counts; too short, and the load of one that is busy does not."""
FRESH_S = 0.5
"""How long a number holds before it is worked out anew: many routers ask for it each second."""
BUSY_S = 10.0
"""Over how long the busy share is taken."""
BUSY, ROWS, SECONDS = 0, 1, 2


@dataclass(frozen=True)
class Signal:
    """What the number follows, for metrics."""

    load: Load
    replicas: int
    latency_s: float | None
    """At the percentile that has a target, or the 99th. None of too few requests."""
    need: Need


class Scaling:
    """One replica's view. Not thread-safe: it belongs to the event loop."""

    def __init__(self, busy_s: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        """`busy_s` tells for how many seconds the model has computed until now, with the call that is under way: one
        that takes long is busy time long before it ends."""
        self._clock = clock
        self._busy_s = busy_s
        self._looked: tuple[float, float] | None = None
        """When `busy_s` was last asked, and what it said. What it counted before the first time was warming up."""
        self._goal: Autoscaling | None = None
        self._told: dict[object, tuple[float, RouterLoad]] = {}
        self._work = Slots(BUSY_S, clock())
        self._batches = Slots(BUSY_S, clock())
        """Those that were answered as a whole."""
        self._newest = (0.0, 0.0)
        """Rows and seconds of the last one of these."""
        self.curve = Curve()
        self._last: tuple[float, Signal | None] | None = None

    def configure(self, goal: Autoscaling | None) -> None:
        """What to keep to from now on; None: the number of replicas is fixed."""
        self._goal, self._last = goal, None

    def computed(self, rows: int, seconds: float, *, whole: bool) -> None:
        """The model has just computed so many rows for so long; `whole`, where it answered all of them. What raised at
        once, or was given up, says nothing about what the model can do."""
        if not whole:
            return
        now = self._clock()
        self._batches.add(ROWS, rows, now)
        self._batches.add(SECONDS, seconds, now)
        self._newest = rows, seconds
        self.curve.measured(rows, seconds, now)

    def told(self, router: object, load: RouterLoad) -> Wanted | None:
        """Take what a router has seen; answer how many replicas there must be, where that is known."""
        self._told[router] = self._clock(), load
        signal = self.signal()
        return Wanted(replicas=signal.need.replicas, reason=signal.need.reason) if signal is not None else None

    def gone(self, router: object) -> None:
        """The router is not connected any more. What it held is counted by those that have it now."""
        self._told.pop(router, None)

    def signal(self) -> Signal | None:
        """None where the number is fixed, or no router tells anything just now."""
        now = self._clock()
        if self._last is None or now - self._last[0] >= FRESH_S:
            self._last = now, self._signal(now)
        return self._last[1]

    def stats(self) -> dict[str, float]:
        """For Serve, which hands it to the policy; empty where nothing is known, and all stays as it is."""
        signal, goal = self.signal(), self._goal
        if signal is None or goal is None:
            return {}
        return {
            stats.WANTED: float(signal.need.replicas),
            stats.STAYS: float(signal.need.stays),
            stats.STEP_UP: float(goal.upscale_step or 0),
            stats.STEP_DOWN: float(goal.downscale_step or 0),
        }

    def _signal(self, now: float) -> Signal | None:
        heard = [load for at, load in self._told.values() if now - at <= SILENT_S]
        if self._goal is None or not heard:
            return None
        latency: Counter[int] = Counter()
        for each in heard:
            latency.update(each.latency)
        goal, busy = self._goal, self._busy(now)
        within_s = math.inf if goal.latency_s is None else goal.latency_s
        load = Load(
            ongoing=sum(each.ongoing for each in heard),
            latency=latency,
            busy=busy,
            used=self._used(busy, self.curve.seconds_for_a_row(within_s, now), now),
            proven=self._used(busy, self.curve.seconds_for_a_row(within_s, now, proven=True), now),
        )
        replicas = max(each.replicas for each in heard)
        wanted = need(
            load,
            Goal(ongoing=goal.target_ongoing_requests, percentile=goal.percentile, latency_s=goal.latency_s),
            replicas,
        )
        return Signal(load, replicas, percentile(latency, goal.percentile), wanted)

    def _busy(self, now: float) -> float:
        """For how much of the time the model computed."""
        total = self._busy_s()
        if self._looked is None:
            self._work = Slots(BUSY_S, now)
        elif now > self._looked[0]:
            since, before = self._looked
            # It is counted in another thread: what a call that just ends was counted twice, the next look takes off.
            self._work.spread(BUSY, (total - before) / (now - since), since, now)
        self._looked = now, total
        return max(0.0, min(1.0, self._work.sums(now).get(BUSY, 0.0) / self._work.covered_s(now)))

    def _used(self, busy: float, row_s: float | None, now: float) -> float | None:
        """For how much of the time it would have computed at `row_s` for each row; None where that is not known."""
        if row_s is None:
            return None
        sums = self._batches.sums(now)
        # A batch may take longer than the time that is looked at.
        rows, seconds = (sums[ROWS], sums[SECONDS]) if sums else self._newest
        return busy * min(1.0, rows * row_s / seconds) if seconds else busy
