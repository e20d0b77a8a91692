"""What is said of a spec that asks for more than its numbers can tell."""

from __future__ import annotations

from typing import Any

import pytest

from rayfleet_operator.plan import advice

from .scenes import model


def said(**analysis: Any) -> list[str]:
    rollout = {"strategy": "Canary", "steps": [{"weight": 10}], "analysis": analysis}
    return list(advice.of(model(rollout=rollout)))


@pytest.mark.parametrize(
    "analysis",
    [
        {"errorRate": {"max": "1%"}},
        {"errorRate": {"max": "1%"}, "latency": {"max": "1s"}, "minRequests": 100},
        {"errorRate": {"max": "0%"}, "minRequests": 1},
        {"errorRate": {"max": "100%"}, "minRequests": 1},
        {"latency": {"percentile": 50, "max": "1s"}, "minRequests": 10},
    ],
)
def test_what_can_be_told_needs_no_word(analysis: dict[str, Any]) -> None:
    assert said(**analysis) == []


def test_too_few_requests_are_told_with_how_many_would_do() -> None:
    (line,) = said(errorRate={"max": "1%"}, minRequests=20)
    assert line == (
        "spec.rollout.analysis.minRequests: 20 requests hardly tell 1 % from 5 %: a version of whose requests 5 % fail "
        "passes a step in 36 of 100 cases; with 60 it does in fewer than 5"
    )
    assert len(said(errorRate={"max": "0.1%"}, latency={"max": "1s"}, minRequests=20)) == 2


def test_too_few_predictions_are_told() -> None:
    (line,) = said(predictions={"maxDistance": 0.05}, minRequests=100)
    assert line == (
        "spec.rollout.analysis.minRequests: 100 predictions hardly tell a distance of 0.05 from one of 0.1; with 600 "
        "they do in 95 of 100 cases"
    )
    assert said(predictions={"maxDistance": 0.2}, minRequests=100) == []


def test_without_analysis_there_is_nothing_to_say() -> None:
    assert list(advice.of(model())) == []


def test_enough_is_enough() -> None:
    for allowed in (0.001, 0.01, 0.05):
        n = advice.enough(5 * allowed, allowed)
        assert advice.passes(n, 5 * allowed, allowed) <= advice.LUCK
