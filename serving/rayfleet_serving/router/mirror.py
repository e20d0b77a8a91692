"""Copies of live requests for a version that is only looked at: its answers are compared and thrown away.

    a decoded request ─┬─ the version that was chosen ─────────────── answer ──► the caller
                       └─ a copy, in a queue of its own ── answer ──► compared with the first output of the live one

The live answer waits for nothing here, and nothing that goes wrong here changes it. Copies are no traffic of the
version that gets them: they fill no queue of its callers', fail none of their requests, and do not keep it from being
closed, which cancels them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np

from rayfleet_serving.config import Limits
from rayfleet_serving.link.call import Timing
from rayfleet_serving.metrics import Outcome, VersionMetrics
from rayfleet_serving.protocol import expected as expectations
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult
from rayfleet_serving.router.coalescer import Coalescer
from rayfleet_serving.router.compare import compare
from rayfleet_serving.router.load import Load
from rayfleet_serving.signature import Signature

logger = logging.getLogger(__name__)

MOST_COPIES = 64
"""Copies under way for one version in one router: enough for two full batches, and a mirror that hangs holds no more
requests than that."""
MOST_BYTES = 64 * 1024 * 1024
"""Bytes that they may hold: what came with the requests, and answers that wait for the other one."""
MOST_ANSWER = 4 * 1024 * 1024
"""Bytes of an output that is compared: it is copied on the event loop, before its caller gets it."""
MOST_VALUES = 10_000
"""Objects in one output, text among them, nested ones counted, too. More of them take too long to measure there."""
TEXT = 64
"""Bytes that one short text of a request takes beside its characters."""
LARGE_OUTPUT = 64 * 1024
"""Bytes. Comparing so much takes longer than going to a thread."""
_comparing = ThreadPoolExecutor(1, "compare")
"""Not the event loop's own threads: live requests are decoded there."""


@dataclass(slots=True, eq=False)
class Copy:
    """One copy under way. Whoever sent it says what became of the request itself: `answered` or `unanswered`."""

    mirror: Mirror
    live: asyncio.Future[InferenceResult]
    size: int
    """Bytes it holds."""
    scores: bool
    """Several numbers a row are scores, whatever they look like."""
    task: asyncio.Task[None] = field(init=False)
    outcome: Outcome = "dropped"
    """What it counts as once its task has ended, cancelled or not."""

    def answered(self, result: InferenceResult) -> None:
        """The request has its answer."""
        if self.live.done():
            return
        if (kept := self.mirror.keep(self, result)) is None:
            self.task.cancel()
        else:
            self.live.set_result(kept)

    def unanswered(self) -> None:
        """The request failed, or its caller left: there is nothing to compare with."""
        self.outcome = "incomparable"
        self.task.cancel()

    def lost(self, error: Exception) -> None:
        """It cannot go on, because of a fault here."""
        self.outcome = "dropped"
        self.task.cancel()
        self.mirror.fault(error)


