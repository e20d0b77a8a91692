"""What a router counts while a rollout looks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from closed_loop import until
from data_path.mirrored import StandInHandle
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_serving.config import (
    WINDOW_BUCKETS,
    WINDOW_FIRST_S,
    ModelRoute,
    RolloutMark,
    TrafficTable,
    VersionRoute,
    WindowCount,
    latency_bound,
    latency_bucket,
)
from rayfleet_serving.metrics import RouterMetrics
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.router import version
from rayfleet_serving.router.traffic import Traffic
from rayfleet_serving.router.window import Window

MARK = RolloutMark(stable="old", candidate="new", began="2026-01-01T00:00:00Z", stage=0)


def row(app: str, weight: int, *, leaving: bool = False) -> VersionRoute:
    return VersionRoute(app=app, version=app, model_id=app, weight=weight, leaving=leaving)


def route(mark: RolloutMark | None = MARK, new: int = 10) -> ModelRoute:
    return ModelRoute(versions=[row("new", new), row("old", 100 - new)], rollout=mark)


@given(st.floats(0, 1000))
def test_a_bucket_holds_what_its_bound_says(seconds: float) -> None:
    bucket = latency_bucket(seconds)
    assert 0 <= bucket < WINDOW_BUCKETS
    if bucket < WINDOW_BUCKETS - 1:
        assert seconds <= latency_bound(bucket) * (1 + 1e-9)
    if bucket > 0:
        assert seconds >= latency_bound(bucket - 1) * (1 - 1e-9)


def test_the_buckets_reach_from_half_a_millisecond_to_ten_minutes() -> None:
    assert latency_bucket(WINDOW_FIRST_S) == 0
    assert latency_bound(WINDOW_BUCKETS - 1) == pytest.approx(603, rel=0.01)
    assert latency_bucket(1e9) == WINDOW_BUCKETS - 1


def test_only_what_tells_of_the_version_counts() -> None:
    window = Window("w")
    for status in (200, 200, 400, 404, 408, 413, 415):
        window.answered(status, 0.01)
    for status in (422, 429, 500, 503, 504):
        window.answered(status, 1.0)
    count = window.count()
    assert (count.window, count.requests, count.failed) == ("w", 7, 5)
    assert count.latency == {latency_bucket(0.01): 2, latency_bucket(1.0): 5}


def test_who_left_had_waited() -> None:
    """Whether it would have been answered nobody knows."""
    window = Window("w")
    window.answered(499, 5.0)
    assert (window.count().requests, window.count().failed) == (0, 0)
    assert window.count().latency == {latency_bucket(5.0): 1}


def test_a_window_goes_with_the_stage_and_not_with_what_is_noted_beside_it() -> None:
    first = route().window
    assert first
    assert route(MARK.model_copy(update={"since": "2026-01-01T00:00:09Z", "why": "x"})).window == first
    assert route(new=20).window != first
    assert route(MARK.model_copy(update={"stage": 1})).window != first
    assert route(MARK.model_copy(update={"began": "2026-01-02T00:00:00Z"})).window != first
    beside = row("other", 0).model_copy(update={"name": "b", "mirror": 50})
    assert ModelRoute(versions=[*route().versions, beside], rollout=MARK).window == first
    gone = ModelRoute(versions=[*route().versions, row("older", 0, leaving=True)], rollout=MARK)
    assert gone.window == first


@pytest.mark.parametrize("changed", [{"stage": -1}, {"ended": "Aborted"}])
def test_nothing_is_counted_before_and_after(changed: dict[str, object]) -> None:
    assert route(MARK.model_copy(update=changed)).window == ""
    assert route(None).window == ""


def test_predictions_are_counted_in_a_window_of_their_own() -> None:
    with_them = route().model_copy(update={"predictions": True})
    assert with_them.window not in ("", route().window)


def test_a_row_without_a_rollout_is_written_as_before_there_were_any() -> None:
    """Routers of an older image refuse what they do not know."""
    assert route(None).model_dump(mode="json").keys() == {"versions", "limits"}


@pytest.fixture
async def traffic(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traffic]:
    """A router's, without replicas."""
    monkeypatch.setattr(version, "deployment_handle", lambda deployment, app: StandInHandle())
    found = Traffic("r", RouterMetrics("r"))
    yield found
    found.apply(TrafficTable())
    await until("all are gone", lambda: not found.live_versions())


def put(traffic: Traffic, row: ModelRoute) -> WindowCount | None:
    """What the candidate has counted once the row is in force."""
    traffic.apply(TrafficTable(models={"digits": row}))
    return traffic.state().versions["new"].count


def count_one(traffic: Traffic) -> None:
    """One answer of the candidate's."""
    (found,) = (each for each in traffic.live_versions() if each.route.app == "new")
    assert found.window is not None
    found.window.answered(200, 0.01)
    found.window.predicted(InferenceResult({"y": np.array([1])}, "array"))


async def test_a_version_counts_in_the_window_of_the_table_that_arrives(traffic: Traffic) -> None:
    assert put(traffic, route(None)) is None
    assert put(traffic, route()) == WindowCount(window=route().window)
    count_one(traffic)
    assert put(traffic, route(None)) is None


async def test_a_version_that_is_new_counts_from_its_first_table_on(traffic: Traffic) -> None:
    assert put(traffic, route()) == WindowCount(window=route().window)


async def test_the_same_window_keeps_its_counts_and_another_one_begins_anew(traffic: Traffic) -> None:
    put(traffic, route())
    for number in range(1, 4):
        count_one(traffic)
        counts = put(traffic, route(MARK.model_copy(update={"why": str(number)})))
        assert counts is not None
        assert counts.requests == number
    assert put(traffic, route(new=20)) == WindowCount(window=route(new=20).window)


@pytest.mark.parametrize("asked", [False, True])
async def test_another_window_counts_predictions_where_it_is_to(traffic: Traffic, asked: bool) -> None:
    put(traffic, route().model_copy(update={"predictions": not asked}))
    count_one(traffic)
    row = route().model_copy(update={"predictions": asked})
    assert put(traffic, row) == WindowCount(window=row.window)
    count_one(traffic)
    counts = put(traffic, row)
    assert counts is not None
    assert sum(counts.predictions.values()) == asked
