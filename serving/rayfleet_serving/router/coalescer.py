"""Requests for one version travel together: while a call is in flight, arrivals pile up and leave in the next.

The inter-process hop is paid once for each batch instead of once for each request. How many calls may be in flight
follows the model's running replicas, so that every replica has one call to run and one to go on with:
`ceil(2 * replicas / routers)` for each router. Fewer would let a replica wait for the hop; more would make batches
small.

Nothing is sent while no replica runs: requests wait here, where their deadline and their client still count. A request
with less time left than a call takes is not sent while others wait behind it: under overload, answering the oldest
first would answer everybody too late. For the same reason a request that cannot be answered in time is refused as it
comes, by what the queue before it and the newest calls say: who is told at once can go elsewhere.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from rayfleet_serving.config import Limits
from rayfleet_serving.link.call import Call, Kind, Reply, Timing, kind_of
from rayfleet_serving.link.client import ReplicaLostError
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult, RequestError
from rayfleet_serving.router.packing import Item, late, pack, unpack

MAX_CALL_BYTES = 8 * 1024 * 1024
"""Requests stop joining a call here: beyond it a call costs by its bytes, and waiting for more saves nothing."""

REMEMBERED_CALLS = 8
"""Requests are given up for want of time by what the quickest of so many calls took: one stall says nothing."""

FREE_LARGE_CALLS = 2
"""A call that holds one request of several batches takes as long as several calls. Beside so many of them, the usual
number of calls may be in flight: others have their turn between the pieces of such a request."""

LOOK_S = 0.05
"""How often a queue that waits looks whether more may leave: a replica that joined, or a raised limit, wakes nobody."""


class QueueFullError(RequestError):
    """429: there are too many, however long this one could have waited."""


@dataclass(slots=True, eq=False)
class _Flight:
    """One call on its way, and the requests in it."""

    items: list[Item]
    sent_at: float
    large: bool
    """It holds a single request, of more rows than a batch may have."""
    task: asyncio.Task[None] | None = None
    open: int = field(default=0)
    """Requests still waited for: with none left, the call is cancelled."""


class Coalescer:
    """The queue of one version in one router.

    `call` sends one call to some replica and raises `ReplicaLostError`; `replicas` tells how many there are now.
    `infer` raises `RequestError`: 429 for a full queue and where it would take too long, 504 past the deadline, 503
    while the version has no replica, 422 for an input on which the model itself raises.
    """

    def __init__(
        self,
        call: Callable[[Call], Awaitable[Reply]],
        replicas: Callable[[], int],
        *,
        name: str,
        limits: Limits,
        max_batch_size: int,
        routers: int,
    ) -> None:
        self.name = name
        self.limits = limits
        self.max_batch_size = max_batch_size
        self.routers = routers
        self._call = call
        self._replicas = replicas
        self._queues: dict[Kind, deque[Item]] = {}
        self._queued = 0
        self._queued_rows = 0
        self._ongoing = 0
        self._flights: set[_Flight] = set()
        self._lost = False
        """A replica was lost and none has answered since."""
        self._calls_s: deque[float] = deque(maxlen=REMEMBERED_CALLS)
        """What the newest calls took: the hop, waiting for the device, computing. Seconds."""
        self._woken = False
        self._retry: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        """Requests that wait in this router."""
        return self._queued

    @property
    def ongoing(self) -> int:
        """Requests handed to a replica and not yet answered."""
        return self._ongoing

    @property
    def oldest_s(self) -> float:
        """For how long the oldest of those that wait in this router has waited. Seconds; 0 where none does."""
        first = min((queue[0].queued_at for queue in self._queues.values() if queue), default=None)
        return time.monotonic() - first if first is not None else 0.0

    @property
    def capacity(self) -> int:
        """Requests that may wait here and run, together."""
        return self.limits.max_queued_requests + self._ongoing_limit(max(1, self._replicas()))

    def full(self, here: int) -> RequestError:
        """The refusal of one request too many where there are `here`, arriving, waiting or under way."""
        text = f"{here} requests are here for {self.name} already; how many may wait is its limit maxQueuedRequests."
        return QueueFullError(429, "TooManyRequests", text, retry_after=1.0)

    async def infer(self, request: InferenceRequest, deadline: float) -> tuple[InferenceResult, Timing]:
        """Answer one request; `deadline` on the clock of `time.monotonic()`.

        `Timing.queue` includes the time in this router.
        """
        if self._queued >= self.limits.max_queued_requests and not self._can_send():
            raise self.full(self._queued + self._ongoing)
        at_once = self._leaves_at_once()
        if not at_once:
            self._shed(deadline - time.monotonic())
        loop = asyncio.get_running_loop()
        item = Item(
            request=request,
            answer=loop.create_future(),
            kind=kind_of(request.inputs, request.form, request.params),
            queued_at=time.monotonic(),
            deadline=deadline,
            at_once=at_once,
            nbytes=sum(array.nbytes for array in request.inputs.values()),
        )
        item.expiry = loop.call_later(max(0.0, deadline - item.queued_at), self._expire, item)
        self._enqueue(item)
        self._wake()
        try:
            return await item.answer
        finally:
            item.expiry.cancel()
            if item.answer.cancelled():
                self._forget(item)

    def _enqueue(self, item: Item, *, first: bool = False) -> None:
        queue = self._queues.setdefault(item.kind, deque())
        if first:
            queue.appendleft(item)
        else:
            queue.append(item)
        self._queued += 1
        self._queued_rows += item.request.rows

    def expected_s(self) -> float:
        """Seconds until a request that comes now is answered, at the least; 0 where that is not known.

        What waits leaves in full calls, as many at once as there may be, and none is quicker than the quickest of the
        newest ones: under a load that lasts, calls are full and this is how it goes.
        """
        replicas = self._replicas()
        if not replicas or not self._queued or len(self._calls_s) < REMEMBERED_CALLS:
            return 0.0
        most = max(1, min(self.max_batch_size, self._ongoing_limit(replicas)))
        rounds = self._queued_rows / most / self._most_flights(replicas)
        return min(self._calls_s) * (1 + math.floor(rounds))

    def _shed(self, left: float) -> None:
        """Raise `RequestError` 429 where a request that has `left` seconds cannot be answered in time."""
        expected = self.expected_s()
        if 0 < left < expected:
            text = (
                f"{self._queued} requests wait for {self.name}: one more would take {expected:.3g} s, and has"
                f" {max(0.0, left):.3g} s."
            )
            raise RequestError(429, "TooManyRequests", text, retry_after=max(1.0, math.ceil(expected - left)))

    def _most_flights(self, replicas: int) -> int:
        return math.ceil(2 * replicas / self.routers)

    def _leaves_at_once(self) -> bool:
        """Whether a request that comes now leaves in this very moment, with all that is here: it waits for nobody and
        keeps nobody waiting, and what a full call took says little about its own."""
        replicas = self._replicas()
        most = min(self.max_batch_size, self._ongoing_limit(max(1, replicas)))
        return self._can_send() and self._queued_rows < most * self._free_flights(replicas)

    def _free_flights(self, replicas: int) -> int:
        flights = len(self._flights) - min(FREE_LARGE_CALLS, sum(flight.large for flight in self._flights))
        return self._most_flights(replicas) - flights

    def _can_send(self) -> bool:
        replicas = self._replicas()
        return bool(replicas and self._free_flights(replicas) > 0 and self._ongoing < self._ongoing_limit(replicas))

    def _ongoing_limit(self, replicas: int) -> int:
        """This router's part of what all replicas together may have in hand."""
        return max(1, self.limits.max_ongoing_requests * replicas // self.routers)

    def _wake(self) -> None:
        """Send once everything that is ready on the event loop has run.

        The sockets that one poll found readable are then in one call. A router that is busy finds many, so calls grow
        when CPU is what is short; an idle one finds one and sends it a few microseconds later.
        """
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        """Let calls leave while they may."""
        self._woken = False
        while self._queued and self._can_send():
            items = self._take(self._ongoing_limit(self._replicas()) - self._ongoing)
            if not items:
                continue
            large = items[0].request.rows > self.max_batch_size
            flight = _Flight(items, time.monotonic(), large, open=len(items))
            self._flights.add(flight)
            self._ongoing += len(items)
            flight.task = asyncio.get_running_loop().create_task(self._fly(flight))
            # Not in `_fly` itself: a task that is cancelled before it begins runs nothing of it.
            flight.task.add_done_callback(functools.partial(self._landed, flight))
        if self._queued and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._retry = None
        self._send()

    def _take(self, most: int) -> list[Item]:
        """The oldest request and those of its kind behind it, up to the batch limit; skips the ones given up."""
        kind = min(self._queues, key=lambda kind: self._queues[kind][0].queued_at)
        queue = self._queues[kind]
        items: list[Item] = []
        rows = nbytes = 0
        too_late = time.monotonic() + (min(self._calls_s) if len(self._calls_s) == REMEMBERED_CALLS else 0.0)
        while queue and len(items) < most:
            item = queue[0]
            # The last one goes in any case: else nobody would learn when calls are faster again.
            if item.deadline < too_late and len(queue) > 1 and not (item.at_once or item.answer.done()):
                item.answer.set_exception(late(f"{self.name} has too many requests to answer this one in time."))
            if not item.answer.done():
                full = rows + item.request.rows > self.max_batch_size or nbytes + item.nbytes > MAX_CALL_BYTES
                if items and (full or item.alone or items[0].alone):
                    break
                rows += item.request.rows
                nbytes += item.nbytes
                items.append(item)
            queue.popleft()
            self._queued -= 1
            self._queued_rows -= item.request.rows
        if not queue:
            del self._queues[kind]
        return items

    async def _fly(self, flight: _Flight) -> None:
        items = flight.items
        try:
            reply = await self._call(pack(items))
            self._lost = False
            if not flight.large:
                self._calls_s.append(time.monotonic() - flight.sent_at)
            unpack(items, reply, flight.sent_at)
        except ReplicaLostError as error:
            self._lost = True
            self._flights.discard(flight)
            self._again(items, error)
        except asyncio.CancelledError:
            self._refuse(items, late(f"{self.name} did not answer in time."))
        except Exception as error:
            self._flights.discard(flight)
            self._part(items, error)

    def _landed(self, flight: _Flight, task: asyncio.Task[None]) -> None:
        """Whatever became of a call, the next may leave."""
        self._flights.discard(flight)
        self._ongoing -= len(flight.items)
        self._wake()

    def _again(self, items: list[Item], error: Exception) -> None:
        """The requests of a lost call are given one more replica, one by one: one of them may be what killed it."""
        for item in reversed(items):
            item.losses += 1
            if item.losses > 1:
                message = f"{self.name}: the request was with two replicas when they died. {error}"
                self._refuse([item], RequestError(503, "ReplicaLost", message, retry_after=5.0))
            else:
                self._put_back(item)

    def _part(self, items: list[Item], error: Exception) -> None:
        """A call that could not be sent or answered as a whole is tried request by request."""
        if len(items) == 1:
            self._refuse(items, RequestError(500, "Internal", f"{self.name}: {type(error).__name__}: {error}"))
            return
        for item in reversed(items):
            self._put_back(item)

    def _put_back(self, item: Item) -> None:
        if not item.answer.done():
            item.alone = True
            self._enqueue(item, first=True)

    def _refuse(self, items: list[Item], error: RequestError) -> None:
        for item in items:
            if not item.answer.done():
                item.answer.set_exception(error)

    def _expire(self, item: Item) -> None:
        if item.answer.done():
            return
        waited = time.monotonic() - item.queued_at
        if self._lost or not self._replicas():
            error = RequestError(
                503, "Unavailable", f"No replica of {self.name} was there within {waited:.3g} s.", retry_after=2.0
            )
        else:
            error = late(f"{self.name} did not answer within {waited:.3g} s.")
        item.answer.set_exception(error)
        self._forget(item)

    def refuse_waiting(self, share: float, error: Callable[[], RequestError]) -> None:
        """Refuse a share of those that wait in this router, as chance has it. Whoever was sent is answered."""
        # Queues are made anew: to look for each of many thousands would hold up every model's requests for seconds.
        for kind, queue in list(self._queues.items()):
            left: deque[Item] = deque()
            for item in queue:
                if item.answer.done() or random.random() >= share:  # noqa: S311 - a share of traffic, not a secret
                    left.append(item)
                    continue
                item.answer.set_exception(error())
                self._queued -= 1
                self._queued_rows -= item.request.rows
            if left:
                self._queues[kind] = left
            else:
                del self._queues[kind]

    def _forget(self, item: Item) -> None:
        """Nobody waits for this request any more: drop it, and a call in which nobody is left."""
        queue = self._queues.get(item.kind)
        if queue and item in queue:
            queue.remove(item)
            self._queued -= 1
            self._queued_rows -= item.request.rows
            if not queue:
                del self._queues[item.kind]
            return
        for flight in self._flights:
            if item in flight.items:
                flight.open -= 1
                if flight.open == 0 and flight.task:
                    flight.task.cancel()
                return
