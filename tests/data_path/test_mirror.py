"""Copies of live requests: what is sent, to whom, and what becomes of what goes wrong with it."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from closed_loop import until
from data_path.mirrored import SIGNATURE, TIMING, Scene, mirroring, raising
from scipy.stats import binomtest

from rayfleet_serving.config import Limits
from rayfleet_serving.link.call import Call, Reply
from rayfleet_serving.protocol.message import InferenceRequest, RequestError
from rayfleet_serving.router import mirror
from rayfleet_serving.router.coalescer import Coalescer
from rayfleet_serving.router.mirror import Copy
from rayfleet_serving.router.version import LiveVersion
from rayfleet_serving.signature import Field, Signature


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the mirror logs, whatever level a model library has given to every logger."""
    caplog.set_level("WARNING", mirror.__name__)
    return caplog


async def test_the_live_answer_does_not_wait_for_a_mirror_that_hangs() -> None:
    scene = Scene()
    scene.shadow.copies.go.clear()
    assert await scene.ask() == [3.0]
    assert scene.outcomes == {}
    assert len(scene.shadow.mirror._copies) == 1
    scene.shadow.copies.go.set()
    await scene.ended(compared=1)


async def test_a_mirror_that_is_quicker_waits_for_the_live_answer() -> None:
    scene = Scene()
    scene.live.coalescer.go.clear()
    asked = asyncio.ensure_future(scene.ask())
    await until("the mirror has answered", lambda: scene.sample("request_duration_seconds_count") == 1)
    assert scene.outcomes == {}
    scene.live.coalescer.go.set()
    assert await asked == [3.0]
    await scene.ended(compared=1)


async def test_the_copy_is_the_decoded_request_and_nobody_writes_to_it() -> None:
    """Through real coalescers, to replicas whose calls read what a frame would send."""

    async def call(call: Call) -> Reply:
        (array,) = call.inputs.values()
        return Reply({"y": array.sum(axis=1)}, call.sizes, "array", {}, TIMING)

    def coalescer() -> Coalescer:
        return Coalescer(call, lambda: 1, name="digits", limits=Limits(), max_batch_size=32, routers=1)

    scene = Scene()
    live, copies = coalescer(), coalescer()
    scene.live.coalescer, scene.shadow.mirror.coalescer = cast("Any", live), copies
    seen: list[InferenceRequest] = []

    def watched(infer: Any) -> Any:
        async def infer_read_only(request: InferenceRequest, deadline: float) -> Any:
            seen.append(request)
            for array in request.inputs.values():
                array.flags.writeable = False
            return await infer(request, deadline)

        return infer_read_only

    for each in (live, copies):
        each.infer = watched(each.infer)  # type: ignore[method-assign]
    answers = await asyncio.gather(*(scene.ask([[number, 1.0]]) for number in range(20)))
    assert answers == [[number + 1.0] for number in range(20)]
    await scene.ended(compared=20)
    assert scene.sample("differing_rows_total") == 0
    assert len(seen) == 40
    assert len({id(request) for request in seen}) == 20


@pytest.mark.parametrize(
    "error",
    [
        RequestError(422, "ModelError", "unlucky"),
        RequestError(429, "TooManyRequests", "full"),
        RequestError(503, "Unavailable", "no replica"),
        ValueError("what nobody thought of"),
    ],
    ids=lambda error: type(error).__name__ + str(getattr(error, "status", "")),
)
async def test_a_mirror_that_fails_is_counted_and_harms_nobody(
    error: Exception, warnings: pytest.LogCaptureFixture
) -> None:
    scene = Scene(raising(error))
    assert [await scene.ask() for _ in range(3)] == [[3.0]] * 3
    await scene.ended(failed=3)
    assert scene.sample("rows_total") == 0
    assert warnings.text.count(str(error)) == 1, "the log says why, once"


async def test_without_a_live_answer_the_copy_is_not_computed_on() -> None:
    scene = Scene(live=raising(RequestError(504, "DeadlineExceeded", "late")))
    scene.shadow.copies.go.clear()
    scene.live.coalescer.go.clear()
    asked = asyncio.ensure_future(scene.ask())
    await until("the copy is there", lambda: scene.shadow.copies.requests)
    scene.live.coalescer.go.set()
    with pytest.raises(RequestError, match="late"):
        await asked
    await scene.ended(incomparable=1)
    assert scene.shadow.copies.cancelled == 1


