"""What is concluded from what was counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from rayfleet_operator.api.rollout import Analysis
from rayfleet_operator.plan.analysis import Count, Outcome, judge
from rayfleet_serving.config import WindowCount, latency_bucket


def counted(requests: int, *, failed: int = 0, seconds: Iterable[float] = (0.01,)) -> Count:
    """`seconds` are spread evenly over the requests."""
    times = list(seconds)
    buckets = [latency_bucket(times[number * len(times) // requests]) for number in range(requests)]
    latency = {bucket: buckets.count(bucket) for bucket in set(buckets)}
    return Count.of([WindowCount(window="w", requests=requests, failed=failed, latency=latency)])


def predicted(requests: int, **predictions: int) -> Count:
    """By key, without its sign."""
    counts = {f"={name}": number for name, number in predictions.items()}
    return Count.of([WindowCount(window="w", requests=requests, predictions=counts)])


def unnamed(number: int, **predictions: int) -> Count:
    """As many of no name, and `predictions`."""
    named = predicted(number + sum(predictions.values()), **predictions)
    return replace(named, predictions={**(named.predictions or {}), "?": number})


def outcome(spec: dict[str, Any], candidate: Count, stable: Count | None = None) -> tuple[str, str]:
    verdict = judge(Analysis.model_validate(spec), candidate, stable if stable is not None else counted(1000))
    return str(verdict.outcome), verdict.message


ERRORS = {"errorRate": {"max": "1%"}, "minRequests": 100}
P99 = {"latency": {"percentile": 99, "max": "250ms"}, "minRequests": 100}
RATIO = {"latency": {"percentile": 99, "maxRatioToStable": 1.5}, "minRequests": 100}
P90_OF_STABLE = {"latency": {"percentile": 90, "maxRatioToStable": 1.2}, "minRequests": 100}
DISTANCE = {"predictions": {"maxDistance": 0.2}, "minRequests": 100}
MIXED = [0.01] * 95 + [0.02] * 5


@pytest.mark.parametrize(
    ("spec", "candidate", "stable", "expected"),
    [
        (ERRORS, counted(100), None, "Pass"),
        (ERRORS, counted(1000, failed=10), None, "Pass"),
        (ERRORS, counted(99), None, "Inconclusive"),
        (ERRORS, Count(), None, "Inconclusive"),
        (ERRORS, counted(100, failed=2), None, "Inconclusive"),
        (ERRORS, counted(100, failed=8), None, "Fail"),
        (ERRORS, counted(3, failed=3), None, "Fail"),
        (ERRORS, counted(2, failed=1), None, "Inconclusive"),
        (P99, counted(1000, seconds=[0.2]), None, "Pass"),
        (P99, counted(1000, seconds=[0.01] * 99 + [2.0]), None, "Pass"),
        (P99, counted(1000, seconds=[0.01] * 96 + [2.0] * 4), None, "Fail"),
        (P99, counted(1000, seconds=[0.3]), None, "Fail"),
        (P99, counted(20, seconds=[0.2]), None, "Inconclusive"),
        (RATIO, counted(1000, seconds=MIXED), counted(1000, seconds=MIXED), "Pass"),
        (RATIO, counted(200, seconds=[3 * each for each in MIXED]), counted(1000, seconds=MIXED), "Fail"),
        (RATIO, counted(200, seconds=[3 * each for each in MIXED]), counted(50, seconds=MIXED), "Inconclusive"),
        (P90_OF_STABLE, counted(400, seconds=[0.0118]), counted(400, seconds=[0.01]), "Pass"),
        (P90_OF_STABLE, counted(400, seconds=[0.014]), counted(400, seconds=[0.01]), "Fail"),
        (DISTANCE, predicted(100, a=52, b=48), predicted(900, a=450, b=450), "Pass"),
        (DISTANCE, predicted(60, a=30, b=30), predicted(900, a=450, b=450), "Inconclusive"),
        (DISTANCE, predicted(100, a=80, b=20), predicted(900, a=450, b=450), "Inconclusive"),
        (DISTANCE, predicted(100, a=100), predicted(900, a=450, b=450), "Fail"),
        (DISTANCE, predicted(400, a=400), predicted(900, a=450, b=450), "Fail"),
        (DISTANCE, predicted(40, c=40), predicted(360, a=180, b=180), "Fail"),
        (DISTANCE, predicted(100, a=52, b=48), predicted(40, a=20, b=20), "Inconclusive"),
        (DISTANCE, predicted(500), predicted(500), "Inconclusive"),
        (DISTANCE, Count(), Count(), "Inconclusive"),
        (DISTANCE, unnamed(500), unnamed(500), "Inconclusive"),
        (DISTANCE, predicted(500, a=500), unnamed(500), "Inconclusive"),
        (DISTANCE, predicted(500, a=500), unnamed(501, a=499), "Inconclusive"),
        (DISTANCE, unnamed(500, a=500), unnamed(500, a=500), "Pass"),
        (DISTANCE, unnamed(360, a=20, b=20), predicted(900, a=450, b=450), "Fail"),
        (DISTANCE, unnamed(40), predicted(900, a=450, b=450), "Fail"),
        (DISTANCE, unnamed(10, a=45, b=45), unnamed(90, a=405, b=405), "Pass"),
        ({**ERRORS, **RATIO}, counted(100, failed=50), counted(3), "Fail"),
        ({**ERRORS, **RATIO}, counted(100), counted(3), "Inconclusive"),
    ],
)
def test_each_answer(spec: dict[str, Any], candidate: Count, stable: Count | None, expected: str) -> None:
    found, message = outcome(spec, candidate, stable)
    assert found == expected, message
    assert message


def test_the_numbers_that_decided_are_told() -> None:
    assert outcome(ERRORS, counted(100, failed=8))[1] == "8 of 100 requests failed (8 %, at most 1% may)"
    assert outcome(P99, counted(1000, seconds=[0.3]))[1] == "p99 is 313 ms over 1000 requests (latency.max: 250 ms)"
    far = outcome(DISTANCE, predicted(40, c=40), predicted(360, a=180, b=180))
    assert far[1] == "predictions are 0.91 away from the stable version's (at most 0.2 may be), by 40 and 360 of them"
    for candidate, stable in ((predicted(500), predicted(500)), (unnamed(3), unnamed(100)), (Count(), unnamed(100))):
        told = outcome(DISTANCE, candidate, stable)[1]
        assert "no class, number or label" in told
        assert "spec.transform.output.classification" in told
    for candidate, stable in ((unnamed(500), unnamed(99)), (predicted(500), predicted(500, a=500))):
        assert "of predictions to compare, " in outcome(DISTANCE, candidate, stable)[1]
    assert outcome(ERRORS, counted(40))[1] == "about 40 of at least 100 requests were answered"


def test_a_wait_is_told_in_round_numbers() -> None:
    """What is waited for stands in statuses, and must not be news with each request."""
    told = {outcome(ERRORS, counted(number))[1] for number in range(1, 100)}
    assert len(told) == 18


def test_the_first_few_may_be_slow() -> None:
    few = counted(10, seconds=[2.0])
    assert outcome(P99, few)[0] == "Inconclusive"
    assert outcome(P99, counted(100, seconds=[2.0]))[0] == "Fail"


def test_a_percentile_that_is_hardly_known_rolls_nothing_back() -> None:
    """The p99 of 200 requests is the second slowest one: it says little of the next 200."""
    stable = counted(200, seconds=[0.01])
    assert stable.at_most(99, 3) is None
    assert outcome(RATIO, counted(200, seconds=[0.05]), stable)[0] == "Inconclusive"
    assert outcome(RATIO, counted(200, seconds=[0.05]), counted(2000, seconds=[0.01]))[0] == "Fail"


def test_versions_that_are_the_same_are_not_told_apart() -> None:
    """Looked at again and again, with a percentile and a ratio that leave no room."""
    source, wrong = random.Random(3), 0
    for _ in range(60):
        latency: list[Counter[int]] = [Counter(), Counter()]
        for _ in range(40):
            for counts, share in zip(latency, (90, 10), strict=True):
                counts.update(latency_bucket(0.02 * source.lognormvariate(0, 1)) for _ in range(share))
            candidate, stable = (
                Count.of([WindowCount(window="w", requests=each.total(), latency=dict(each))]) for each in latency
            )
            wrong += (
                outcome({**RATIO, "latency": {"percentile": 99, "maxRatioToStable": 1.2}}, candidate, stable)[0]
                == "Fail"
            )
    assert wrong == 0


def test_counts_of_routers_add_up_and_nonsense_counts_for_nothing() -> None:
    one = WindowCount(window="w", requests=3, failed=1, latency={0: 1, 7: 2})
    odd = WindowCount(window="w", requests=1, failed=5, latency={7: 1, -1: 9, 10_000: 9})
    total = Count.of([one, one, odd])
    assert (total.requests, total.failed, total.timed) == (7, 7, 7)
    assert total.latency == {0: 2, 7: 5}


def test_a_percentile_is_the_bound_of_its_bucket() -> None:
    times = [0.01] * 90 + [0.1] * 10
    assert counted(100, seconds=times).percentile(90) == pytest.approx(0.01, rel=0.05)
    assert counted(100, seconds=times).percentile(91) == pytest.approx(0.1, rel=0.05)
    with pytest.raises(ValueError, match="no request"):
        Count().percentile(50)


def test_a_verdict_names_what_it_rests_on() -> None:
    verdict = judge(Analysis.model_validate({**ERRORS, **P99}), counted(1000, failed=500), counted(1000))
    assert [(check.name, check.outcome) for check in verdict.checks] == [
        ("errorRate", Outcome.FAIL),
        ("latency.max", Outcome.PASS),
    ]
    assert "500 of 1000" in verdict.message
    assert "p99" not in verdict.message
