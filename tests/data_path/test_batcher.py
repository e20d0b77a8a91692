"""The batcher on a real event loop and a real device thread; only the model is a few lines of numpy."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rayfleet_serving.config import Limits
from rayfleet_serving.link.call import Call, Reply
from rayfleet_serving.model.batcher import Batcher
from rayfleet_serving.model.execution import Execution
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult, RequestError
from rayfleet_serving.router.coalescer import Coalescer

Inputs = dict[str, np.ndarray]


class Doubler:
    """Doubles its input, remembers its batches, and can be held so that a queue builds up behind a batch."""

    def __init__(self, refuse: Callable[[Inputs], BaseException | None] = lambda inputs: None) -> None:
        self.batches: list[int] = []
        self.shapes: list[tuple[int, ...]] = []
        self.firsts: list[float] = []
        self.entered = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self._refuse = refuse

    def __call__(self, inputs: Inputs, form: str, params: dict[str, Any]) -> InferenceResult:
        self.entered.set()
        assert self.go.wait(30)
        self.batches.append(len(inputs["x"]))
        self.shapes.append(inputs["x"].shape)
        self.firsts.append(float(inputs["x"][0, 0]))
        if error := self._refuse(inputs):
            raise error
        return InferenceResult({"y": inputs["x"] * 2}, "array")


def batcher_of(
    model: Doubler, *, max_batch_size: int = 32, max_wait_s: float = 0.0, static_batch: int | None = None
) -> Batcher:
    execution = Execution(model, max_batch_size=max_batch_size, static_batch=static_batch)
    return Batcher(execution, max_wait_s=max_wait_s)


def call(*values: float, width: int = 1, budget: float = 30.0, params: dict[str, Any] | None = None) -> Call:
    array = np.repeat(np.array(values, np.float32)[:, None], width, axis=1)
    return Call({"x": array}, [1] * len(values), "tensors", params or {}, [budget] * len(values))


def values(reply: Reply) -> list[float]:
    return [float(v) for v in reply.outputs["y"][:, 0]]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def held(batcher: Batcher, model: Doubler, *calls: Call) -> list[Reply]:
    """Send one call that occupies the device, queue `calls` behind it, then let go."""
    model.go.clear()
    first = asyncio.ensure_future(batcher.infer(call(0.0)))
    await until(model.entered.is_set)
    waiting = [asyncio.ensure_future(batcher.infer(item)) for item in calls]
    await until(lambda: batcher.queued_rows == sum(sum(item.sizes) for item in calls))
    model.go.set()
    await first
    return await asyncio.gather(*waiting)


async def test_what_waited_runs_as_one_batch() -> None:
    model = Doubler()
    replies = await held(batcher_of(model), model, *(call(float(i)) for i in range(1, 11)))
    assert [values(reply) for reply in replies] == [[2.0 * i] for i in range(1, 11)]
    assert model.batches == [1, 10]


async def test_a_batch_never_exceeds_its_limit_and_calls_are_cut_to_fill_it() -> None:
    model = Doubler()
    replies = await held(batcher_of(model, max_batch_size=4), model, call(1, 2, 3), call(4, 5, 6), call(7))
    assert [values(reply) for reply in replies] == [[2, 4, 6], [8, 10, 12], [14]]
    assert model.batches == [1, 4, 3]


async def test_a_request_larger_than_the_limit_runs_in_pieces() -> None:
    model = Doubler()
    big = Call({"x": np.arange(10, dtype=np.float32)[:, None]}, [10], "tensors", {}, [30.0])
    reply = await batcher_of(model, max_batch_size=4).infer(big)
    assert values(reply) == [2.0 * i for i in range(10)]
    assert model.batches == [4, 4, 2]


async def test_others_have_their_turn_between_the_pieces_of_a_large_request() -> None:
    model = Doubler()
    model.go.clear()
    batcher = batcher_of(model, max_batch_size=4)
    big = Call({"x": np.arange(14, dtype=np.float32)[:, None]}, [14], "tensors", {}, [30.0])
    large = asyncio.ensure_future(batcher.infer(big))
    await until(model.entered.is_set)
    others = [asyncio.ensure_future(batcher.infer(call(100, 101))) for _ in range(4)]
    await until(lambda: batcher.queued_rows == 14 + 8)
    model.go.set()
    assert [values(reply) for reply in await asyncio.gather(*others)] == [[200, 202]] * 4
    assert values(await large) == [2.0 * i for i in range(14)]
    assert model.batches == [4, 4, 4, 4, 4, 2]
    assert model.firsts == [0, 100, 4, 100, 8, 12]
    assert (await large).timing.compute > 0


async def test_a_large_request_is_finished_before_the_next_one_begins() -> None:
    model = Doubler()
    model.go.clear()
    batcher = batcher_of(model, max_batch_size=4)
    sizes = {0: 12, 100: 5}
    calls = [
        Call({"x": first + np.arange(rows, dtype=np.float32)[:, None]}, [rows], "tensors", {}, [30.0])
        for first, rows in sizes.items()
    ]
    replies = [asyncio.ensure_future(batcher.infer(each)) for each in calls]
    await until(model.entered.is_set)
    model.go.set()
    for reply, (first, rows) in zip(await asyncio.gather(*replies), sizes.items(), strict=True):
        assert values(reply) == [2.0 * (first + row) for row in range(rows)]
    assert model.firsts == [0, 4, 8, 100, 104]


@pytest.mark.parametrize("raised", [SystemExit(1), asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt()])
@pytest.mark.parametrize("rows", [1, 3], ids=["batch", "pieces"])
async def test_whatever_a_model_raises_fails_one_request(raised: BaseException, rows: int) -> None:
    model = Doubler(lambda inputs: raised if (inputs["x"] == 13).any() else None)
    bad = Call({"x": np.full((rows, 1), 13, np.float32)}, [rows], "tensors", {}, [30.0])
    replies = await held(batcher_of(model, max_batch_size=2), model, call(1), bad, call(2), call(3, width=2))
    assert replies[1].failures[0].code == "ModelError"
    assert type(raised).__name__ in replies[1].failures[0].message
    assert [values(reply) for reply in (replies[0], *replies[2:])] == [[2], [4], [6]]


async def test_different_shapes_and_params_never_share_a_batch() -> None:
    model = Doubler()
    replies = await held(
        batcher_of(model),
        model,
        call(1, width=2),
        call(2, width=3),
        call(3, width=2),
        call(4, width=2, params={"k": 1}),
    )
    assert [values(reply) for reply in replies] == [[2], [4], [6], [8]]
    assert model.shapes == [(1, 1), (2, 2), (1, 3), (1, 2)]


@pytest.mark.parametrize("poisoned", [0, 13, 31])
async def test_one_poisoned_request_of_32_fails_alone(poisoned: int) -> None:
    model = Doubler(lambda inputs: ValueError("unlucky") if (inputs["x"] == 100 + poisoned).any() else None)
    replies = await held(batcher_of(model), model, *(call(100.0 + i) for i in range(32)))
    for index, reply in enumerate(replies):
        if index == poisoned:
            assert reply.failures[0].code == "ModelError"
            assert "unlucky" in reply.failures[0].message
        else:
            assert values(reply) == [2.0 * (100 + index)]
    # One failing request in 32 costs two batches for each halving, not 32.
    assert len(model.batches) <= 2 + 2 * 5


async def test_every_request_fails_when_the_model_always_raises() -> None:
    model = Doubler(lambda inputs: RuntimeError("broken"))
    reply = await batcher_of(model).infer(call(1, 2, 3))
    assert {index: failure.code for index, failure in reply.failures.items()} == dict.fromkeys(range(3), "ModelError")
    assert reply.rows == [0, 0, 0]


async def test_an_out_of_memory_batch_is_halved_and_answered() -> None:
    model = Doubler(lambda inputs: MemoryError("too big") if len(inputs["x"]) > 3 else None)
    reply = await batcher_of(model).infer(Call({"x": np.ones((10, 1), np.float32)}, [10], "tensors", {}, [30.0]))
    assert values(reply) == [2.0] * 10
    assert max(rows for rows in model.batches if rows <= 3) == 3


async def test_a_request_that_alone_does_not_fit_fails_alone() -> None:
    model = Doubler(lambda inputs: MemoryError("too big") if (inputs["x"] == 7).any() else None)
    reply = await batcher_of(model).infer(call(1, 7, 2))
    assert reply.failures[1].code == "OutOfMemory"
    assert reply.rows == [1, 0, 1]
    assert values(reply) == [2, 4]


async def test_expired_requests_cost_no_compute() -> None:
    model = Doubler()
    late = Call({"x": np.ones((3, 1), np.float32)}, [1, 1, 1], "tensors", {}, [30.0, -1.0, 30.0])
    (reply,) = await held(batcher_of(model), model, late)
    assert reply.failures[1].code == "DeadlineExceeded"
    assert reply.rows == [1, 0, 1]
    assert sum(model.batches) == 1 + 2


SEVERAL_CALLS = {
    "in pieces": (None, [400], None),
    "in pieces of a fixed size": (None, [400], 4),
    "halved because it fails": (ValueError("no"), [1] * 4, None),
    "halved for want of memory": (MemoryError("no"), [4], None),
}


@pytest.mark.parametrize("left", ["cancelled", "out of time"])
@pytest.mark.parametrize("case", SEVERAL_CALLS)
async def test_what_nobody_waits_for_stops_between_calls_of_the_model(case: str, left: str) -> None:
    error, sizes, static_batch = SEVERAL_CALLS[case]
    model = Doubler(lambda inputs: error)
    model.go.clear()
    batcher = batcher_of(model, max_batch_size=4, static_batch=static_batch)
    # Long enough to reach the model on a busy machine.
    budget = 30.0 if left == "cancelled" else 1.0
    long = Call({"x": np.ones((sum(sizes), 1), np.float32)}, sizes, "tensors", {}, [budget] * len(sizes))
    waiting = asyncio.ensure_future(batcher.infer(long))
    await until(model.entered.is_set)
    arrived_before = time.perf_counter()
    behind = asyncio.ensure_future(batcher.infer(call(1.0)))
    if left == "cancelled":
        waiting.cancel()
        await asyncio.wait([waiting])
    else:
        await until(lambda: time.perf_counter() - arrived_before > budget)
    model.go.set()
    await behind
    assert model.batches == [4, static_batch or 1]  # the first call of several, and the request behind
    if left == "out of time":
        assert {failure.code for failure in (await waiting).failures.values()} == {"DeadlineExceeded"}
        assert (await waiting).rows == [0] * len(sizes)


async def test_an_error_text_that_is_no_unicode_reaches_the_caller() -> None:
    model = Doubler(lambda inputs: ValueError("no file b\udcff"))
    reply = await batcher_of(model).infer(call(1))
    assert reply.failures[0].message.encode() == b"The model raised on this input: ValueError: no file b?"


class UnspeakableError(Exception):
    """Fails when it is asked for its text."""

    def __str__(self) -> str:
        raise AttributeError("no text")


async def test_an_error_without_a_text_fails_its_request_alone() -> None:
    model = Doubler(lambda inputs: UnspeakableError() if (inputs["x"] == 7).any() else None)
    batcher = batcher_of(model)
    reply = await batcher.infer(call(1, 7, 2))
    assert (reply.failures[1].code, values(reply)) == ("ModelError", [2, 4])
    assert "UnspeakableError: its text cannot be had (AttributeError)" in reply.failures[1].message
    assert values(await batcher.infer(call(3))) == [6]


async def test_a_fixed_batch_is_filled_and_cut() -> None:
    model = Doubler()
    replies = await held(batcher_of(model, static_batch=4), model, call(1, 2, 3), call(4, 5, 6))
    assert [values(reply) for reply in replies] == [[2, 4, 6], [8, 10, 12]]
    assert set(model.batches) == {4}


async def test_a_model_that_does_not_answer_row_for_row_runs_one_by_one() -> None:
    def summed(inputs: Inputs, form: str, params: dict[str, Any]) -> InferenceResult:
        return InferenceResult({"y": inputs["x"].sum(axis=0, keepdims=True)}, "array")

    execution = Execution(summed, max_batch_size=32)
    batcher = Batcher(execution, max_wait_s=0.0)
    reply = await batcher.infer(call(1, 2, 3))
    assert values(reply) == [1, 2, 3]
    assert execution.one_by_one
    two_rows = Call({"x": np.ones((2, 1), np.float32)}, [2], "tensors", {}, [30.0])
    reply = await batcher.infer(two_rows)
    assert (values(reply), reply.rows) == ([2.0], [1])


def outputs_by_value(*kinds: tuple[float, Inputs]) -> Callable[..., InferenceResult]:
    """A model that refuses 13, and has other outputs for a batch that begins with one of the given values."""

    def predict(inputs: Inputs, form: str, params: dict[str, Any]) -> InferenceResult:
        if (inputs["x"] == 13).any():
            raise ValueError("unlucky")
        found = dict(kinds).get(float(inputs["x"][0, 0]), {"y": inputs["x"]})
        return InferenceResult({name: array[: len(inputs["x"])] for name, array in found.items()}, "array")

    return predict


MISFITS: dict[str, tuple[Inputs, str]] = {
    "dates and numbers": ({"y": np.zeros((4, 1), "datetime64[s]")}, "DTypePromotionError"),
    "another width": ({"y": np.zeros((4, 2), np.float32)}, "dimension"),
    "another name": ({"z": np.zeros((4, 1), np.float32)}, r"\['y'\], another \['z'\]|\['z'\], another \['y'\]"),
    "one name more": (dict.fromkeys("yz", np.zeros((4, 1), np.float32)), r"\['y', 'z'\]"),
}


@pytest.mark.parametrize("misfit_first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("case", MISFITS)
async def test_answers_that_do_not_fit_together_are_refused_and_the_batcher_goes_on(
    case: str, misfit_first: bool
) -> None:
    other, says = MISFITS[case]
    predict = outputs_by_value((1.0 if misfit_first else 3.0, other))
    batcher = Batcher(Execution(predict, max_batch_size=32), max_wait_s=0.0)
    async with asyncio.timeout(60):
        misfits = asyncio.ensure_future(batcher.infer(call(1, 13, 3, 4)))
        others = [asyncio.ensure_future(batcher.infer(call(5.0, params={"k": i}))) for i in range(3)]
        with pytest.raises(RuntimeError, match=says):
            await misfits
        assert [values(await each) for each in others] == [[5.0]] * 3


async def test_requests_whose_answers_do_not_fit_together_are_each_answered() -> None:
    predict = outputs_by_value((1.0, {"y": np.zeros((4, 1), "datetime64[s]")}))
    batcher = Batcher(Execution(predict, max_batch_size=32), max_wait_s=0.0)
    coalescer = Coalescer(batcher.infer, lambda: 1, name="m", limits=Limits(), max_batch_size=32, routers=1)
    requests = [InferenceRequest({"x": np.full((1, 1), x, np.float32)}, 1, "tensors") for x in (1, 13, 3, 4)]
    until = time.monotonic() + 10
    answers = await asyncio.gather(*(coalescer.infer(each, until) for each in requests), return_exceptions=True)
    outputs = [answer[0].outputs["y"] for answer in answers if isinstance(answer, tuple)]
    assert [array.dtype.kind for array in outputs] == ["M", "f", "f"]
    assert isinstance(answers[1], RequestError)
    assert (answers[1].status, answers[1].code) == (422, "ModelError")


async def test_only_batches_that_were_answered_as_a_whole_tell_what_a_model_can_do() -> None:
    """One that raises at once, or that nobody waits for any more, is quick for another reason."""
    model = Doubler(lambda inputs: ValueError("no 13") if 13 in inputs["x"] else None)
    seen: list[tuple[int, bool]] = []
    batcher = Batcher(
        Execution(model, max_batch_size=4),
        max_wait_s=0.0,
        on_batch=lambda rows, seconds, whole: seen.append((rows, whole)),
    )
    await batcher.infer(call(1, 2))
    await batcher.infer(call(1, 13))
    await batcher.infer(Call({"x": np.ones((6, 1), np.float32)}, [6], "tensors", {}, [30.0]))
    assert seen == [(2, True), (2, False), (4, True), (2, True)]


async def test_no_call_waits_for_a_batcher_that_failed() -> None:
    model = Doubler()
    faults = [OSError("no room for metrics")]

    def on_batch(rows: int, seconds: float, whole: bool) -> None:
        if faults:
            raise faults.pop()

    batcher = Batcher(Execution(model, max_batch_size=2), max_wait_s=0.0, on_batch=on_batch)
    big = Call({"x": np.ones((5, 1), np.float32)}, [5], "tensors", {}, [30.0])
    calls = [call(1), big, call(2, 3), call(4, params={"k": 1})]
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(batcher.infer(each) for each in calls), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["The batcher failed; the replica's log says why."] * 4
        assert batcher.queued_rows == 0
        assert [values(await batcher.infer(each)) for each in calls] == [[2], [2] * 5, [4, 6], [8]]


async def test_an_idle_device_starts_a_lone_request_at_once() -> None:
    # With a wait of a minute, only a batcher that sees no gain in waiting answers at all. Each has one request: a
    # second one that came while the machine did something else would look like one of many.
    async with asyncio.timeout(20):
        for _ in range(3):
            assert values(await batcher_of(Doubler(), max_wait_s=60.0).infer(call(1.0))) == [2.0]


async def test_timing_tells_queue_from_compute() -> None:
    model = Doubler()
    (reply,) = await held(batcher_of(model), model, call(1.0))
    assert reply.timing.queue > 0
    assert reply.timing.compute > 0
    assert reply.timing.batch_wait < reply.timing.queue + reply.timing.compute
