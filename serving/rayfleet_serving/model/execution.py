"""Running one batch so that a request at fault fails alone. Synchronous: all of it runs in the device thread.

A failing batch takes several calls of the model: it runs in halves. Before each call, what nobody waits for any more is
given up, so that it does not keep the device from others.

A model may write into its input. What may have to run again therefore stays as it came, and the model gets a copy.
A model may also answer with an array, or a dict in one, that it will fill anew for the next batch, or with its own
state. Every answer is therefore copied before the model is called again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rayfleet_serving.link.call import Failure
from rayfleet_serving.model.errors import describe, out_of_memory
from rayfleet_serving.model.pending import LargeRequest, Segment, join, row_count
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.signature import InputForm

logger = logging.getLogger(__name__)

Predict = Callable[[dict[str, np.ndarray], InputForm, dict[str, Any]], InferenceResult]
Outcome = tuple[Segment, InferenceResult | Failure]


LATE = Failure("DeadlineExceeded", "The request's time ran out before the model had answered all of it.")


class _AbandonedError(Exception):
    """Nobody waits for the batch any more."""


class Execution:
    """How one model is run.

    `predict` takes arrays with the batch on axis 0 and should return as many rows as it got; a model that does not
    is run request by request from then on (`one_by_one`). `writes_inputs` is as of `LoadedModel`.
    """

    def __init__(
        self, predict: Predict, *, max_batch_size: int, static_batch: int | None = None, writes_inputs: bool = True
    ) -> None:
        self.max_batch_size = max_batch_size
        self.one_by_one = False
        self._model = predict
        self._static_batch = static_batch
        self._writes_inputs = writes_inputs

    @property
    def limit(self) -> int:
        """Most rows in one call of the model."""
        return self._static_batch or self.max_batch_size

    def run(self, batch: list[Segment]) -> list[Outcome]:
        """Run a batch of at most `limit` rows, halving it while it fails.

        Never raises; a `Failure` stands with exactly one request.
        """
        rows = sum(segment.rows for segment in batch)
        single = _single(batch)
        try:
            result = self._predict(batch, _merge(batch), rows)
            given = row_count(result)
            if given == rows:
                return _split(batch, result)
            if single:
                return [(batch[0], _of_one(result))]
            self.one_by_one = True
            logger.warning("The model gave %d rows for %d: requests run one by one from now on.", given, rows)
        except _AbandonedError:
            return [(request, LATE) for segment in batch for request in segment.singles()]
        except BaseException as error:  # a model may raise SystemExit, and a panic in Rust is no Exception
            if single:
                return [(batch[0], _failure(error))]
        left, right = _halve(batch)
        return self.run(left) + self.run(right)

    def run_piece(self, large: LargeRequest) -> Outcome | None:
        """Run the next `limit` rows of a request that has more; its outcome once they are the last, or fail.

        Never raises.
        """
        rows = min(self.limit, large.rows_left)
        try:
            result = self._predict([large.segment], large.next_rows(rows), rows)
            if (given := row_count(result)) != rows:
                return large.segment, _not_in_pieces(given, rows, self.limit)
            large.results.append(result)
            large.rows_done += rows
            return None if large.rows_left else (large.segment, join(large.results))
        except _AbandonedError:
            return large.segment, LATE
        except BaseException as error:
            return large.segment, _failure(error)

    def _predict(self, batch: list[Segment], inputs: dict[str, np.ndarray], rows: int) -> InferenceResult:
        """Predict at most `limit` rows: padded where the graph fixes the batch size, halved where memory runs out.

        Only a single request is halved here: several are by `run`, which brings their arrays together anew.

        Raises:
            _AbandonedError: nobody waits for any request of `batch`, of which the rows are a piece.
        """
        now = time.perf_counter()
        if not any(segment.awaited(now) for segment in batch):
            raise _AbandonedError
        call = batch[0].pending.call
        if self._static_batch:
            return self._predict_padded(self._own(batch, inputs, rows), rows, call.form, call.params)
        try:
            return _kept(self._model(self._own(batch, inputs, rows), call.form, call.params))
        except Exception as error:
            if rows == 1 or not _single(batch) or self.one_by_one or not out_of_memory(error):
                raise
            why = describe(error)  # the error itself would keep what the model has allocated
        halves: list[InferenceResult] = []
        for begin, end in ((0, rows // 2), (rows // 2, rows)):
            half = self._predict(batch, {k: v[begin:end] for k, v in inputs.items()}, end - begin)
            if row_count(half) != end - begin:
                raise MemoryError(f"it cannot run in halves, as the model does not answer row for row; {why}")
            halves.append(half)
        return join(halves)

    def _own(self, batch: list[Segment], inputs: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        """Arrays that the model may write into, while the calls' own stay as they are for another run.

        What a single row gives is final, so it is not copied. Merged arrays are nobody else's, so they are not either,
        but for the lists and dicts in them.
        """
        if not self._writes_inputs or (rows == 1 and _single(batch)):
            return inputs
        merged = len(batch) > 1
        return {
            name: array if merged and not array.dtype.hasobject else _copied(array) for name, array in inputs.items()
        }

    def _predict_padded(
        self, inputs: dict[str, np.ndarray], rows: int, form: InputForm, params: dict[str, Any]
    ) -> InferenceResult:
        """The last row is repeated to fill the fixed batch; its answers are cut off."""
        missing = self.limit - rows
        if missing:
            inputs = {k: np.concatenate([v, np.repeat(v[-1:], missing, axis=0)]) for k, v in inputs.items()}
        result = self._model(inputs, form, params)
        if missing:
            result = InferenceResult({k: v[:rows] for k, v in result.outputs.items()}, result.form)
        return _kept(result)


def _kept(result: InferenceResult) -> InferenceResult:
    """The answer in memory that the model does not know."""
    return InferenceResult({name: _copied(array) for name, array in result.outputs.items()}, result.form)


def _copied(value: Any) -> Any:
    """A copy of arrays, lists and dicts, with those inside them. Objects of the model's own stay: many have no copy."""
    if isinstance(value, np.ndarray):
        array = value.copy()
        if array.dtype == object:
            for place in np.ndindex(array.shape):
                array[place] = _copied(array[place])
        return array
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_copied(part) for part in value]
    return tuple(_copied(part) for part in value) if type(value) is tuple else value


