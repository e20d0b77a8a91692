"""What a model does to the arrays it gets and gives reaches no other request."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import pytest
import torch

from rayfleet_serving.link.call import Call, Failure, Reply
from rayfleet_serving.model.execution import Execution, Outcome
from rayfleet_serving.model.flavors import containers, load
from rayfleet_serving.model.pending import LargeRequest, PendingCall, Segment
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.signature import Signature

Inputs = dict[str, np.ndarray]

POISON = 1000.0


async def segment(array: np.ndarray, sizes: list[int]) -> Segment:
    """A whole call."""
    call = Call({"x": array}, sizes, "tensor", {}, [30.0] * len(sizes))
    reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    return Segment(PendingCall(call, time.perf_counter(), reply), 0, len(sizes))


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def rows_of(outcomes: list[Outcome]) -> list[list[float]]:
    """The answers, request by request; nothing for one that failed."""
    answers: list[list[float]] = []
    for part, outcome in outcomes:
        if isinstance(outcome, Failure):
            answers.append([])
            continue
        (array,) = outcome.outputs.values()
        sizes = part.pending.call.sizes[part.first : part.last]
        answers += [piece.ravel().tolist() for piece in np.split(array, np.cumsum(sizes)[:-1])]
    return answers


class Subtracts(torch.nn.Module):
    """Writes into its input, and refuses one value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        poisoned = bool((x == POISON).any())
        x.sub_(10)
        if poisoned:
            raise ValueError("unlucky")
        return x * 2


@pytest.mark.parametrize("calls", [1, 2, 32])
async def test_a_module_that_writes_into_its_input_answers_the_others_right(calls: int, tmp_path: Path) -> None:
    mlflow.pytorch.save_model(Subtracts(), tmp_path / "m", serialization_format="pickle", pip_requirements=[])
    model = load(tmp_path / "m", allow_code_execution=True, gpu_memory_bytes=None)
    execution = Execution(model.predict, max_batch_size=32, writes_inputs=model.writes_inputs)
    values = [float(i) for i in range(31)] + [POISON]
    batch = [await segment(column(*part), [1] * len(part)) for part in np.split(np.array(values), calls)]
    assert rows_of(execution.run(batch)) == [[2 * (value - 10)] for value in values[:-1]] + [[]]


def subtracts_and(error: Exception | None, most: int) -> Any:
    """A model that writes into its input and raises on more than `most` rows; without an error, it sums them up."""

    def predict(inputs: Inputs, form: str, params: dict[str, Any]) -> InferenceResult:
        x = inputs["x"]
        x -= 10
        if error is not None and len(x) > most:
            raise error
        return InferenceResult({"y": x * 2 if error else x.sum(axis=0, keepdims=True)}, "array")

    return predict


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [2, 2], [4]], ids=repr)
@pytest.mark.parametrize("calls", [1, 2])
async def test_what_runs_again_for_want_of_memory_runs_on_what_was_sent(sizes: list[int], calls: int) -> None:
    execution = Execution(subtracts_and(MemoryError("too big"), 1), max_batch_size=8)
    batch = [await segment(column(1, 2, 3, 4), sizes) for _ in range(calls)]
    answers = [row for request in rows_of(execution.run(batch)) for row in request]
    assert answers == [2 * (value - 10) for value in (1, 2, 3, 4)] * calls


async def test_what_runs_again_for_its_row_count_runs_on_what_was_sent() -> None:
    execution = Execution(subtracts_and(None, 0), max_batch_size=8)
    assert rows_of(execution.run([await segment(column(1, 2, 3), [1, 1, 1])])) == [[-9.0], [-8.0], [-7.0]]
    assert execution.one_by_one


