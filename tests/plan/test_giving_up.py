"""Rollouts by stages that fail or are given up: where the requests go, and what may be tried again."""

from __future__ import annotations

from typing import Any

import pytest

from rayfleet_operator.plan.rollout import Command, attempt

from .rollouts import BAD, CANARY, GOOD, MANUAL, NONE, Model, rollout
from .test_analysis import counted


@pytest.mark.parametrize(
    ("facts", "ended"),
    [
        ({"counted": {"new": BAD, "old": GOOD}}, "AnalysisFailed"),
        ({"command": Command(abort="@")}, "Aborted"),
    ],
)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_what_fails_loses_its_requests_at_once_and_is_not_tried_again(
    facts: dict[str, Any], ended: str, stage: int
) -> None:
    model = Model(CANARY).at(stage)
    model.look(1, **facts)
    assert (model.weight, model.reason) == (0, "RolledBack")
    assert model.mark is not None
    assert model.mark.ended == ended
    assert model.mark.why
    model.look(1, counted={"new": GOOD, "old": GOOD}, lost=False, command=Command())
    assert model.decision is not None
    assert model.decision.keeps_candidate, "somebody may want to look at it"
    model.look(30)
    assert not model.decision.keeps_candidate
    model.look(10**6)
    assert (model.weight, model.reason) == (0, "RolledBack")


def test_a_candidate_of_which_nothing_answers_is_given_a_moment() -> None:
    model = Model(CANARY).at(0)
    model.look(1, lost=True)
    model.look(10)
    assert model.weight == 10
    model.look(1, lost=False)
    model.look(1, lost=True)
    model.look(14)
    assert model.weight == 10, "it had come back"
    model.look(1)
    assert model.mark is not None
    assert (model.weight, model.mark.ended) == (0, "CandidateLost")


def test_nothing_goes_back_to_a_version_that_does_not_run() -> None:
    model = Model(CANARY).at(1)
    model.look(1, hopeless=True, counted={"new": BAD, "old": NONE})
    assert (model.weight, model.reason) == (50, "Paused")
    model.look(1, hopeless=False)
    assert (model.weight, model.reason) == (0, "RolledBack")


def test_what_was_said_of_one_attempt_is_nothing_to_the_next() -> None:
    model = Model(MANUAL).at(0)
    assert model.mark is not None
    first = attempt(model.mark)
    model.look(1, command=Command(abort=first))
    assert model.mark.ended
    model.spec = rollout({**MANUAL, "scaleDownDelay": "1m"})
    model.look(1)
    model.look(1)
    model.look(1)
    assert (model.mark.ended, model.mark.stage, model.weight) == ("", 0, 10)
    model.look(10**6, command=Command(promote=f"{first}/0"))
    assert (model.weight, model.reason) == (10, "Paused")


def test_a_candidate_that_is_never_ready_is_given_up() -> None:
    model = Model(CANARY, progressDeadline="15m")
    model.look(reachable=False)
    model.look(899)
    assert model.reason == "Deploying"
    model.look(1)
    assert model.mark is not None
    assert (model.mark.ended, model.weight) == ("ProgressDeadlineExceeded", 0)
    model.look(1, reachable=True)
    assert model.weight == 0, "too late"


FULL = {
    "strategy": "Canary",
    "steps": [{"weight": 10, "hold": "10m"}, {"weight": 50}],
    "sticky": {"header": "x-user-id"},
    "scaleDownDelay": "1m",
    "progressDeadline": "20m",
    "analysis": {
        "minRequests": 50,
        "errorRate": {"max": "1%"},
        "latency": {"percentile": 95, "max": "250ms", "maxRatioToStable": 1.5},
        "predictions": {"maxDistance": 0.2},
        "queries": [{"name": "budget", "query": "sum(up)", "min": 0, "max": 1.5}],
    },
    "onFailure": "Pause",
}


# Pinned because these digests stand in the tables of fleets: under another one every candidate that was given up is
# tried again, on every fleet, by an upgrade of the operator. A new field must leave them as they are.
@pytest.mark.parametrize(
    ("spec", "retry", "digest"),
    [
        ({"strategy": "BlueGreen"}, "", "c73a7a4deb076882"),
        (FULL, "again", "088c1ea2a746d61c"),
    ],
)
def test_an_upgrade_of_the_operator_tries_nothing_again(spec: dict[str, Any], retry: str, digest: str) -> None:
    model = Model(spec)
    model.look()
    assert model.mark is not None
    model.look(1, command=Command(abort=attempt(model.mark), retry=retry))
    assert (model.mark.ended, model.mark.rules) == ("Aborted", digest)


def test_what_says_a_default_is_no_other_rule() -> None:
    model = Model(CANARY).at(1)
    model.look(1, counted={"new": BAD, "old": GOOD})
    analysis = {**CANARY["analysis"], "latency": None, "queries": []}
    model.spec = rollout({**CANARY, "analysis": analysis, "progressDeadline": "15m", "onFailure": "Rollback"})
    model.look(1, counted={"new": GOOD, "old": GOOD})
    assert model.mark is not None
    assert (model.weight, model.mark.ended) == (0, "AnalysisFailed")


@pytest.mark.parametrize(
    "again",
    [
        {"command": Command(retry="please")},
        {"spec": {**CANARY, "analysis": {"errorRate": {"max": "20%"}}}},
    ],
)
def test_what_was_given_up_is_tried_again_when_asked_or_under_other_rules(again: dict[str, Any]) -> None:
    model = Model(CANARY).at(1)
    model.look(1, counted={"new": BAD, "old": GOOD})
    if "spec" in again:
        model.spec = rollout(again["spec"])
    else:
        model.look(1, **again)
    model.look(1, counted={})
    model.look(1)
    assert model.mark is not None
    assert (model.mark.stage, model.mark.ended, model.weight) == (0, "", 10)
    if "spec" not in again:
        model.look(1, counted={"new": BAD, "old": GOOD})
        model.look(1, counted={})
        assert model.mark.ended or model.weight == 0, "the same request does not hold twice"


def test_a_failure_that_pauses_keeps_the_weight_until_somebody_decides() -> None:
    model = Model(CANARY, onFailure="Pause").at(1)
    model.look(1, counted={"new": BAD, "old": GOOD})
    assert (model.weight, model.reason) == (50, "Paused")
    assert model.mark is not None
    why = model.mark.why
    model.look(10**6, counted={"new": counted(5000, failed=500), "old": GOOD})
    assert (model.weight, model.reason, model.mark.why) == (50, "Paused", why)
    promoted = Model(CANARY, onFailure="Pause")
    promoted.mark, promoted.weight, promoted.now = model.mark, model.weight, model.now
    promoted.look(1, command=Command(promote="@/1"))
    assert promoted.weight == 100
    model.look(1, command=Command(abort="@"))
    assert (model.weight, model.reason) == (0, "RolledBack")
