"""A call that waits in a replica, and the pieces of it that are taken into batches."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from rayfleet_serving.link.call import Call, Failure, Reply, Timing
from rayfleet_serving.model.errors import describe
from rayfleet_serving.protocol.message import InferenceResult


@dataclass(slots=True, eq=False)
class PendingCall:
    """A call, and as much of its answer as is there."""

    call: Call
    arrived: float
    """On the clock of `time.perf_counter()`."""
    reply: asyncio.Future[Reply]
    next: int = 0
    """First request not yet taken into a batch."""
    queue: float = 0.0
    batch_wait: float = 0.0
    compute: float = 0.0
    starts: list[int] = field(init=False)
    """First row of each request, and the row after the last."""
    _left: int = field(init=False)
    _rows: list[int] = field(init=False)
    _parts: list[tuple[int, InferenceResult]] = field(default_factory=list)
    _failures: dict[int, Failure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.starts = [0, *accumulate(self.call.sizes)]
        self._left = len(self.call.sizes)
        self._rows = [0] * self._left

    def answer(self, first: int, last: int, result: InferenceResult) -> None:
        """Requests `first` to `last` (exclusive) have their rows."""
        if last - first == 1:
            self._rows[first] = row_count(result)
        else:
            self._rows[first:last] = self.call.sizes[first:last]
        self._parts.append((first, result))
        self._settle(last - first)

    def fail(self, index: int, failure: Failure) -> None:
        """One request has no answer."""
        self._failures[index] = failure
        self._settle(1)

    def _settle(self, count: int) -> None:
        """Resolve the call once every request is accounted for."""
        self._left -= count
        if self._left or self.reply.done():
            return
        timing = Timing(self.queue, self.batch_wait, self.compute)
        try:
            whole = join([part for _, part in sorted(self._parts, key=lambda part: part[0])])
        except Exception as error:
            # Not a failure of any one request: the router sends each of them again, alone.
            text = f"The model's answers to one call do not fit together: {describe(error)}"
            self.reply.set_exception(RuntimeError(text))
            return
        self.reply.set_result(Reply(whole.outputs, self._rows, whole.form, self._failures, timing))


@dataclass(slots=True)
class Segment:
    """Requests `first` to `last` (exclusive) of one call, taken into a batch."""

    pending: PendingCall
    first: int
    last: int

    @property
    def requests(self) -> int:
        """Number of requests."""
        return self.last - self.first

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.pending.starts[self.last] - self.pending.starts[self.first]

    def inputs(self) -> dict[str, np.ndarray]:
        """Views of the call's arrays."""
        begin, end = self.pending.starts[self.first], self.pending.starts[self.last]
        return {name: array[begin:end] for name, array in self.pending.call.inputs.items()}

    def singles(self) -> list[Segment]:
        """One segment for each request."""
        return [Segment(self.pending, index, index + 1) for index in range(self.first, self.last)]

    def awaited(self, now: float) -> bool:
        """Whether anybody still waits for one of the requests: their call was not cancelled, and time is left.

        Safe in any thread: a future that is cancelled stays so.
        """
        budgets = self.pending.call.budgets[self.first : self.last]
        return not self.pending.reply.cancelled() and now - self.pending.arrived <= max(budgets)

    def cut(self, at: int) -> tuple[list[Segment], list[Segment]]:
        """The first `at` requests and the others; an empty side is an empty list."""
        middle = min(self.last, self.first + max(0, at))
        left = [Segment(self.pending, self.first, middle)] if middle > self.first else []
        right = [Segment(self.pending, middle, self.last)] if self.last > middle else []
        return left, right


@dataclass(slots=True)
class LargeRequest:
    """A request of more rows than a batch may have, and as much of its answer as is there."""

    segment: Segment
    rows_done: int = 0
    results: list[InferenceResult] = field(default_factory=list)

    @property
    def rows_left(self) -> int:
        """Rows that have not run."""
        return self.segment.rows - self.rows_done

    def next_rows(self, rows: int) -> dict[str, np.ndarray]:
        """Views of the next rows of its arrays."""
        begin, end = self.rows_done, self.rows_done + rows
        return {name: array[begin:end] for name, array in self.segment.inputs().items()}


def row_count(result: InferenceResult) -> int:
    """Rows of an answer; -1 where its outputs disagree or one has no batch axis."""
    lengths = {len(array) if array.ndim else -1 for array in result.outputs.values()}
    return lengths.pop() if len(lengths) == 1 else -1


def join(results: list[InferenceResult]) -> InferenceResult:
    """One answer out of several, in order.

    Raises:
        ValueError: they do not have the same outputs.
        Exception: what numpy raises for arrays that it cannot bring together.
    """
    if len(results) == 1:
        return results[0]
    if not results:
        return InferenceResult({}, "array")
    names = results[0].outputs.keys()
    for result in results:
        if result.outputs.keys() != names:
            raise ValueError(f"one has the outputs {sorted(names)}, another {sorted(result.outputs)}")
    outputs = {name: np.concatenate([r.outputs[name] for r in results]) for name in results[0].outputs}
    return InferenceResult(outputs, results[0].form)