async def test_a_piece_that_runs_again_for_want_of_memory_runs_on_what_was_sent() -> None:
    execution = Execution(subtracts_and(MemoryError("too big"), 2), max_batch_size=4)
    large = LargeRequest(await segment(column(*range(8)), [8]))
    assert execution.run_piece(large) is None
    outcome = execution.run_piece(large)
    assert outcome is not None
    assert rows_of([outcome]) == [[2.0 * (value - 10) for value in range(8)]]


@pytest.mark.parametrize("calls", [1, 2])
async def test_lists_that_a_model_empties_are_whole_when_they_run_again(calls: int) -> None:
    def predict(inputs: Inputs, form: str, params: dict[str, Any]) -> InferenceResult:
        lengths = [len(words) for words in inputs["x"]]
        for words in inputs["x"]:
            words.clear()
        if 0 in lengths:
            raise ValueError("nothing to count")
        return InferenceResult({"y": np.array(lengths)}, "array")

    batch = []
    for _ in range(calls):
        words = np.empty(3, dtype=object)
        words[:] = [["a", "b"], [], ["c"]]
        batch.append(await segment(words, [1, 1, 1]))
    assert rows_of(Execution(predict, max_batch_size=8).run(batch)) == [[2], [], [1]] * calls


def means(most: int) -> Any:
    """A model that gives the mean of its rows, of at most `most` for want of memory."""

    def predict(inputs: Inputs, form: str, params: dict[str, Any]) -> InferenceResult:
        if len(inputs["x"]) > most:
            raise MemoryError("too big")
        return InferenceResult({"y": inputs["x"].mean(axis=0, keepdims=True)}, "array")

    return predict


@pytest.mark.parametrize(("rows", "static_batch"), [(33, None), (64, None), (100, 32)])
async def test_a_model_that_is_not_row_for_row_does_not_run_in_pieces(rows: int, static_batch: int | None) -> None:
    execution = Execution(means(most=32), max_batch_size=32, static_batch=static_batch)
    outcome = execution.run_piece(LargeRequest(await segment(column(*range(rows)), [rows])))
    assert outcome is not None
    failure = outcome[1]
    assert isinstance(failure, Failure)
    assert failure.code == "ModelError"
    assert "does not answer row for row: it gave 1 rows for 32" in failure.message
    assert "at most 32 rows are possible" in failure.message
    assert rows_of(execution.run([await segment(column(*range(32)), [32])])) == [[15.5]]


async def test_outputs_of_different_lengths_do_not_run_in_pieces() -> None:
    def predict(inputs: Inputs, form: str, params: dict[str, Any]) -> InferenceResult:
        return InferenceResult({"y": inputs["x"], "mean": inputs["x"].mean(axis=0, keepdims=True)}, "tensors")

    execution = Execution(predict, max_batch_size=4)
    outcome = execution.run_piece(LargeRequest(await segment(column(*range(5)), [5])))
    assert outcome is not None
    assert isinstance(outcome[1], Failure)
    assert "outputs of different lengths for 4" in outcome[1].message


@pytest.mark.parametrize(("most", "known"), [(1, True), (4, True), (4, False)])
async def test_a_model_that_is_not_row_for_row_does_not_run_in_halves(most: int, known: bool) -> None:
    """A request of as many rows as fit is right, and more are refused."""
    execution = Execution(means(most), max_batch_size=32)
    execution.one_by_one = known
    assert rows_of(execution.run([await segment(column(*range(most)), [most])])) == [[(most - 1) / 2]]
    ((_, failure),) = execution.run([await segment(column(*range(most + 1)), [most + 1])])
    assert isinstance(failure, Failure)
    assert failure.code == "OutOfMemory"
    assert "does not fit into the model's memory" in failure.message
    assert failure.message.endswith("MemoryError: too big")


