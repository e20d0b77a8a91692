"""How many replicas a load needs."""

from __future__ import annotations

import pytest

from rayfleet_serving.autoscaling.need import REFUSED, Goal, Load, need, percentile
from rayfleet_serving.config import latency_bound, latency_bucket


def answered(*times: tuple[float, int]) -> dict[int, int]:
    """Requests by (seconds, how many)."""
    return {latency_bucket(seconds): count for seconds, count in times}


@pytest.mark.parametrize(
    ("ongoing", "replicas"), [(0.0, 0), (1e-12, 1), (0.5, 1), (50.0, 1), (50.1, 2), (300.0, 6), (50.0 + 1e-9, 1)]
)
def test_by_requests_each_replica_has_its_target(ongoing: float, replicas: int) -> None:
    assert need(Load(ongoing=ongoing), Goal(ongoing=50), 1).replicas == replicas


@pytest.mark.parametrize(
    ("seconds", "busy", "replicas", "wanted", "reason"),
    [
        (0.312, 0.9, 3, 5, "p99 313 ms > 200 ms"),  # to the bound of its bucket
        (4.0, 1.0, 3, 6, "p99 "),  # never more than twice as many
        (0.1, 0.8, 3, 3, "replicas compute for 80%"),
        (0.1, 0.4, 3, 2, "replicas compute for 40%"),
        (0.1, 0.15, 3, 1, "1 requests, 50 for each replica"),
        (0.15, 0.5, 4, 4, "p99 151 ms: with fewer replicas it would come near 200 ms"),  # three would be 50 % slower
        (0.1, 0.5, 4, 3, "replicas compute for 50%"),
        (0.19, 0.1, 10, 3, "with fewer replicas"),  # three are idle for most of the time: no more would be faster
        (0.4, 0.3, 3, 3, "more would be no faster"),
        (0.1, 1.0, 3, 3, "compute for 100%"),  # within its target it asks for no further one
    ],
)
def test_by_latency(seconds: float, busy: float, replicas: int, wanted: int, reason: str) -> None:
    load = Load(ongoing=1.0, latency=answered((seconds, 1000)), busy=busy)
    found = need(load, Goal(ongoing=50, latency_s=0.2), replicas)
    assert found.replicas == wanted
    assert reason in found.reason


@pytest.mark.parametrize(("share", "kept"), [(0.05, 1), (0.5, 4), (0.8, 6), (1.0, 6)])
def test_without_a_latency_target_too_what_has_work_stays(share: float, kept: int) -> None:
    """Six replicas leave no queue; two would have one within seconds, and would be six again."""
    load = Load(ongoing=6.0, busy=1.0, used=share)
    assert need(load, Goal(ongoing=50), 6).replicas == kept
    assert need(Load(ongoing=6.0, busy=share), Goal(ongoing=50), 6).replicas == kept


@pytest.mark.parametrize(
    ("busy", "proven", "wanted"),
    [
        (1.0, 0.25, 2),  # batches of few rows, one after the other: the queue that made requests late is gone
        (1.0, 0.6, 4),
        (1.0, None, 4),  # no batch was ever full, so nobody knows what it would take
        (0.3, None, 2),
    ],
)
def test_what_made_requests_late_may_be_over(busy: float, proven: float | None, wanted: int) -> None:
    load = Load(ongoing=5.0, latency=answered((4.0, 1000)), busy=busy, used=0.1, proven=proven)
    found = need(load, Goal(ongoing=50, latency_s=0.2), 2)
    assert (found.replicas, found.stays) == (wanted, True)


@pytest.mark.parametrize(
    ("load", "stays"),
    [
        (Load(ongoing=5.0, latency=answered((4.0, 1000)), busy=1.0), True),
        (Load(ongoing=500.0, latency=answered((4.0, 1000)), busy=1.0), True),
        (Load(ongoing=5.0, latency=answered((0.1, 1000)), busy=0.9), True),
        (Load(ongoing=5.0, latency=answered((0.1, 1000)), busy=0.9, used=0.5), False),
        (Load(ongoing=5.0, latency=answered((0.1, 1000)), busy=0.5), False),
        (Load(ongoing=0.0), False),
    ],
)
def test_replicas_that_are_late_or_full_need_those_on_their_way(load: Load, stays: bool) -> None:
    assert need(load, Goal(ongoing=50, latency_s=0.2), 2).stays is stays


def test_the_larger_need_counts() -> None:
    load = Load(ongoing=500.0, latency=answered((0.4, 1000)), busy=0.9)
    assert need(load, Goal(ongoing=50, latency_s=0.2), 2).replicas == 10
    assert need(load, Goal(ongoing=50, latency_s=0.2), 8).replicas == 16


def test_what_was_refused_is_above_every_target() -> None:
    load = Load(ongoing=1.0, latency={latency_bucket(0.01): 980, REFUSED: 20}, busy=0.9)
    found = need(load, Goal(ongoing=50, latency_s=60.0), 2)
    assert (found.replicas, found.reason) == (4, "p99 > 60 s: requests were refused, or came too late")


def test_too_few_requests_have_no_percentile() -> None:
    assert percentile(answered((1.0, 99)), 99) is None
    assert percentile(answered((1.0, 100)), 99) == latency_bound(latency_bucket(1.0))
    assert percentile({}, 50) is None


def test_a_percentile_is_that_of_the_requests() -> None:
    latency = answered((0.01, 90), (0.1, 9), (1.0, 1))
    for percent, seconds in ((50, 0.01), (90, 0.01), (95, 0.1), (99, 0.1)):
        found = percentile(latency, percent)
        if percent == 99 or found is not None:
            assert found == pytest.approx(seconds, rel=0.05)
