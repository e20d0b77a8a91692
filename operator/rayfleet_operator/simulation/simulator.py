"""One run: requests arrive, routers and replicas answer them, replicas come and go."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rayfleet_operator.simulation.events import Events
from rayfleet_operator.simulation.ledger import Ledger
from rayfleet_operator.simulation.replica import Device, Replica
from rayfleet_operator.simulation.router import Router, Rules
from rayfleet_operator.simulation.scaling import INTERVAL_S, Scaler, Scaling


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What requests are replayed against."""

    rules: Rules
    scaling: Scaling
    service: Callable[[int], float]
    """Seconds of a batch, by its rows."""
    max_wait_s: float = 0.005
    request_timeout_s: float = 30.0
    hop_s: float = 0.0
    """What a lone request takes beside its batch. Nearly all of it lies between its caller and its router, HTTP and
    decoding, so no call waits for it: between a router and a replica a call is there in a fraction of a millisecond."""
    start_up_s: float = 0.0
    """From the decision for a replica until it is sent requests."""


@dataclass(kw_only=True)
class Run:
    """What happened. Times in seconds from the beginning."""

    arrivals: Sequence[float]
    outcomes: bytearray
    """An `Outcome` for each arrival."""
    seconds: array[float]
    """From each arrival to its end; 0 for what was refused as it arrived."""
    times: array[float] = field(default_factory=lambda: array("d"))
    """Of the decisions about replicas, one an interval; the following are of the same moments."""
    needed: array[int] = field(default_factory=lambda: array("q"))
    """Replicas, before bounds and delays."""
    wanted: array[int] = field(default_factory=lambda: array("q"))
    """Replicas, from this moment on."""
    running: array[int] = field(default_factory=lambda: array("q"))
    """Replicas that were sent requests, at this moment."""
    paid_s: array[float] = field(default_factory=lambda: array("d"))
    """Replica-seconds until then."""
    busy_s: array[float] = field(default_factory=lambda: array("d"))
    """Of these, seconds in which a batch ran."""
    changes: list[tuple[float, int, int, str]] = field(default_factory=list)
    """Time, replicas before and after, and the reason, of each change of what is wanted."""

    @property
    def end(self) -> float:
        """When the run was over."""
        return self.times[-1]

    @property
    def replica_seconds(self) -> float:
        """Time for which replicas took up their resources."""
        return self.paid_s[-1]


def simulate(
    arrivals: Sequence[float], setup: Setup, *, rows: Sequence[int] | None = None, lasts_s: float = 0.0
) -> Run:
    """Replay requests until all have ended.

    Args:
        arrivals: seconds from the beginning, ascending.
        setup: the model, its routers and its policy.
        rows: of each request; None: one each.
        lasts_s: the run goes on at least until then.
    """
    return _Simulation(arrivals, rows, setup).run(lasts_s)


class _Simulation:
    def __init__(self, arrivals: Sequence[float], rows: Sequence[int] | None, setup: Setup) -> None:
        self._setup = setup
        self._events = Events()
        self._ledger = ledger = Ledger(arrivals, rows, setup.request_timeout_s, setup.hop_s)
        self._device = Device(setup.service, setup.rules.max_batch_size, setup.max_wait_s)
        self._routers = [Router(ledger, setup.rules) for _ in range(setup.rules.routers)]
        self._turn = 0
        self._router_of = bytearray(len(arrivals))
        self._scaler = Scaler(setup.scaling, ledger)
        self._wanted = 0
        self._started = 0
        self._starting: dict[int, None] = {}
        """Numbers of replicas that are not ready, oldest first."""
        self._running: list[Replica] = []
        """Oldest first."""
        self._leaving: list[Replica] = []
        self._run = Run(arrivals=arrivals, outcomes=ledger.outcomes, seconds=ledger.seconds)

    def run(self, lasts_s: float) -> Run:
        # The first ones are there before the first request.
        self._wanted = self._scaler.first()
        self._ledger.paid.add(self._wanted, 0.0)
        for _ in range(self._wanted):
            self._join(0.0)
        self._sample(0.0)
        ledger, events, arrivals = self._ledger, self._events, self._run.arrivals
        outcomes, timeout_s = ledger.outcomes, self._setup.request_timeout_s
        count, coming, expiring, tick = len(arrivals), 0, 0, INTERVAL_S
        next_arrival = arrivals[0] if count else math.inf
        next_expiry = math.inf if not count else arrivals[0] + timeout_s
        while True:
            next_event = events.next
            now = min(next_event, next_expiry, next_arrival, tick)
            if now == next_event:
                # First of all: an answer at the last moment is one.
                events.happen()
            elif now == next_expiry:
                if not outcomes[expiring]:
                    self._routers[self._router_of[expiring]].expire(expiring, now)
                expiring += 1
                next_expiry = arrivals[expiring] + timeout_s if expiring < count else math.inf
            elif now == next_arrival:
                self._arrive(coming, now)
                coming += 1
                next_arrival = arrivals[coming] if coming < count else math.inf
            else:
                self._decide(now)
                if now >= lasts_s and coming == count and not ledger.open.now:
                    return self._run
                tick += INTERVAL_S

    def _arrive(self, request: int, now: float) -> None:
        """HAProxy gives it to the router that has the fewest, and of those to the next in turn."""
        routers = self._routers
        self._turn = chosen = (self._turn + 1) % len(routers)
        for number, router in enumerate(routers):
            if router.held < routers[chosen].held:
                chosen = number
        self._router_of[request] = chosen
        routers[chosen].arrive(request, now)

    def _decide(self, now: float) -> None:
        before = self._wanted
        self._wanted = self._scaler.decide(before, self._running, now)
        if self._wanted != before:
            self._run.changes.append((now, before, self._wanted, self._scaler.reason(self._wanted, now)))
        for _ in range(before, self._wanted):
            self._start(now)
        for _ in range(self._wanted, before):
            self._stop(now)
        gone = [replica for replica in self._leaving if not replica.calls]
        if gone:
            self._leaving = [replica for replica in self._leaving if replica.calls]
            self._ledger.paid.add(-len(gone), now)
        self._sample(now)

    def _start(self, now: float) -> None:
        self._started += 1
        self._starting[self._started] = None
        self._ledger.paid.add(1, now)
        self._events.at(now + self._setup.start_up_s, self._ready, self._started)

    def _ready(self, number: int, now: float) -> None:
        if number in self._starting:
            del self._starting[number]
            self._join(now)

    def _join(self, now: float) -> None:
        replica = Replica(self._ledger, self._events, self._device, now)
        self._running.append(replica)
        self._ledger.running.add(1, now)
        for router in self._routers:
            router.join(replica, now)

    def _stop(self, now: float) -> None:
        """As Serve chooses: one that is not ready, else the newest."""
        if self._starting:
            self._starting.popitem()
            self._ledger.paid.add(-1, now)
            return
        replica = self._running.pop()
        self._ledger.running.add(-1, now)
        for router in self._routers:
            router.leave(replica)
        self._scaler.look_back.forget(replica)
        self._leaving.append(replica)

    def _sample(self, now: float) -> None:
        run, ledger = self._run, self._ledger
        run.times.append(now)
        run.needed.append(self._scaler.need.replicas)
        run.wanted.append(self._wanted)
        run.running.append(ledger.running.now)
        run.paid_s.append(ledger.paid.sum(now))
        run.busy_s.append(ledger.computing.sum(now))
