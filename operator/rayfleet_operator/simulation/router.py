"""One simulated router: the rules of `rayfleet_serving.router.coalescer`, for requests of one kind.

While calls are in flight, arrivals wait and leave together in the next one. `CALLS_PER_REPLICA * replicas / routers`
calls may be in flight, rounded up. Too many requests are refused, and who cannot be answered in time (429); what would
be answered after its deadline is given up (504).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from rayfleet_operator.simulation.ledger import Ledger, Outcome
from rayfleet_operator.simulation.replica import Flight, Replica

CALLS_PER_REPLICA = 2
"""As in the coalescer: one call for each replica to run, and one to go on with."""
REMEMBERED_CALLS = 8
"""As in the coalescer: requests are given up for want of time by the quickest of so many calls."""
FREE_LARGE_CALLS = 2
"""As in the coalescer: so many calls that hold one request of several batches do not count."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the routers keep to."""

    routers: int = 2
    max_batch_size: int = 32
    max_ongoing_requests: int = 100
    """Handed to one replica at a time."""
    max_queued_requests: int = 400
    """That may wait in one router."""


@dataclass(slots=True, eq=False)
class Link:
    """A router's way to one replica."""

    replica: Replica
    ongoing: int = 0
    """Calls of this router."""


class Router:
    """The queue of one version in one router."""

    def __init__(self, ledger: Ledger, rules: Rules) -> None:
        self._ledger = ledger
        self._rules = rules
        self._links: list[Link] = []
        self._queue: deque[int] = deque()
        self._queued_rows = 0
        self._flight_of: dict[int, Flight] = {}
        self._ongoing = 0
        self._calls = 0
        self._large_calls = 0
        self._calls_s: deque[float] = deque(maxlen=REMEMBERED_CALLS)
        self.held = 0
        """Requests that are here: waiting or under way."""

    def arrive(self, request: int, now: float) -> None:
        """A request is there: it is refused, or waits and is sent."""
        most = self._rules.max_queued_requests
        if self.held >= most + self._ongoing_limit(max(1, len(self._links))) or (
            len(self._queue) >= most and not self._can_send()
        ):
            self._ledger.refuse(request)
            return
        # What may leave has left: where somebody waits, this one has to wait, too.
        if self._queue and self._ledger.timeout_s < self._expected_s():
            self._ledger.refuse(request)
            return
        self._ledger.open.add(1, now)
        self.held += 1
        self._queue.append(request)
        self._queued_rows += self._ledger.size(request)
        self._send(now)

    def expire(self, request: int, now: float) -> None:
        """The deadline of a request has passed that is still open here."""
        self._end(request, Outcome.LATE if self._links else Outcome.UNAVAILABLE, now)
        flight = self._flight_of.pop(request, None)
        if flight is None:
            # All have the same time from their arrival on, so it is the one that has waited longest.
            self._queue.popleft()
            self._queued_rows -= self._ledger.size(request)
            return
        flight.open -= 1
        if flight.open == 0:
            flight.cancelled = True
            self._away(flight, now)

    def join(self, replica: Replica, now: float) -> None:
        """A replica runs from now on."""
        self._links.append(Link(replica))
        self._send(now)

    def leave(self, replica: Replica) -> None:
        """A replica is sent nothing more."""
        self._links = [link for link in self._links if link.replica is not replica]

    def landed(self, flight: Flight, now: float) -> None:
        """A call is answered."""
        if flight.cancelled:
            return
        for request in flight.requests:
            if self._flight_of.pop(request, None) is not None:
                self._end(request, Outcome.ANSWERED, now)
        if not flight.large:
            self._calls_s.append(now - flight.sent_at)
        self._away(flight, now)

    def _away(self, flight: Flight, now: float) -> None:
        self._calls -= 1
        self._large_calls -= flight.large
        self._ongoing -= len(flight.requests)
        flight.link.ongoing -= 1
        flight.link.replica.calls -= 1
        self._send(now)

    def _end(self, request: int, outcome: Outcome, now: float) -> None:
        self.held -= 1
        self._ledger.end(request, outcome, now)

    def _ongoing_limit(self, replicas: int) -> int:
        return max(1, self._rules.max_ongoing_requests * replicas // self._rules.routers)

    def _most_calls(self, replicas: int) -> int:
        return math.ceil(CALLS_PER_REPLICA * replicas / self._rules.routers)

    def _can_send(self) -> bool:
        replicas = len(self._links)
        calls = self._calls - min(FREE_LARGE_CALLS, self._large_calls)
        return replicas > 0 and calls < self._most_calls(replicas) and self._ongoing < self._ongoing_limit(replicas)

    def _expected_s(self) -> float:
        """As in the coalescer: seconds until a request that comes now is answered, at the least; 0 where that is not
        known."""
        replicas = len(self._links)
        if not replicas or len(self._calls_s) < REMEMBERED_CALLS:
            return 0.0
        most = max(1, min(self._rules.max_batch_size, self._ongoing_limit(replicas)))
        return min(self._calls_s) * (1 + math.floor(self._queued_rows / most / self._most_calls(replicas)))

    def _send(self, now: float) -> None:
        while self._queue and self._can_send():
            requests, rows = self._take(self._ongoing_limit(len(self._links)) - self._ongoing, now)
            if not requests:
                continue
            link = self._next()
            large = rows > self._rules.max_batch_size
            flight = Flight(self, link, requests, rows, now, large, len(requests))
            for request in requests:
                self._flight_of[request] = flight
            self._calls += 1
            self._large_calls += large
            self._ongoing += len(requests)
            link.ongoing += 1
            link.replica.calls += 1
            link.replica.arrive(flight, now)

    def _next(self) -> Link:
        """The one with the fewest calls; of several, the one that was sent to longest ago, which stands first."""
        links = self._links
        if len(links) == 1:
            return links[0]
        link = min(links, key=_calls)
        links.remove(link)
        links.append(link)
        return link

    def _take(self, most: int, now: float) -> tuple[list[int], int]:
        """The oldest request and those behind it, up to the batch limit, and their rows; gives up those whose time is
        shorter than a call takes, but for the last."""
        queue, ledger = self._queue, self._ledger
        limit = self._rules.max_batch_size
        too_late = now + (min(self._calls_s) if len(self._calls_s) == REMEMBERED_CALLS else 0.0)
        requests: list[int] = []
        rows = 0
        while queue and len(requests) < most:
            request = queue[0]
            if ledger.deadline(request) < too_late and len(queue) > 1:
                self._end(request, Outcome.LATE, now)
            else:
                size = ledger.size(request)
                if requests and rows + size > limit:
                    break
                rows += size
                requests.append(request)
            queue.popleft()
            self._queued_rows -= ledger.size(request)
        return requests, rows


def _calls(link: Link) -> int:
    return link.ongoing
