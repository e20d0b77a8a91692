"""Each rule of a rollout, one row each: what is observed, what is wanted, what the plan holds."""

from __future__ import annotations

from typing import Any

import pytest

from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet, ResolutionProblem

from .scenes import (
    DOWN,
    NOW,
    OPTIONS,
    app_name,
    applications,
    condition,
    deployed,
    identity,
    model,
    observe,
    plan_one,
    table_of,
    weights,
)

ROLLOUTS: dict[str, tuple[dict[str, Any], int | ResolutionProblem, dict[int, int], set[int], str]] = {
    # what is observed, the wanted version, weights and applications afterwards, Progressing's status and reason
    "first version takes all the weight at once": (
        {"versions": {}}, 1, {1: 100}, {1}, "True Deploying"),
    "first version still loads": (
        {"versions": {1: ("DEPLOYING", 100)}}, 1, {1: 100}, {1}, "True Deploying"),
    "first version runs, no router knows yet": (
        {"versions": {1: ("RUNNING", 100)}, "ready": {1: 0}}, 1, {1: 100}, {1}, "True WaitingForRouters"),
    "one version, at rest": (
        {"versions": {1: ("RUNNING", 100)}}, 1, {1: 100}, {1}, "False Settled"),
    "a new version starts without weight": (
        {"versions": {1: ("RUNNING", 100)}}, 2, {1: 100, 2: 0}, {1, 2}, "True Deploying"),
    "a candidate that loads has no weight": (
        {"versions": {1: ("RUNNING", 100), 2: ("DEPLOYING", 0)}}, 2, {1: 100, 2: 0}, {1, 2}, "True Deploying"),
    "a candidate that Serve has not started has no weight, whatever routers say": (
        {"versions": {1: ("RUNNING", 100), 2: ("NOT_STARTED", 0)}, "ready": {2: 2}},
        2, {1: 100, 2: 0}, {1, 2}, "True Deploying"),
    "a candidate that one router can not reach has no weight": (
        {"versions": {1: ("RUNNING", 100), 2: ("RUNNING", 0)}, "ready": {2: 1}},
        2, {1: 100, 2: 0}, {1, 2}, "True WaitingForRouters"),
    "a router that does not answer stops the shift": (
        {"versions": {1: ("RUNNING", 100), 2: ("RUNNING", 0)}, "routers": 1},
        2, {1: 100, 2: 0}, {1, 2}, "True WaitingForRouters"),
    "no router answers: no shift": (
        {"versions": {1: ("RUNNING", 100), 2: ("RUNNING", 0)}, "routers": 0},
        2, {1: 100, 2: 0}, {1, 2}, "True WaitingForRouters"),
    "a candidate that every router reaches takes over": (
        {"versions": {1: ("RUNNING", 100), 2: ("RUNNING", 0)}}, 2, {1: 0, 2: 100}, {1, 2}, "True Shifting"),
    "one router more than expected must reach it too": (
        {"versions": {1: ("RUNNING", 100), 2: ("RUNNING", 0)}, "routers": 3, "ready": {2: 2}},
        2, {1: 100, 2: 0}, {1, 2}, "True WaitingForRouters"),
    "the old version stays while a router holds an older table": (
        {"versions": {1: ("RUNNING", 0), 2: ("RUNNING", 100)}, "leaving": {1}, "stale": 1},
        2, {1: 0, 2: 100}, {1, 2}, "True Draining"),
    "the old version stays while it has a request": (
        {"versions": {1: ("RUNNING", 0), 2: ("RUNNING", 100)}, "leaving": {1}, "busy": {1: 1}},
        2, {1: 0, 2: 100}, {1, 2}, "True Draining"),
    "the old version stays while a router is missing": (
        {"versions": {1: ("RUNNING", 0), 2: ("RUNNING", 100)}, "leaving": {1}, "routers": 1},
        2, {1: 0, 2: 100}, {1, 2}, "True Draining"),
    "the old version stays while no router answers": (
        {"versions": {1: ("RUNNING", 0), 2: ("RUNNING", 100)}, "leaving": {1}, "routers": 0},
        2, {1: 0, 2: 100}, {1, 2}, "True WaitingForRouters"),
    "the old version goes when it is idle everywhere": (
        {"versions": {1: ("RUNNING", 0), 2: ("RUNNING", 100)}, "leaving": {1}},
        2, {2: 100}, {2}, "True Draining"),
    "an idle old version stays until every router refuses it new requests": (
        {"versions": {1: ("RUNNING", 0), 2: ("RUNNING", 100)}},
        2, {1: 0, 2: 100}, {1, 2}, "True Draining"),
    "a failed candidate has no weight and stays": (
        {"versions": {1: ("RUNNING", 100), 2: ("DEPLOY_FAILED", 0)}},
        2, {1: 100, 2: 0}, {1, 2}, "False VersionFailed"),
    "a newer version replaces a failed candidate": (
        {"versions": {1: ("RUNNING", 100), 2: ("DEPLOY_FAILED", 0)}, "leaving": {2}},
        3, {1: 100, 3: 0}, {1, 3}, "True Deploying"),
    "a newer version replaces a candidate that loads": (
        {"versions": {1: ("RUNNING", 100), 2: ("DEPLOYING", 0)}, "leaving": {2}},
        3, {1: 100, 3: 0}, {1, 3}, "True Deploying"),
    "a replaced candidate stays until every router is known idle": (
        {"versions": {1: ("RUNNING", 100), 2: ("RUNNING", 0)}, "routers": 1, "leaving": {2}},
        3, {1: 100, 2: 0, 3: 0}, {1, 2, 3}, "True Deploying"),
    "an alias moved back drops the candidate": (
        {"versions": {1: ("RUNNING", 100), 2: ("DEPLOYING", 0)}, "leaving": {2}}, 1, {1: 100}, {1}, "True Draining"),
    "an alias moved back after the shift returns the weight at once": (
        {"versions": {1: ("RUNNING", 0), 2: ("RUNNING", 100)}, "busy": {1: 1}},
        1, {1: 100, 2: 0}, {1, 2}, "True Shifting"),
    "an unhealthy stable version keeps the weight": (
        {"versions": {1: ("UNHEALTHY", 100)}}, 1, {1: 100}, {1}, "True Deploying"),
    "an unhealthy stable version keeps the weight while the candidate loads": (
        {"versions": {1: ("UNHEALTHY", 100), 2: ("DEPLOYING", 0)}}, 2, {1: 100, 2: 0}, {1, 2}, "True Deploying"),
    "a candidate takes over from an unhealthy stable version": (
        {"versions": {1: ("UNHEALTHY", 100), 2: ("RUNNING", 0)}}, 2, {1: 0, 2: 100}, {1, 2}, "True Shifting"),
    "a missing router keeps no candidate from taking over from a version that no router reaches": (
        {"versions": {1: ("UNHEALTHY", 100), 2: ("RUNNING", 0)}, "routers": 1}, 2, {1: 0, 2: 100}, {1, 2},
        "True Shifting"),
    "nor from one that Serve still calls RUNNING": (
        {"versions": {1: ("RUNNING", 100), 2: ("RUNNING", 0)}, "routers": 1, "ready": {1: 0}},
        2, {1: 0, 2: 100}, {1, 2}, "True Shifting"),
    "an unhealthy version that a router reaches keeps the weight while one is missing": (
        {"versions": {1: ("UNHEALTHY", 100), 2: ("RUNNING", 0)}, "routers": 1, "ready": {1: 1}},
        2, {1: 100, 2: 0}, {1, 2}, "True WaitingForRouters"),
    "every router that answers must reach what takes over from a version that no router reaches": (
        {"versions": {1: ("UNHEALTHY", 100), 2: ("RUNNING", 0)}, "routers": 2, "expected": 3, "ready": {2: 1}},
        2, {1: 100, 2: 0}, {1, 2}, "True WaitingForRouters"),
    "where no router answers, nothing takes over from an unhealthy version": (
        {"versions": {1: ("UNHEALTHY", 100), 2: ("RUNNING", 0)}, "routers": 0}, 2, {1: 100, 2: 0}, {1, 2},
        "True WaitingForRouters"),
    "a candidate takes over from a stable version that never started": (
        {"versions": {1: ("DEPLOY_FAILED", 100), 2: ("RUNNING", 0)}}, 2, {1: 0, 2: 100}, {1, 2}, "True Shifting"),
    "weight does not return to a version on its way out": (
        {"versions": {1: ("RUNNING", 0), 2: ("UNHEALTHY", 100)}, "busy": {1: 1}},
        2, {1: 0, 2: 100}, {1, 2}, "True Deploying"),
    "a stable version that Serve is deleting is given again": (
        {"versions": {1: ("DELETING", 100)}}, 1, {1: 100}, {1}, "True Deploying"),
    "with the table lost, what runs keeps serving": (
        {"versions": {1: ("RUNNING", None)}}, 2, {1: 100, 2: 0}, {1, 2}, "True Deploying"),
    "with the table lost, the wanted version is first choice": (
        {"versions": {1: ("RUNNING", None), 2: ("RUNNING", None)}, "busy": {1: 1}},
        2, {2: 100}, {1, 2}, "True Draining"),
    "registry down: nothing deployed, nothing to keep": (
        {"versions": {}}, DOWN, {}, set(), "False RegistryUnreachable"),
    "registry down: the stable version stays": (
        {"versions": {1: ("RUNNING", 100)}}, DOWN, {1: 100}, {1}, "False RegistryUnreachable"),
    "registry down half-way: nothing moves": (
        {"versions": {1: ("RUNNING", 100), 2: ("RUNNING", 0)}}, DOWN, {1: 100, 2: 0}, {1, 2},
        "False RegistryUnreachable"),
    "registry down while draining: nothing is dropped": (
        {"versions": {1: ("RUNNING", 0), 2: ("RUNNING", 100)}}, DOWN, {1: 0, 2: 100}, {1, 2},
        "False RegistryUnreachable"),
    "registry down and the table lost: what runs keeps serving": (
        {"versions": {1: ("RUNNING", None)}}, DOWN, {1: 100}, {1}, "False RegistryUnreachable"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROLLOUTS)
def test_rollout(case: str) -> None:
    scene, wanted, expected_weights, expected_apps, progress = ROLLOUTS[case]
    resolution = identity(wanted) if isinstance(wanted, int) else wanted

    planned = plan_one(observe(**scene), resolution)

    assert weights(planned) == expected_weights
    assert deployed(planned) == expected_apps
    status, reason, _ = condition(planned, ConditionType.PROGRESSING)
    assert f"{status} {reason}" == progress
    assert (planned.requeue_after is not None) == (status == "True" or planned.changed or "Failed" in reason)


def test_a_moved_weight_is_an_edit_of_the_routers_table_and_of_nothing_else() -> None:
    observed = observe({1: ("RUNNING", 100), 2: ("RUNNING", 0)})
    before = {name: app.entry for name, app in observed.apps.items()}
    after = applications(plan_one(observed, identity(2)))

    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["router"]
    (old,), (new,) = before["router"]["deployments"], after["router"]["deployments"]
    assert [key for key in old if old[key] != new[key]] == ["user_config"]
    assert before.keys() == after.keys()


@pytest.mark.parametrize("unknown", [{"routers": 0}, {"routers": 1}, {"stale": 1}, {"busy": {1: 1}}])
def test_a_deleted_model_loses_its_row_first_and_its_apps_when_no_router_holds_them(unknown: dict[str, Any]) -> None:
    def plan_without(observed: ObservedFleet) -> FleetPlan:
        return plan(fleet=None, models=[], resolutions={}, observed=observed, serve_options=OPTIONS, now=NOW)

    first = plan_without(observe({1: ("RUNNING", 100)}))
    assert weights(first) == {}
    assert deployed(first) == {1}
    assert condition(first, ConditionType.PROGRESSING)[:2] == ("True", "Removing")

    waiting = plan_without(observe({1: ("RUNNING", None)}, **unknown))
    assert deployed(waiting) == {1}
    assert waiting.requeue_after is not None

    done = plan_without(observe({1: ("RUNNING", None)}))
    assert deployed(done) == set()


def test_a_version_on_its_way_out_is_marked_so_and_one_that_comes_back_is_not() -> None:
    observed = observe({1: ("RUNNING", 0), 2: ("RUNNING", 100)}, busy={1: 1})
    left = {
        row.version: row.leaving for row in table_of(plan_one(observed, identity(2)).config).models["digits"].versions
    }
    assert left == {"1": True, "2": False}
    back = {
        row.version: row.leaving for row in table_of(plan_one(observed, identity(1)).config).models["digits"].versions
    }
    assert back == {"1": False, "2": False}


def test_registry_down_the_version_with_the_requests_keeps_them() -> None:
    observed = observe({1: ("RUNNING", 100), 2: ("DEPLOYING", 0)})
    planned = plan_one(observed, DOWN)

    assert not planned.changed
    assert condition(planned, ConditionType.READY)[0] == "True"
    assert condition(planned, ConditionType.DEGRADED) == (
        "True",
        "RegistryUnreachable",
        "http://mlflow.ml:5000 does not answer; version 1 keeps the requests",
    )


def test_applications_of_others_are_left_as_they_are() -> None:
    others = {
        "theirs": ObservedApp(name="theirs", status="RUNNING", entry={"name": "theirs", "import_path": "a.b:c"}),
        "from-python": ObservedApp(name="from-python", status="RUNNING"),
        "going": ObservedApp(name="going", status="DELETING", entry={"name": "going", "import_path": "a.b:c"}),
    }
    planned = plan_one(ObservedFleet(apps=others), identity(1))
    assert applications(planned)["theirs"] == {"name": "theirs", "import_path": "a.b:c"}
    assert applications(planned).keys() == {"theirs", "router", app_name(1)}


def test_two_models_with_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="digits"):
        plan(
            fleet=None,
            models=[model(), model()],
            resolutions={},
            observed=ObservedFleet(),
            serve_options=OPTIONS,
            now=NOW,
        )


def test_a_model_nobody_resolved_is_kept_as_it_is() -> None:
    observed = observe({1: ("RUNNING", 100)})
    planned = plan(fleet=None, models=[model()], resolutions={}, observed=observed, serve_options=OPTIONS, now=NOW)
    assert not planned.changed
    assert condition(planned, ConditionType.PROGRESSING)[:2] == ("True", "Resolving")
    assert condition(planned, ConditionType.DEGRADED)[0] == "False"
