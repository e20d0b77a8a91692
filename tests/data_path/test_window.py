"""What a router counts while a rollout looks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_serving.config import (
    WINDOW_BUCKETS,
    WINDOW_FIRST_S,
    ModelRoute,
    RolloutMark,
    VersionRoute,
    latency_bound,
    latency_bucket,
)
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
    gone = ModelRoute(versions=[*route().versions, row("older", 0, leaving=True)], rollout=MARK)
    assert gone.window == first


@pytest.mark.parametrize("changed", [{"stage": -1}, {"ended": "Aborted"}])
def test_nothing_is_counted_before_and_after(changed: dict[str, object]) -> None:
    assert route(MARK.model_copy(update=changed)).window == ""
    assert route(None).window == ""


def test_a_row_without_a_rollout_is_written_as_before_there_were_any() -> None:
    """Routers of an older image refuse what they do not know."""
    assert route(None).model_dump(mode="json").keys() == {"versions", "limits"}
