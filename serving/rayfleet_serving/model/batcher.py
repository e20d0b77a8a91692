"""A work-conserving batcher: the device never idles while requests wait.

Calls arrive from several routers. While one batch runs in the device thread, whatever arrives piles up; when it
returns, everything of one kind that waits (up to the batch limit) runs next. Requests of different shape, dtype or
parameters never share a batch: each kind has its own queue, and the kind that has waited longest goes first.

Requests of more rows than a batch may have run in pieces, one after the other; between any two pieces a batch of others
runs.

An idle device may wait up to `max_wait_s` for a fuller batch, but only where that is expected to pay: see
`Batcher._worth_waiting`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from rayfleet_serving.link.call import Call, Failure, Kind, Reply, kind_of
from rayfleet_serving.link.room import Room
from rayfleet_serving.model.execution import Execution
from rayfleet_serving.model.pending import LargeRequest, PendingCall, Segment
from rayfleet_serving.protocol.message import InferenceResult

logger = logging.getLogger(__name__)

T = TypeVar("T")

SMOOTHING = 0.2
"""Weight of the newest batch in the running means of compute time and arrival rate: about the last ten batches."""


class Batcher:
    """The queue in front of one model; runs one batch at a time, in a thread of its own."""

    def __init__(
        self,
        execution: Execution,
        *,
        max_wait_s: float,
        on_batch: Callable[[int, float, bool], None] = lambda rows, seconds, whole: None,
        room: Room | None = None,
    ) -> None:
        """`on_batch` is told of each batch its rows, its seconds, and whether all of it was answered."""
        self.max_wait_s = max_wait_s
        self._execution = execution
        self._on_batch = on_batch
        self._room = room if room is not None else Room()
        self._unanswered: set[PendingCall] = set()
        self._queues: dict[Kind, deque[PendingCall]] = {}
        self._queued_rows = 0
        self._large: deque[LargeRequest] = deque()
        self._arrival = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._compute_s = 0.0
        self._rows_per_s = 0.0
        self._arrived_rows = 0
        self._measured_at = time.perf_counter()

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the device."""
        return self._queued_rows + sum(large.rows_left for large in self._large)

    def in_device_thread(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Run `function` where the model runs, between batches."""
        return asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def infer(self, call: Call) -> Reply:
        """Answer every request of `call`; a request that fails is in `Reply.failures`, the others are right.

        Raises:
            RuntimeError: the requests cannot be answered together, which says nothing about each of them.
        """
        loop = asyncio.get_running_loop()
        with self._room.answers():
            pending = PendingCall(call, time.perf_counter(), loop.create_future())
        try:
            with self._room.answers():
                self._unanswered.add(pending)
                if self._worker is None:
                    self._worker = loop.create_task(self._work())
                self._queues.setdefault(kind_of(call.inputs, call.form, call.params), deque()).append(pending)
                self._queued_rows += pending.starts[-1]
                self._arrived_rows += pending.starts[-1]
                self._arrival.set()
            return await pending.reply
        finally:
            self._unanswered.discard(pending)

    async def _work(self) -> None:
        try:
            while self._queues or self._large:
                if self._queues:
                    kind = min(self._queues, key=lambda kind: self._queues[kind][0].arrived)
                    waited = 0.0 if self._large else await self._fill(kind)
                    with self._room.answers():
                        batch = self._take(kind)
                    if sum(segment.rows for segment in batch) > self._execution.limit:
                        (segment,) = batch
                        self._large.append(LargeRequest(segment))
                    elif batch:
                        await self._run(batch, waited)
                if self._large:
                    await self._run_piece(self._large[0])
        except MemoryError:
            self._room.lacked()
        except Exception:
            logger.exception("The batcher failed.")
        finally:
            self._worker = None
            with self._room.answers():
                self._give_up()

    def _give_up(self) -> None:
        """No call outlives the worker. Those that it answered are done; any other would wait for ever."""
        self._queues.clear()
        self._large.clear()
        self._queued_rows = 0
        for pending in self._unanswered:
            if not pending.reply.done():
                pending.reply.set_exception(RuntimeError("The batcher failed; the replica's log says why."))

    async def _fill(self, kind: Kind) -> float:
        """Wait for a fuller batch as long as it is expected to pay; returns the seconds waited."""
        begin = time.perf_counter()
        until = begin + self.max_wait_s
        while (left := until - time.perf_counter()) > 0 and self._worth_waiting(kind):
            self._arrival.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrival.wait()
            except TimeoutError:
                break
        return time.perf_counter() - begin

    def _worth_waiting(self, kind: Kind) -> bool:
        """Whether to let an idle device wait for one more row.

        Starting now makes the rows that arrive meanwhile, about `rate * compute` of them, wait for most of the
        batch; the next one is saved up to `compute` seconds if it is let in. Waiting for it costs `1 / rate` seconds
        to each of the `rows` that are here. So it pays while rows / rate < compute: never for one request on a
        quiet server, and always for the first of a burst on a slow model.
        """
        worth = min(self._execution.limit, self._rows_per_s * self._compute_s)
        if worth < 1:
            return False
        return sum(pending.starts[-1] - pending.starts[pending.next] for pending in self._queues[kind]) < worth

    def _take(self, kind: Kind) -> list[Segment]:
        """Take requests from the head of one queue, up to the batch limit; drop those whose time ran out.

        A request that alone is over the limit is taken alone.
        """
        queue, limit, now = self._queues[kind], self._execution.limit, time.perf_counter()
        batch: list[Segment] = []
        rows = 0
        while queue and rows < limit:
            pending = queue[0]
            if pending.reply.cancelled():
                self._queued_rows -= pending.starts[-1] - pending.starts[pending.next]
                queue.popleft()
                continue
            age = now - pending.arrived
            first, sizes, budgets = pending.next, pending.call.sizes, pending.call.budgets
            full = False
            while pending.next < len(sizes) and not full:
                index = pending.next
                if budgets[index] < age:
                    if index > first:
                        batch.append(Segment(pending, first, index))
                    first = index + 1
                    pending.fail(index, Failure("DeadlineExceeded", "The request's time ran out in the queue."))
                elif rows and (rows + sizes[index] > limit or self._execution.one_by_one):
                    full = True
                    break
                else:
                    rows += sizes[index]
                pending.next += 1
                self._queued_rows -= sizes[index]
            if pending.next > first:
                batch.append(Segment(pending, first, pending.next))
            if full:
                break
            queue.popleft()
        if not queue:
            del self._queues[kind]
        return batch

    async def _run(self, batch: list[Segment], waited: float) -> None:
        begin = time.perf_counter()
        with self._room.answers():
            running = self.in_device_thread(self._execution.run, batch)
        outcomes = await running
        with self._room.answers():
            whole = not any(isinstance(outcome, Failure) for _, outcome in outcomes)
            compute = self._measure(begin, sum(segment.rows for segment in batch), whole=whole)
            for pending in {id(segment.pending): segment.pending for segment in batch}.values():
                age = begin - pending.arrived
                pending.batch_wait += min(waited, age)
                pending.queue = max(0.0, age - pending.batch_wait - pending.compute)
                pending.compute += compute
            for outcome in outcomes:
                _settle(*outcome)

    async def _run_piece(self, large: LargeRequest) -> None:
        begin, before = time.perf_counter(), large.rows_done
        with self._room.answers():
            running = self.in_device_thread(self._execution.run_piece, large)
        outcome = await running
        pending = large.segment.pending
        with self._room.answers():
            whole = outcome is None or not isinstance(outcome[1], Failure)
            pending.compute += self._measure(begin, large.rows_done - before, whole=whole)
            if outcome is not None:
                self._large.popleft()
                pending.queue = max(0.0, time.perf_counter() - pending.arrived - pending.batch_wait - pending.compute)
                _settle(*outcome)

    def _measure(self, begin: float, rows: int, *, whole: bool) -> float:
        """Seconds since `begin`, which a batch of `rows` took."""
        now = time.perf_counter()
        compute = now - begin
        self._on_batch(rows, compute, whole)
        rate = self._arrived_rows / max(now - self._measured_at, 1e-6)
        self._arrived_rows, self._measured_at = 0, now
        self._rows_per_s += SMOOTHING * (rate - self._rows_per_s)
        self._compute_s += SMOOTHING * (compute - self._compute_s)
        return compute


def _settle(segment: Segment, outcome: InferenceResult | Failure) -> None:
    if isinstance(outcome, Failure):
        segment.pending.fail(segment.first, outcome)
    else:
        segment.pending.answer(segment.first, segment.last, outcome)