async def test_a_batch_that_runs_again_in_halves_has_let_go_of_what_it_had_allocated() -> None:
    allocated: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def predict(inputs: Inputs, form: str, params: dict[str, Any]) -> InferenceResult:
        alive.append(sum(reference() is not None for reference in allocated))
        activations = inputs["x"] * 2
        allocated.extend([weakref.ref(activations), weakref.ref(inputs["x"])])
        if len(activations) > 1:
            raise MemoryError("too big")
        return InferenceResult({"y": activations}, "array")

    assert rows_of(Execution(predict, max_batch_size=8).run([await segment(column(*range(8)), [8])])) == [
        [2.0 * value for value in range(8)]
    ]
    assert set(alive) == {0}


class Reuses:
    """Answers every batch in the same memory."""

    def __init__(self, most: int = 8) -> None:
        self.answer = np.zeros((8, 1), np.float32)
        self.most = most

    def __call__(self, inputs: Inputs, form: str, params: dict[str, Any]) -> InferenceResult:
        rows = len(inputs["x"])
        np.multiply(inputs["x"], 2, out=self.answer[:rows])
        if rows > self.most:
            raise MemoryError("too big")
        return InferenceResult({"y": self.answer[:rows]}, "array")


@pytest.mark.parametrize("static_batch", [None, 3, 8])
async def test_the_next_batch_does_not_change_an_answer(static_batch: int | None) -> None:
    execution = Execution(Reuses(), max_batch_size=8, static_batch=static_batch)
    first = execution.run([await segment(column(1, 2, 3), [1, 1, 1])])
    execution.run([await segment(column(7, 8, 9), [1, 1, 1])])
    assert rows_of(first) == [[2], [4], [6]]


async def test_the_next_half_and_the_next_piece_do_not_change_an_answer() -> None:
    execution = Execution(Reuses(most=2), max_batch_size=4)
    large = LargeRequest(await segment(column(*range(8)), [8]))
    assert execution.run_piece(large) is None
    outcome = execution.run_piece(large)
    assert outcome is not None
    execution.run([await segment(column(70, 80), [2])])
    assert rows_of([outcome]) == [[2.0 * value for value in range(8)]]


class ReusesDicts:
    """Answers every batch with the same dicts, lists and arrays, filled anew."""

    def __init__(self) -> None:
        self.rows = [{"score": 0.0, "top": [0.0], "all": np.zeros(1), "own": threading.Lock()} for _ in range(8)]

    def __call__(self, inputs: Inputs, form: str, params: dict[str, Any]) -> InferenceResult:
        for row, value in zip(self.rows, inputs["x"].ravel().tolist(), strict=False):
            row["score"] = row["top"][0] = row["all"][0] = value * 2  # type: ignore[index]
        return containers.result(self.rows[: len(inputs["x"])], Signature())


@pytest.mark.parametrize("static_batch", [None, 3, 8])
async def test_the_next_batch_does_not_change_the_dicts_of_an_answer(static_batch: int | None) -> None:
    execution = Execution(ReusesDicts(), max_batch_size=8, static_batch=static_batch)
    ((_, first),) = execution.run([await segment(column(1, 2, 3), [1, 1, 1])])
    execution.run([await segment(column(7, 8, 9), [1, 1, 1])])
    assert isinstance(first, InferenceResult)
    answers = first.outputs["output"].tolist()
    assert [(row["score"], row["top"], row["all"].tolist()) for row in answers] == [
        (2, [2], [2]),
        (4, [4], [4]),
        (6, [6], [6]),
    ]


class Counts(torch.nn.Module):
    """Answers with its state, and then changes that."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += x
        return self.seen


async def test_a_modules_state_is_not_part_of_an_answer(tmp_path: Path) -> None:
    mlflow.pytorch.save_model(Counts(), tmp_path / "m", serialization_format="pickle", pip_requirements=[])
    model = load(tmp_path / "m", allow_code_execution=True, gpu_memory_bytes=None)
    execution = Execution(model.predict, max_batch_size=8)
    answers = [execution.run([await segment(column(1, 2), [1, 1])]) for _ in range(3)]
    assert [rows_of(answer) for answer in answers] == [[[n], [2 * n]] for n in (1.0, 2.0, 3.0)]
