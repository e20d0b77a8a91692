"""How much the copies of live requests may hold, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from closed_loop import until
from data_path.mirrored import LIVE, SIGNATURE, Scene, StandInHandle, mirroring, raising
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_serving.config import Limits, ModelRoute, TrafficTable
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult, RequestError
from rayfleet_serving.router import mirror, version
from rayfleet_serving.router.mirror import Copy
from rayfleet_serving.router.traffic import Traffic
from rayfleet_serving.router.version import LiveVersion
from rayfleet_serving.signature import Field, Signature


@pytest.fixture(autouse=True)
def no_lost_errors() -> Iterator[None]:
    """Tasks that end with an error that nobody reads would only be logged."""
    errors: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.BaseEventLoop, "call_exception_handler", lambda loop, context: errors.append(context))
        yield
    assert not errors


@contextlib.asynccontextmanager
async def real_version(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> AsyncIterator[LiveVersion]:
    monkeypatch.setattr(version, "deployment_handle", lambda deployment, app: StandInHandle())
    row = ModelRoute(versions=[LIVE, mirroring()], limits=Limits(max_queued_requests=0))
    live = LiveVersion("digits", mirroring(), row, routers=1, metrics=scene.metrics)
    try:
        yield live
    finally:
        await live.close()


async def test_no_more_than_so_many_copies_are_under_way() -> None:
    scene = Scene()
    scene.shadow.copies.go.clear()
    for _ in range(mirror.MOST_COPIES + 3):
        assert await scene.ask() == [3.0]
    assert scene.outcomes == {"dropped": 3}
    scene.shadow.copies.go.set()
    await scene.ended(dropped=3, compared=mirror.MOST_COPIES)
    await scene.ask()
    await scene.ended(dropped=3, compared=mirror.MOST_COPIES + 1)


async def test_no_more_than_so_many_bytes_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of one row holds 16 bytes, its answer 8."""
    monkeypatch.setattr(mirror, "MOST_BYTES", 16 + 8 + 15)
    scene = Scene()
    scene.shadow.copies.go.clear()
    await scene.ask()
    assert scene.shadow.mirror._held == 24
    await scene.ask()
    assert scene.outcomes == {"dropped": 1}
    scene.shadow.copies.go.set()
    await scene.ended(dropped=1, compared=1)


@pytest.mark.parametrize(("size", "outcome"), [(10, "compared"), (mirror.MOST_VALUES, "incomparable")])
@pytest.mark.parametrize("nest", [list, tuple, set, lambda values: dict.fromkeys(values, 0), np.array])
async def test_answers_with_very_many_nested_values_are_not_compared(
    nest: Callable[[range], Any], size: int, outcome: str
) -> None:
    answer = np.empty(1, object)
    answer[0] = [nest(range(size))]
    scene = Scene(shadow=lambda _: answer)
    request = InferenceRequest({"input": np.zeros((1, 2))}, 1, "tensor")
    copy = scene.shadow.mirror.send(request, SIGNATURE, time.monotonic() + 5, 0)
    assert copy is not None
    copy.answered(InferenceResult({"y": answer}, "array"))
    await scene.ended(**{outcome: 1})