def _of_one(result: InferenceResult) -> InferenceResult | Failure:
    """The answer to a single request, which may have any number of rows."""
    if row_count(result) < 0:
        return Failure("ModelError", "The model's outputs have different numbers of rows.")
    return result


def _not_in_pieces(given: int, rows: int, limit: int) -> Failure:
    """The model gave `given` rows for a piece: what it gives for the whole, a mean for instance, is not to be had."""
    gave = f"{given} rows" if given >= 0 else "outputs of different lengths"
    return Failure(
        "ModelError",
        f"The model does not answer row for row: it gave {gave} for {rows}. A request of more rows than maxBatchSize "
        f"would run in pieces, so at most {limit} rows are possible for this model.",
    )


def _failure(error: BaseException) -> Failure:
    text = describe(error)
    if out_of_memory(error):
        return Failure("OutOfMemory", f"This request alone does not fit into the model's memory. {text[:500]}")
    return Failure("ModelError", f"The model raised on this input: {text[:1000]}")


def _single(batch: list[Segment]) -> bool:
    """Whether it holds one request."""
    return len(batch) == 1 and batch[0].requests == 1


def _halve(batch: list[Segment]) -> tuple[list[Segment], list[Segment]]:
    left_wanted = sum(segment.requests for segment in batch) // 2
    left: list[Segment] = []
    right: list[Segment] = []
    for segment in batch:
        first, second = segment.cut(left_wanted - sum(taken.requests for taken in left))
        left += first
        right += second
    return left, right


def _merge(batch: list[Segment]) -> dict[str, np.ndarray]:
    pieces = [segment.inputs() for segment in batch]
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _split(batch: list[Segment], result: InferenceResult) -> list[Outcome]:
    outcomes: list[Outcome] = []
    row = 0
    for segment in batch:
        end = row + segment.rows
        outputs = {name: array[row:end] for name, array in result.outputs.items()}
        outcomes.append((segment, InferenceResult(outputs, result.form)))
        row = end
    return outcomes