async def test_a_caller_that_leaves_takes_the_copy_along() -> None:
    scene = Scene()
    scene.shadow.copies.go.clear()
    scene.live.coalescer.go.clear()
    asked = asyncio.ensure_future(scene.ask())
    await until("the copy is there", lambda: scene.shadow.copies.requests)
    asked.cancel()
    await scene.ended(incomparable=1)
    assert scene.shadow.copies.cancelled == 1


@pytest.mark.parametrize("slower", ["live", "mirror"])
async def test_a_fault_of_the_bookkeeping_costs_the_copy_alone(
    slower: str, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    def no_memory(array: np.ndarray) -> int:
        raise MemoryError("no room to measure in")

    monkeypatch.setattr(mirror, "_size", no_memory)
    scene = Scene()
    waiting = scene.live.coalescer if slower == "live" else scene.shadow.copies
    waiting.go.clear()
    asked = [asyncio.ensure_future(scene.ask([[number, 1.0]])) for number in range(3)]
    if slower == "live":
        await scene.ended(dropped=3)
        waiting.go.set()
    assert await asyncio.gather(*asked) == [[1.0], [2.0], [3.0]]
    await scene.ended(dropped=3)
    assert len(warnings.records) == 1, "the log says why, once"
    assert "no room to measure in" in warnings.text


@pytest.mark.parametrize("fails", ["Mirror.send", "Copy.__init__", "Copy.answered"])
async def test_a_fault_in_sending_or_telling_a_copy_costs_it_alone(
    fails: str, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    def no_memory(*args: Any, **options: Any) -> None:
        raise MemoryError("no room for a copy")

    monkeypatch.setattr(f"rayfleet_serving.router.mirror.{fails}", no_memory)
    scene = Scene()
    assert [await scene.ask() for _ in range(3)] == [[3.0]] * 3
    await scene.ended(dropped=3)
    assert len(warnings.records) == 1, "the log says why, once"
    assert "no room for a copy" in warnings.text


async def test_whoever_gets_an_error_gets_it_whatever_becomes_of_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(copy: Copy) -> None:
        raise MemoryError

    monkeypatch.setattr(Copy, "unanswered", no_memory)
    scene = Scene(live=raising(RequestError(422, "ModelError", "unlucky")))
    with pytest.raises(RequestError, match="unlucky"):
        await scene.ask()
    await scene.ended(dropped=1)


NO_FIT = {
    "another name": Signature(form="tensors", inputs=(Field(name="x", dtype="float64", shape=(-1, 2)),)),
    "another form": Signature(form="frame", inputs=(Field(name="input", dtype="float64"),)),
    "another dtype": Signature(form="tensor", inputs=(Field(name="input", dtype="float32", shape=(-1, 2)),)),
    "text": Signature(form="tensor", inputs=(Field(name="input", dtype="str", shape=(-1, 2)),)),
    "another shape": Signature(form="tensor", inputs=(Field(name="input", dtype="float64", shape=(-1, 3)),)),
    "more axes": Signature(form="tensor", inputs=(Field(name="input", dtype="float64", shape=(-1, 2, 1)),)),
}


@pytest.mark.parametrize("signature", NO_FIT.values(), ids=NO_FIT)
async def test_a_request_that_does_not_fit_the_mirror_fails_there_only(signature: Signature) -> None:
    scene = Scene(signature=signature)
    assert await scene.ask() == [3.0]
    await scene.ended(failed=1)
    assert not scene.shadow.copies.requests


@pytest.mark.parametrize(
    "signature",
    [Signature(), Signature(form="tensor", inputs=(Field(name="input", dtype="float64", shape=(-1, -1)),))],
    ids=["none", "open"],
)
async def test_another_signature_that_the_request_fits_is_no_hindrance(signature: Signature) -> None:
    scene = Scene(signature=signature)
    await scene.ask()
    await scene.ended(compared=1)


@pytest.mark.parametrize(("required", "outcome"), [(True, "failed"), (False, "compared")])
async def test_an_input_that_only_the_mirror_has_may_be_missing_where_it_is_optional(
    required: bool, outcome: str
) -> None:
    first, second = Field(name="a", dtype="float64"), Field(name="b", dtype="float64", required=required)
    both, one = Signature(form="frame", inputs=(first, second)), Signature(form="frame", inputs=(first,))
    scene = Scene(lambda array: array, live=lambda array: array, signature=both, live_signature=one)
    assert await scene.ask({"instances": [{"a": 1.0}]}) == [1.0]
    await scene.ended(**{outcome: 1})


@pytest.mark.parametrize("dtype", ["float64", "int32", "bool", "str", "datetime64[ns]", "object"])
async def test_columns_of_every_dtype_fit_their_own_signature(dtype: str) -> None:
    signature = Signature(form="frame", inputs=(Field(name="a", dtype=dtype),))
    value = {"float64": 1.5, "int32": 1, "bool": True, "object": [1]}.get(dtype, "2024-01-01")
    zeros = partial(np.zeros_like, dtype=float)
    scene = Scene(zeros, live=zeros, signature=signature, live_signature=signature)
    await scene.ask([{"a": value}])
    await scene.ended(compared=1)


async def test_parameters_that_the_mirror_does_not_take_fail_there_only() -> None:
    known = SIGNATURE.model_copy(update={"params": (Field(name="beams", dtype="int64", shape=()),)})
    scene = Scene(live_signature=known)
    assert await scene.ask({"instances": [[1.0, 2.0]], "params": {"beams": 2}}) == [3.0]
    await scene.ended(failed=1)


async def test_a_copy_has_the_deadline_of_its_request() -> None:
    scene = Scene(request_timeout_s=500.0)
    await scene.ask()
    await scene.ask(x_rayfleet_timeout_seconds="100")
    await scene.ended(compared=2)
    assert scene.shadow.copies.deadlines == scene.live.coalescer.deadlines
    left = [deadline - time.monotonic() for deadline in scene.shadow.copies.deadlines]
    assert 400 < left[0] <= 500
    assert 0 < left[1] <= 100


@pytest.mark.parametrize(
    "state",
    [{"mirror": 0}, {"leaving": True}, {"ready": False}, {"metadata": None}],
    ids=["no mirror", "leaving", "not ready", "loading"],
)
async def test_who_is_to_get_no_copy_gets_none(state: dict[str, Any]) -> None:
    scene = Scene(route=mirroring(state.get("mirror", 100), leaving=state.get("leaving", False)))
    scene.shadow.awake = state.get("ready", True)
    if "metadata" in state:
        scene.shadow.metadata = None  # type: ignore[assignment]
    assert await scene.ask() == [3.0]
    assert scene.samples == {}
    assert not scene.shadow.mirror._copies
    assert bool(scene.model.mirrors) is not ("mirror" in state or "leaving" in state)


async def test_a_version_gets_no_copy_of_what_it_answers_itself() -> None:
    scene = Scene()
    assert await scene.ask(x_rayfleet_model_version="2") == [3.0]
    assert scene.samples == {}
    assert len(scene.shadow.coalescer.requests) == 1


@pytest.mark.parametrize("share", [1, 30, 99])
async def test_a_copy_is_sent_with_the_probability_that_the_row_says(
    share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayfleet_serving.router.traffic.random", random.Random(3))
    scene = Scene(route=mirroring(share))
    request = InferenceRequest({"input": np.zeros((1, 2))}, 1, "tensor")
    sent: list[Copy] = []
    for _ in range(4000):
        sent += scene.model.copies(request, cast("LiveVersion", scene.live), 0.0, size=0, image=False)
        for copy in scene.shadow.mirror._copies:
            copy.unanswered()
        await asyncio.sleep(0)
    assert binomtest(len(sent), 4000, share / 100).pvalue > 0.001


async def test_copies_are_no_requests_of_the_mirror() -> None:
    scene = Scene()
    await scene.ask()
    await scene.ended(compared=1)
    exposed = [line for line in scene.metrics.exposition().splitlines() if 'version="2"' in line]
    counted = {line.split("{")[0] for line in exposed if float(line.split()[-1]) and "_created" not in line}
    assert counted
    assert all(name.startswith("rayfleet_mirror") for name in counted), counted


async def test_a_version_that_is_forgotten_keeps_its_counters_alone() -> None:
    scene = Scene()
    await scene.ask()
    await scene.ended(compared=1)
    scene.metrics.forget("digits", "2")
    assert scene.sample("rows_total") == 1
    assert not [key for key in scene.samples if "duration" in key[0]]


async def test_a_copy_is_a_load_for_as_long_as_it_takes() -> None:
    scene = Scene()
    scene.shadow.copies.go.clear()
    await scene.ask()
    async with asyncio.timeout(20):
        while not scene.shadow.copies.requests:
            await asyncio.sleep(0)
    before = scene.shadow.load._ongoing
    scene.shadow.copies.go.set()
    await scene.ended(compared=1)
    assert (before, scene.shadow.load._ongoing) == (1, 0)
    told = scene.shadow.load.seen(1)
    assert told is not None
    assert told.ongoing > 0
    assert told.latency == {}
