"""When a version that failed is tried again, and when it is left alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.fleet import plan
from rayfleet_operator.plan.retry import RETRY_FAILED_AFTER

from .scenes import NOW, OPTIONS, condition, deployed, identity, model, observe, plan_one, weights
from .world import World


def test_a_version_that_failed_is_tried_again_whatever_its_neighbours_do() -> None:
    world, now, tries = World(), NOW, 0
    world.broken.add(identity(1).model_id)
    for minute in range(40):
        models = [model("digits"), model("faces", limits={"maxQueuedRequests": 1 + minute})]
        for _ in range(4):
            planned = plan(
                fleet=None,
                models=models,
                resolutions={"digits": identity(1), "faces": identity(2, "faces")},
                observed=world.observe(now),
                serve_options=OPTIONS,
                now=now,
            )
            tries += condition(planned, ConditionType.PROGRESSING)[1] == "Retrying"
            if planned.changed:
                world.put(planned.config)
            for name in sorted(world.apps):
                world.advance_app(name)
            for router in world.routers:
                world.advance_router(router)
                world.advance_router(router)
        now += timedelta(minutes=1)
    assert 6 <= tries <= 8


def test_a_version_that_failed_is_tried_again_after_a_while() -> None:
    observed = observe({1: ("RUNNING", 100), 2: ("DEPLOY_FAILED", 0)})

    soon = plan_one(observed, identity(2), now=NOW + RETRY_FAILED_AFTER - timedelta(seconds=30))
    assert deployed(soon) == {1, 2}
    assert soon.requeue_after == 30

    due = plan_one(observed, identity(2), now=NOW + RETRY_FAILED_AFTER)
    assert deployed(due) == {1}
    assert weights(due) == {1: 100, 2: 0}
    assert condition(due, ConditionType.PROGRESSING)[:2] == ("True", "Retrying")

    afresh = plan_one(observe({1: ("RUNNING", 100), 2: ("DELETING", 0)}), identity(2), now=NOW + RETRY_FAILED_AFTER)
    assert deployed(afresh) == {1, 2}
    assert weights(afresh) == {1: 100, 2: 0}


@pytest.mark.parametrize(
    "scene",
    [{"routers": 0}, {"routers": 0, "replicas": {1: 0}}, {"ready": {1: 1}}, {"routers": 1, "replicas": {1: 1}}],
)
def test_a_version_that_serve_calls_failed_is_left_alone_while_it_may_still_answer(scene: dict[str, Any]) -> None:
    planned = plan_one(observe({1: ("DEPLOY_FAILED", 100)}, **scene), identity(1), now=NOW + RETRY_FAILED_AFTER)
    assert deployed(planned) == {1}
    assert planned.requeue_after == 1


def test_a_missing_router_keeps_no_version_that_failed_from_being_tried_again() -> None:
    observed = observe({1: ("RUNNING", 100), 2: ("DEPLOY_FAILED", 0)}, routers=1, replicas={2: 0})
    planned = plan_one(observed, identity(2), now=NOW + RETRY_FAILED_AFTER)
    assert deployed(planned) == {1}
    assert condition(planned, ConditionType.PROGRESSING)[:2] == ("True", "Retrying")