class Mirror:
    """The copies of requests that one version gets in one router. Not thread-safe: it belongs to the event loop."""

    def __init__(self, coalescer: Coalescer, metrics: VersionMetrics, load: Load) -> None:
        self.coalescer = coalescer
        self._load = load
        self._metrics = metrics
        self._copies: set[Copy] = set()
        self._held = 0
        self._makes_way = False
        self._told = False
        self._fault_told = False

    def send(
        self, request: InferenceRequest, signature: Signature, deadline: float, size: int, *, scores: bool = False
    ) -> Copy | None:
        """Send a copy; None where there are too many, which is counted.

        Args:
            request: shared with the version that answers it; nobody writes to its arrays.
            signature: what this version takes. A request that does not fit is not sent and counts as failed.
            deadline: the request's own, on the clock of `time.monotonic()`.
            size: bytes of its body; text, of which the arrays hold only pointers, has at most so many characters.
            scores: the output is to be compared as scores, whatever it looks like.
        """
        metrics = self._metrics.mirror
        arrays = sum(array.nbytes + TEXT * array.size * array.dtype.hasobject for array in request.inputs.values())
        size = max(size, arrays)
        if self._makes_way or len(self._copies) >= MOST_COPIES or self._held + size > MOST_BYTES:
            metrics.ended("dropped")
            return None
        loop = asyncio.get_running_loop()
        copy = Copy(self, loop.create_future(), size, scores)
        # First, as it may raise: what is held is given back when the task ends.
        copy.task = loop.create_task(self._follow(copy, request, signature, deadline))

        # Not in `_follow` itself: a task that is cancelled before it begins runs nothing of it.
        def ended(task: asyncio.Task[None]) -> None:
            self._copies.discard(copy)
            self._held -= copy.size
            metrics.ended(copy.outcome)
            copy.live.cancel()

        copy.task.add_done_callback(ended)
        self._copies.add(copy)
        self._held += size
        return copy

    def refuse(self, why: str) -> None:
        """Count a copy as failed that this version could make nothing of."""
        self._metrics.mirror.ended("failed")
        self._tell(why)

    def unsent(self, error: Exception) -> None:
        """Count a copy as dropped that was not sent, because of a fault here."""
        # Where there is no memory for the copy, there may be none for this either.
        with contextlib.suppress(Exception):
            self._metrics.mirror.ended("dropped")
        self.fault(error)

    def fault(self, error: Exception) -> None:
        """Log the first fault of the copies' own bookkeeping: it is no failure of the version's."""
        if not self._fault_told:
            self._fault_told = True
            with contextlib.suppress(Exception):
                logger.warning("A copy for %s was dropped because of a fault:", self.coalescer.name, exc_info=error)

    def keep(self, copy: Copy, result: InferenceResult) -> InferenceResult | None:
        """What has to be kept of an answer until the other one is there; None where there is no room for it, or where
        it holds too much to be compared.

        The first output, as an array of its own: a view would keep the whole call's answer.
        """
        first = dict(islice(result.outputs.items(), 1))
        size = 0
        for array in first.values():
            if (bytes_ := _size(array)) is None:
                copy.outcome = "incomparable"
                return None
            size += bytes_
        if self._held + size > MOST_BYTES:
            return None
        self._held += size
        copy.size += size
        return InferenceResult({name: array.copy() for name, array in first.items()}, result.form)

    def make_way(self, needed: bool) -> None:
        """Drop all copies for as long as some model that goes first is pressed, those under way as well."""
        if needed and not self._makes_way:
            self.close()
        self._makes_way = needed

    def close(self) -> None:
        """Cancel every copy under way."""
        for copy in self._copies:
            copy.task.cancel()

    async def _follow(self, copy: Copy, request: InferenceRequest, signature: Signature, deadline: float) -> None:
        why = ""
        answer: InferenceResult | None = None
        try:
            expectations.of(signature).check_decoded(request.form, request.inputs, request.params)
            answer = await self._ask(copy, request, deadline)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        # Of a request that has no live answer either, a failure tells nothing: it is not counted before that is known.
        live = await copy.live
        if why:
            copy.outcome = "failed"
            self._tell(why)
        elif answer is not None:
            await self._compare(copy, live, answer)

    async def _ask(self, copy: Copy, request: InferenceRequest, deadline: float) -> InferenceResult | None:
        begin = time.monotonic()
        with self._load.copied():
            result, _ = await self.coalescer.infer(request, deadline)
        try:
            self._metrics.mirror.duration.observe(time.monotonic() - begin)
            return self.keep(copy, result)
        except Exception as error:
            copy.lost(error)
            return None

    async def _compare(self, copy: Copy, live: InferenceResult, answer: InferenceResult) -> None:
        comparing = partial(compare, live, answer, scores=copy.scores)
        try:
            if sum(array.nbytes for array in live.outputs.values()) >= LARGE_OUTPUT:
                found = await asyncio.get_running_loop().run_in_executor(_comparing, comparing)
            else:
                found = comparing()
        except Exception as error:
            self._tell(f"its answer cannot be compared: {type(error).__name__}: {error}")
            found = None
        copy.outcome = "incomparable" if found is None else "compared"
        if found is not None:
            self._metrics.mirror.compared(found.rows, found.differing, found.distance)

    def _tell(self, why: str) -> None:
        """Log the first failure: the count says how many there are, and not why."""
        if not self._told:
            self._told = True
            logger.warning("%s failed on the copy of another version's request: %s", self.coalescer.name, why)


def _size(array: np.ndarray) -> int | None:
    """Bytes, with those of the values that an array of objects points to; None where it is too large to be compared."""
    size, values = array.nbytes, array.size
    if size > MOST_ANSWER or not array.dtype.hasobject:
        return size if size <= MOST_ANSWER else None
    rest = array.ravel().tolist() if values <= MOST_VALUES else []
    while rest:
        value = rest.pop()
        size += value.nbytes if isinstance(value, np.ndarray) else sys.getsizeof(value)
        match value:
            case dict():
                values += 2 * len(value)
                parts = [*value, *value.values()] if values <= MOST_VALUES else []
            case list() | tuple() | set() | frozenset():
                values += len(value)
                parts = list(value) if values <= MOST_VALUES else []
            case np.ndarray():
                values += value.size
                parts = value.ravel().tolist() if value.dtype.hasobject and values <= MOST_VALUES else []
            case _:
                continue
        rest += parts
        if values > MOST_VALUES:
            break
    return size if values <= MOST_VALUES and size <= MOST_ANSWER else None


def limits(table: Limits) -> Limits:
    """What the queue of copies allows: `MOST_COPIES` may wait whatever the version's own callers may."""
    return table.model_copy(update={"max_queued_requests": MOST_COPIES})


async def beside(
    answer: Awaitable[tuple[InferenceResult, Timing]], copies: Sequence[Copy]
) -> tuple[InferenceResult, Timing]:
    """Await the live answer to a request and tell its copies what became of it."""
    try:
        result, timing = await answer
    except BaseException:
        _tell_each(copies, Copy.unanswered)
        raise
    _tell_each(copies, lambda copy: copy.answered(result))
    return result, timing


def _tell_each(copies: Sequence[Copy], what: Callable[[Copy], None]) -> None:
    """Tell each copy, and let none of them spoil the answer that the caller is to get."""
    for copy in copies:
        try:
            what(copy)
        except Exception as error:
            copy.lost(error)
