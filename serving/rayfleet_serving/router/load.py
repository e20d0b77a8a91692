"""The load of one version in one router, over the look-back period: what its replicas decide by how many they must be.

Routers hold the queue, so only they know it. Each second a router tells every replica that it is connected to what it
has seen (`link.frame.load`), and the replicas add up what all routers say (`model.scaling`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator

from rayfleet_serving.autoscaling.need import REFUSED
from rayfleet_serving.autoscaling.slots import SLOTS, Slots
from rayfleet_serving.config import latency_bucket
from rayfleet_serving.link.call import RouterLoad
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.router.coalescer import QueueFullError
from rayfleet_serving.router.pressure import NOTHING, Pressure
from rayfleet_serving.router.restraint import YieldedError

SETTLED_S = 5.0
"""A mean over less than this says little: a router that has just started takes what it has not seen for nothing."""
AREA = 0
"""Key of request-seconds."""
GONE = 499
OWN_FAULTS = frozenset({422, 429})
"""Client errors that tell of the version: its model raised, or it was too slow for what came."""
TOO_LATE = frozenset({429, 503, 504})
"""Answers of a version that was too slow: the time until then is not what an answer would have taken."""


class Load:
    """Requests that wait or are under way, and how long answers took. Not thread-safe: it belongs to the event loop.

    Latency is that of the replicas that there are: what fewer of them took says nothing about whether more are needed
    beside those that have come since. So with each change of their number, latencies begin anew, with the requests that
    come from then on.
    """

    def __init__(self, look_back_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ongoing = 0
        self._since = clock()
        self._area = 0.0
        """Request-seconds of the slot under way, until `_since`."""
        self._slot_ends = -math.inf
        self._slots: Slots | None = None
        self._latencies: Slots | None = None
        self._replicas = 0
        self._began = self._since
        """When latencies began to count."""
        self.look_back_s = look_back_s

    @property
    def look_back_s(self) -> float | None:
        """How long the time is that is looked at, in seconds; None where nobody asks. A new one begins anew."""
        return self._slots.period_s if self._slots is not None else None

    @look_back_s.setter
    def look_back_s(self, period: float | None) -> None:
        if period != self.look_back_s:
            self._since, self._area, self._slot_ends = self._clock(), 0.0, -math.inf
            self._slots = Slots(period, self._since) if period is not None else None
            self._begin_latencies(self._since)

    def asked(self, *, own_timeout: bool = False, pressure: Pressure | None = None) -> Asked:
        """A request, of which everything is here. To be entered until it is answered.

        `own_timeout`: its caller gives it less time than the model does. That it took longer then is known; that it was
        too slow is not. `pressure`: is told how it ended, too.
        """
        return Asked(self, own_timeout, pressure)

    @contextlib.contextmanager
    def copied(self) -> Iterator[None]:
        """A copy of another version's request waits or is under way: a load as any, and nobody's latency."""
        self._change(1, self._clock())
        try:
            yield
        finally:
            self._change(-1, self._clock())

    def refused(self) -> None:
        """A request was answered 429 before it began, because there are too many."""
        self._count(429, 0.0, self._clock(), False)

    def seen(self, replicas: int) -> RouterLoad | None:
        """What is told to the replicas, of which `replicas` are connected; None where nobody asks."""
        if self._slots is None or self._latencies is None:
            return None
        now = self._clock()
        self._change(0, now)
        self._keep()
        if replicas != self._replicas:
            self._replicas = replicas
            self._begin_latencies(now)
        counts = self._latencies.sums(now)
        over = max(self._slots.covered_s(now), min(SETTLED_S, self._slots.period_s * (1 - 1 / SLOTS)))
        ongoing = self._slots.sums(now).get(AREA, 0.0) / over
        return RouterLoad(ongoing, {bucket: round(count) for bucket, count in counts.items()}, replicas)

    def _begin_latencies(self, now: float) -> None:
        period = self.look_back_s
        self._latencies = Slots(period, now) if period is not None else None
        self._began = now

    def _count(self, status: int, seconds: float, now: float, own_timeout: bool) -> None:
        if self._latencies is None or (400 <= status < 500 and status not in OWN_FAULTS and status != GONE):
            return
        bucket = latency_bucket(seconds)
        if status in TOO_LATE:
            if own_timeout and status == 429:
                return
            bucket = bucket if own_timeout else REFUSED
        self._latencies.add(bucket, 1, now)

    def _change(self, more: int, now: float) -> None:
        """So many more requests from now on. Twice for each request, so what stays within one slot is kept here."""
        if now < self._slot_ends:
            self._area += self._ongoing * (now - self._since)
        elif self._slots is not None:
            self._keep()
            if self._ongoing:
                self._slots.spread(AREA, self._ongoing, self._since, now)
            self._slot_ends = self._slots.slot_end(now)
        self._since = now
        self._ongoing += more

    def _keep(self) -> None:
        if self._area and self._slots is not None:
            self._slots.add(AREA, self._area, self._since)
            self._area = 0.0


class Asked:
    """One request. A class, as a generator would cost each request as much as all the counting."""

    __slots__ = ("_began", "_load", "_own_timeout", "_pressure", "_valid")

    def __init__(self, load: Load, own_timeout: bool, pressure: Pressure | None) -> None:
        self._load = load
        self._own_timeout = own_timeout
        self._pressure = pressure
        self._valid = False

    def valid(self) -> None:
        """It is one that the model can be asked: from now on it waits or is under way. One that is not costs no model's
        time, and is to keep none awake."""
        self._valid = True
        self._load._change(1, self._load._clock())

    def __enter__(self) -> Asked:
        self._began = self._load._clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        load, now, status, own_timeout = self._load, self._load._clock(), 200, self._own_timeout
        if error is not None:
            status = 500
            if isinstance(error, YieldedError):
                status = NOTHING  # it asks for no more replicas of this model
            elif isinstance(error, RequestError):
                status = error.status
                # However long it would have waited.
                own_timeout = own_timeout and not isinstance(error, QueueFullError)
            elif isinstance(error, asyncio.CancelledError):
                status = GONE
        if self._valid:
            load._change(-1, now)
        if self._began >= load._began:
            load._count(status, now - self._began, now, own_timeout)
        if self._pressure is not None and self._pressure.on:
            self._pressure.ended(status, now - self._began, own_timeout=own_timeout)
