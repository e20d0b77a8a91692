"""How long a fleet is left alone between two passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from plan.clusters import cluster, clusters
from plan.scenes import NOW, identity, model, observe, plan_one
from plan.test_autoscaling import MOVING, running, told

from rayfleet_operator.controller import Result
from rayfleet_operator.plan.bounds import LOOK_S
from rayfleet_operator.plan.deployment import Deployment
from rayfleet_operator.plan.fleet import FleetPlan
from rayfleet_operator.plan.model import REQUEUE_S
from rayfleet_operator.plan.retry import RETRY_FAILED_AFTER
from rayfleet_operator.reconcile import waiting
from rayfleet_operator.reconcile.announcement import Announcement
from rayfleet_operator.reconcile.decision import Decision
from rayfleet_operator.reconcile.known import Known
from rayfleet_operator.reconcile.memory import BUSY_S, PATIENT_S, Memory
from rayfleet_serving.config import Wanted


def decision(planned: FleetPlan) -> Decision:
    return Decision(
        models=[],
        leaving=[],
        moving={},
        resolutions={},
        known=Known(access={}, files={}, versions={}, asking=False),
        held=False,
        planned=Deployment(
            config=planned.config,
            models=planned.models,
            clusters=clusters(cluster("a"), active="a", followed="a"),
            follow="a",
            requeue_after=planned.requeue_after,
        ),
    )


def planned(replicas: int = 3, need: int = 3, **spec: Any) -> FleetPlan:
    """Of a model at rest."""
    of = model(**spec)
    observed = running(observe({1: ("RUNNING", 100)}, of=of), 1, replicas)
    if spec:
        observed = told(observed, 1, None, Wanted(replicas=need, reason=f"{need} requests"))
    return plan_one(observed, identity(1), of=of)


def test_a_fleet_at_rest_is_left_alone() -> None:
    assert waiting.result(Memory(), decision(planned()), None, settled=True) == Result()


def test_a_change_that_was_only_told_of_is_no_rest() -> None:
    """Whatever the statuses say of it: an old refusal of KubeRay's hides what was told."""
    told_of = Announcement(text="spec.image changes", first=True)
    found = waiting.result(Memory(), decision(planned()), told_of, settled=True)
    assert found == Result(requeue_after=BUSY_S)
    asked_for = replace(told_of, first=False)
    assert waiting.result(Memory(), decision(planned()), asked_for, settled=True) == Result()


def test_numbers_that_follow_the_load_by_themselves_are_no_reason_to_look_more_often() -> None:
    memory, waits = Memory(), []
    for number in range(12):
        seen = decision(planned(replicas=3 + number % 2, need=1 + number % 5, **MOVING))
        waits.append(waiting.result(memory, seen, None, settled=False).requeue_after)
    assert waits == sorted(waits, key=lambda each: each or 0.0)
    assert waits[0] == BUSY_S
    assert waits[-1] == PATIENT_S
    # What is under way is another matter: a fixed number that is not reached yet, or another version.
    for number in (1, 2, 3):
        starting = decision(planned(replicas=number))
        assert waiting.result(memory, starting, None, settled=False) == Result(requeue_after=BUSY_S)
    fresh = plan_one(observe({1: ("RUNNING", 100)}, of=model(**MOVING)), identity(2), of=model(**MOVING))
    assert waiting.result(memory, decision(fresh), None, settled=False) == Result(requeue_after=BUSY_S)


def test_a_model_whose_number_moves_is_looked_at_as_often_as_the_plan_says() -> None:
    memory = Memory()
    waits = [waiting.result(memory, decision(planned(**MOVING)), None, settled=True).requeue_after for _ in range(12)]
    assert max(each for each in waits if each is not None) == LOOK_S
    soon = replace(planned(**MOVING), requeue_after=3.5)
    assert waiting.result(memory, decision(soon), None, settled=True) == Result(requeue_after=3.5)


def test_a_schedule_that_begins_at_once_is_not_missed_for_the_longest_wait() -> None:
    """A pass that comes just before it, after the fleet was left alone for ever longer."""
    memory = Memory()
    for _ in range(12):
        waiting.result(memory, decision(planned(**MOVING)), None, settled=True)
    at_once = replace(planned(**MOVING), requeue_after=REQUEUE_S)
    assert waiting.result(memory, decision(at_once), None, settled=True) == Result(requeue_after=BUSY_S)


def test_what_is_due_and_does_not_come_is_looked_at_ever_less_often() -> None:
    """A version that Serve gave up on while older replicas answer: it is not tried again as long as they do."""
    failed = observe({1: ("DEPLOY_FAILED", 100)}, ready={1: 2}, failed_since=NOW - 2 * RETRY_FAILED_AFTER)
    found = plan_one(failed, identity(1))
    assert found.requeue_after == REQUEUE_S
    memory = Memory()
    waits = [waiting.result(memory, decision(found), None, settled=True).requeue_after for _ in range(12)]
    assert (waits[0], waits[-1]) == (BUSY_S, PATIENT_S)