@pytest.mark.parametrize("answer", [np.zeros(mirror.MOST_ANSWER // 8 + 1), np.array(["cat"] * 10_001, object)])
async def test_very_large_answers_are_not_compared(answer: np.ndarray) -> None:
    """They would have to be copied and measured before the caller gets them."""
    scene = Scene(shadow=lambda _: answer)
    request = InferenceRequest({"input": np.zeros((1, 2))}, 1, "tensor")
    copy = scene.shadow.mirror.send(request, SIGNATURE, time.monotonic() + 5, 0)
    assert copy is not None
    copy.answered(InferenceResult({"y": answer}, "array"))
    await scene.ended(incomparable=1)


async def test_what_is_nested_counts_for_what_may_be_held() -> None:
    nested = np.empty(1, object)
    nested[0] = ["x" * 1000, {"y": [b"z" * 1000]}, np.zeros(1000)]
    assert 10_000 < (mirror._size(nested) or 0) < 11_000


async def test_a_copy_is_dropped_when_there_is_no_room_for_the_live_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MOST_BYTES", 1000)
    scene = Scene(live=lambda array: np.zeros((len(array), 1000)))
    scene.shadow.copies.go.clear()
    await scene.ask()
    await scene.ended(dropped=1)


async def test_a_copy_is_dropped_when_there_is_no_room_for_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MOST_BYTES", 1000)
    scene = Scene(lambda array: np.zeros((len(array), 1000)))
    await scene.ask()
    await scene.ended(dropped=1)


async def test_text_is_held_with_its_bytes() -> None:
    signature = Signature(form="frame", inputs=(Field(name="a", dtype="str"),))
    scene = Scene(lambda array: array, live=lambda array: array, signature=signature, live_signature=signature)
    scene.shadow.copies.go.clear()
    await scene.ask([{"a": "x" * 10_000}])
    assert 20_000 <= scene.shadow.mirror._held <= 21_000
    scene.shadow.copies.go.set()
    await scene.ended(compared=1)


@pytest.mark.parametrize("slower", ["live", "mirror"])
async def test_waiting_for_the_slower_answer_keeps_no_more_than_the_first_output(slower: str) -> None:
    frames: list[weakref.ref[np.ndarray]] = []

    def view(array: np.ndarray) -> np.ndarray:
        """As an answer is one of the reply that it came with."""
        frame = np.zeros(1000)
        frames.append(weakref.ref(frame))
        return frame[:1]

    scene = Scene(view, live=view)
    waiting = scene.live.coalescer if slower == "live" else scene.shadow.copies
    waiting.go.clear()
    asked = asyncio.ensure_future(scene.ask())
    await until("one has answered", lambda: len(frames) == 1 and scene.shadow.mirror._held == 16 + 8)
    assert frames[0]() is None
    waiting.go.set()
    assert await asked == [0.0]
    await scene.ended(compared=1)


async def test_a_version_with_copies_alone_is_idle_and_closing_it_cancels_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    request = InferenceRequest({"input": np.zeros((1, 2))}, 1, "tensor")
    async with real_version(monkeypatch, scene) as live:
        for _ in range(3):
            assert live.mirror.send(request, SIGNATURE, time.monotonic() + 60, 10)
        await until("they wait for a replica", lambda: live.mirror.coalescer.queued == 3)
        assert live.idle
        assert (live.state().ongoing, live.state().queued) == (0, 0)
        assert scene.outcomes == {}
    await until("they are cancelled", lambda: scene.outcomes == {"dropped": 3})
    assert live.mirror.coalescer.queued == live.mirror._held == 0


async def test_a_version_that_leaves_the_table_takes_its_copies_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "deployment_handle", lambda deployment, app: StandInHandle())
    scene = Scene()
    traffic = Traffic("r", scene.metrics)
    request = InferenceRequest({"input": np.zeros((1, 2))}, 1, "tensor")
    traffic.apply(TrafficTable(models={"digits": ModelRoute(versions=[LIVE, mirroring()])}))
    (shadow,) = traffic.models["digits"].mirrors
    assert shadow.mirror.send(request, SIGNATURE, time.monotonic() + 60, 10)
    traffic.apply(TrafficTable(models={"digits": ModelRoute(versions=[LIVE])}))
    await until("it is gone", lambda: [each.route for each in traffic.live_versions()] == [LIVE])
    await until("the copy is cancelled", lambda: scene.outcomes == {"dropped": 1})
    assert not [name for name, _ in scene.samples if "duration" in name]
    traffic.apply(TrafficTable())
    await until("all are gone", lambda: not traffic.live_versions())


async def test_the_queue_of_copies_follows_the_row_and_has_room_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async with real_version(monkeypatch, Scene()) as live:
        assert live.mirror.coalescer.limits.max_queued_requests == mirror.MOST_COPIES
        route = mirroring().model_copy(update={"max_batch_size": 7})
        live.update(route, ModelRoute(versions=[LIVE, route], limits=Limits(max_ongoing_requests=9)), routers=3)
        copies = live.mirror.coalescer
        assert (copies.max_batch_size, copies.routers, copies.limits.max_ongoing_requests) == (7, 3, 9)
        assert copies.limits.max_queued_requests == mirror.MOST_COPIES


@given(st.lists(st.sampled_from(["send", "answer", "fail", "leave", "go", "turns", "close"]), max_size=60))
@settings(max_examples=100, deadline=None)
def test_whatever_happens_every_copy_is_counted_once_and_nothing_stays_held(events: list[str]) -> None:
    async def story() -> None:
        scene = Scene()
        shadow = scene.shadow
        shadow.copies.go.clear()
        open_requests: list[Copy] = []
        request = InferenceRequest({"input": np.zeros((1, 2))}, 1, "tensor")
        sent = 0
        for event in events:
            match event:
                case "send":
                    sent += 1
                    copy = shadow.mirror.send(request, SIGNATURE, time.monotonic() + 60, 100)
                    open_requests += [copy] if copy else []
                case "answer" if open_requests:
                    open_requests.pop(0).answered(InferenceResult({"y": np.zeros(1)}, "array"))
                case "fail":
                    shadow.copies.answer = raising(RequestError(422, "ModelError", "unlucky"))
                case "leave" if open_requests:
                    open_requests.pop().unanswered()
                case "go":
                    shadow.copies.go.set()
                case "turns":
                    for _ in range(4):
                        await asyncio.sleep(0)
                case "close":
                    shadow.mirror.close()
        shadow.copies.go.set()
        for copy in open_requests:
            copy.answered(InferenceResult({"y": np.zeros(1)}, "array"))
        await until("all ended", lambda: sum(scene.outcomes.values()) == sent)
        assert shadow.mirror._held == 0
        assert not shadow.mirror._copies

    asyncio.run(story())
