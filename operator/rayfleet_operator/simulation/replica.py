"""One simulated replica: the rules of `rayfleet_serving.model.batcher`, for calls of one kind.

One batch at a time; whatever waits when it returns runs next, up to the batch limit. An idle device waits up to
`max_wait_s` for a fuller batch where that is expected to pay. A request of more rows than a batch may have runs in
pieces, and between two pieces a batch of others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayfleet_operator.simulation.events import Events
from rayfleet_operator.simulation.ledger import Ledger, Level
from rayfleet_serving.autoscaling.curve import Curve

if TYPE_CHECKING:
    from rayfleet_operator.simulation.router import Link, Router

SMOOTHING = 0.2
"""As in the batcher: weight of the newest batch in the running means."""


@dataclass(slots=True, eq=False)
class Flight:
    """One call of a router to a replica, and the requests in it."""

    router: Router
    link: Link
    requests: list[int]
    rows: int
    sent_at: float
    large: bool
    """It holds a single request, of more rows than a batch may have."""
    open: int
    """Requests that somebody still waits for."""
    left: int = 0
    """Requests that the replica has not settled."""
    next: int = 0
    """First request not yet taken into a batch."""
    rows_done: int = 0
    """Of a large one."""
    cancelled: bool = False


@dataclass(slots=True)
class Device:
    """What one replica is."""

    service: Callable[[int], float]
    """Seconds of a batch by its rows."""
    limit: int
    """Most rows of a batch."""
    max_wait_s: float


class Replica:
    """A replica that is ready."""

    def __init__(self, ledger: Ledger, events: Events, device: Device, now: float) -> None:
        self.calls = 0
        """On their way to it, in it, or on their way back."""
        self.began = now
        self.busy = Level(now)
        """1 while a batch runs."""
        self.rows = 0
        """That it has computed."""
        self.rows_s = 0.0
        """Seconds that it has computed them for."""
        self.newest = (0, 0.0)
        """Rows and seconds of the newest batch."""
        self.curve = Curve()
        self._ledger = ledger
        self._events = events
        self._device = device
        self._queue: deque[Flight] = deque()
        self._queued_rows = 0
        self._large: deque[Flight] = deque()
        self._working = False
        self._waits = 0
        """Waits for a fuller batch that there were; the last one is under way while `_waiting`."""
        self._waiting = False
        self._batch: list[tuple[Flight, int]] = []
        self._rows = 0
        """Rows of the batch that runs."""
        self._piece: Flight | None = None
        """The large call of which a piece runs."""
        self._begun = 0.0
        self._compute_s = self._rows_per_s = 0.0
        self._arrived_rows = 0
        self._measured_at = now
        for rows in {min(2**power, device.limit) for power in range(device.limit.bit_length() + 1)}:
            # As it is warmed up.
            self.curve.guess(rows, device.service(rows))

    def arrive(self, flight: Flight, now: float) -> None:
        """A call is there."""
        flight.left = len(flight.requests)
        self._queue.append(flight)
        self._queued_rows += flight.rows
        self._arrived_rows += flight.rows
        if not self._working:
            self._working = True
            self._go_on(now)
        elif self._waiting and not self._worth_waiting():
            self._waiting = False
            self._run(now)

    def _go_on(self, now: float) -> None:
        """The device is free: wait for a fuller batch, or run what is here."""
        if self._queue and not self._large and self._device.max_wait_s > 0 and self._worth_waiting():
            self._waits += 1
            self._waiting = True
            self._events.at(now + self._device.max_wait_s, self._waited, self._waits)
        else:
            self._run(now)

    def _waited(self, wait: int, now: float) -> None:
        if self._waiting and wait == self._waits:
            self._waiting = False
            self._run(now)

    def _worth_waiting(self) -> bool:
        """As in the batcher, whose docstring has the argument: rows / rate < compute."""
        worth = min(self._device.limit, self._rows_per_s * self._compute_s)
        return worth >= 1 and self._queued_rows < worth

    def _run(self, now: float) -> None:
        """Begin the next batch, or the next piece, or rest."""
        while self._queue:
            rows = self._take(now)
            if rows > self._device.limit:
                ((flight, _),) = self._batch
                self._batch = []
                self._large.append(flight)
                break
            if rows:
                self._begin(rows, now)
                return
        self._run_piece(now)

    def _run_piece(self, now: float) -> None:
        while self._large:
            flight = self._large[0]
            if flight.cancelled:
                self._large.popleft()
                continue
            self._piece = flight
            self._begin(min(self._device.limit, flight.rows - flight.rows_done), now)
            return
        if self._queue:
            self._go_on(now)
        else:
            self._working = False

    def _begin(self, rows: int, now: float) -> None:
        self._rows, self._begun = rows, now
        self.busy.add(1, now)
        self._ledger.computing.add(1, now)
        self._events.at(now + self._device.service(rows), self._ran, None)

    def _ran(self, _: None, now: float) -> None:
        self.busy.add(-1, now)
        self._ledger.computing.add(-1, now)
        self.rows += self._rows
        self.newest = self._rows, now - self._begun
        self.rows_s += now - self._begun
        self.curve.measured(self._rows, now - self._begun, now)
        self._measure(now)
        flight = self._piece
        if flight is None:
            batch, self._batch = self._batch, []
            for each, requests in batch:
                self._settle(each, requests, now)
            if self._large:
                self._run_piece(now)
                return
        else:
            self._piece = None
            flight.rows_done += self._rows
            if flight.rows_done >= flight.rows:
                self._large.popleft()
                self._settle(flight, 1, now)
        if self._queue or self._large:
            self._go_on(now)
        else:
            self._working = False

    def _measure(self, now: float) -> None:
        rate = self._arrived_rows / max(now - self._measured_at, 1e-6)
        self._arrived_rows, self._measured_at = 0, now
        self._rows_per_s += SMOOTHING * (rate - self._rows_per_s)
        self._compute_s += SMOOTHING * (now - self._begun - self._compute_s)

    def _take(self, now: float) -> int:
        """Take requests from the head of the queue into `_batch`, up to the limit, and give up those whose time ran
        out; returns their rows. A request that alone is over the limit is taken alone."""
        queue, limit, batch, rows = self._queue, self._device.limit, self._batch, 0
        while queue and rows < limit:
            flight = queue[0]
            if flight.cancelled:
                self._queued_rows -= sum(map(self._ledger.size, flight.requests[flight.next :]))
                queue.popleft()
                continue
            taken, added, full = self._take_from(flight, rows, now)
            rows += added
            if taken:
                batch.append((flight, taken))
            if full:
                break
            queue.popleft()
        return rows

    def _take_from(self, flight: Flight, rows: int, now: float) -> tuple[int, int, bool]:
        """How many requests of a call join a batch of `rows`, how many rows those have, and whether it is full."""
        ledger, limit = self._ledger, self._device.limit
        requests, first = flight.requests, flight.next
        # Those of one call come in the order of their deadlines.
        if ledger.rows is None and ledger.deadline(requests[first]) >= now:
            taken = min(len(requests) - first, limit - rows)
            flight.next += taken
            self._queued_rows -= taken
            return taken, taken, flight.next < len(requests)
        taken = added = expired = 0
        full = False
        while flight.next < len(requests):
            request = requests[flight.next]
            size = ledger.size(request)
            if ledger.deadline(request) < now:
                expired += 1
            elif rows + added and rows + added + size > limit:
                full = True
                break
            else:
                taken += 1
                added += size
            flight.next += 1
            self._queued_rows -= size
        if expired:
            self._settle(flight, expired, now)
        return taken, added, full

    def _settle(self, flight: Flight, requests: int, now: float) -> None:
        flight.left -= requests
        if flight.left == 0:
            # Not in this moment: the next batch begins with what is here, before the router can send more.
            self._events.at(now, flight.router.landed, flight)
