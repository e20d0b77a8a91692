"""Each rule of a rollout, one row each: what is observed, what is wanted, what the plan holds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rayfleet_operator.plan import traffic
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.model import RETRY_FAILED_AFTER
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
from .world import World

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


IN_PLACE: dict[str, dict[str, Any]] = {
    "replicas": {"replicas": 3},
    "batch size": {"batching": {"maxBatchSize": 64}},
    "batch wait": {"batching": {"maxWait": "20ms"}},
    "timeout": {"limits": {"requestTimeout": "5s"}},
    "queue": {"limits": {"maxQueuedRequests": 7}},
    "body size": {"limits": {"maxRequestBytes": "1Mi"}},
    "transform": {"transform": {"input": {"image": {"resize": [32, 48], "mode": "L"}}}},
    "labels": {"transform": {"output": {"classification": {"labels": ["cat", "dog"]}}}},
    "poll interval": {"model": {"uri": "models:/digits@live", "registry": {"pollInterval": "5s"}}},
    "another name for the same version": {"model": {"uri": "models:/digits/1"}},
}


@pytest.mark.parametrize("edit", IN_PLACE)
def test_an_edit_that_needs_no_restart_keeps_the_app(edit: str) -> None:
    before = applications(plan_one(observe({}), identity(1)))
    after = applications(plan_one(observe({1: ("RUNNING", 100)}), identity(1), of=model(**IN_PLACE[edit])))

    assert before.keys() == after.keys()
    # What Serve's code version and its replicas' version are made of (deploy_utils.get_app_code_version).
    for name in before:
        for key in ("import_path", "args"):
            assert before[name][key] == after[name][key]
        assert [one["ray_actor_options"] for one in before[name]["deployments"]] == [
            one["ray_actor_options"] for one in after[name]["deployments"]
        ]


RESTARTS: dict[str, dict[str, Any]] = {
    "cpu": {"resources": {"cpu": "2"}},
    "memory": {"resources": {"memory": "1Gi"}},
    "gpu": {"resources": {"gpu": "0.5"}},
    "gpu memory": {"resources": {"gpu": "1", "gpuMemory": "6Gi"}},
    "code execution": {"model": {"uri": "models:/digits@live", "allowCodeExecution": True}},
    "tracking server": {"model": {"uri": "models:/digits@live", "registry": {"trackingUri": "http://other:5000"}}},
}


@pytest.mark.parametrize("edit", RESTARTS)
def test_an_edit_that_needs_a_restart_rolls_out_like_a_new_version(edit: str) -> None:
    edited = model(replicas=2, **RESTARTS[edit])
    planned = plan_one(observe({1: ("RUNNING", 100)}), identity(1), of=edited)

    old, new = app_name(1), app_name(1, edited)
    apps = applications(planned)
    assert {version.app: version.weight for version in planned.models[0].versions} == {old: 100, new: 0}
    # The version that still has the requests follows every edit that does not restart it, and no other.
    assert apps[old]["deployments"][0]["num_replicas"] == 2
    before = applications(plan_one(observe({}), identity(1)))[old]
    assert apps[old]["args"] == before["args"]
    assert apps[old]["deployments"][0]["ray_actor_options"] == before["deployments"][0]["ray_actor_options"]


def test_a_tracking_server_that_is_not_read_from_restarts_nothing() -> None:
    stored = identity(1).model_copy(update={"artifact_uri": "s3://models/digits/1"})
    moved = model(model={"uri": "models:/digits@live", "registry": {"trackingUri": "http://other:5000"}})
    assert (
        applications(plan_one(observe({}), stored)).keys()
        == applications(plan_one(observe({}), stored, of=moved)).keys()
    )


CATS = {"output": {"classification": {"labels": ["cat", "dog"]}}}


@pytest.mark.parametrize("status", ["DEPLOYING", "DEPLOY_FAILED"])
def test_the_version_before_keeps_the_transform_that_it_was_given(status: str) -> None:
    old, new = model(transform={"output": {"classification": {"labels": ["0", "1"]}}}), model(transform=CATS)
    planned = plan_one(observe({1: ("RUNNING", 100), 2: (status, 0)}, of=old), identity(2), of=new)
    rows = {row.version: row for row in table_of(planned.config).models["digits"].versions}
    assert rows["1"].weight == 100
    assert rows["1"].transform == traffic.transform(old.spec.transform)
    assert rows["2"].transform == traffic.transform(new.spec.transform)


def test_an_edit_of_the_transform_alone_holds_for_the_version_that_serves() -> None:
    edited = model(transform=CATS)
    planned = plan_one(observe({1: ("RUNNING", 100)}), identity(1), of=edited)
    (row,) = table_of(planned.config).models["digits"].versions
    assert (row.version, row.transform) == ("1", traffic.transform(edited.spec.transform))


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


EDITED = {
    "replicas": 9,
    "batching": {"maxBatchSize": 8},
    "limits": {"requestTimeout": "1s", "maxQueuedRequests": 7},
    "transform": CATS,
    "resources": {"cpu": "4"},
}


def test_registry_down_a_version_that_was_known_is_wanted_as_before() -> None:
    known = ResolutionProblem("RegistryUnreachable", "silence.", identity(2))
    for scene in ({1: ("RUNNING", 100), 2: ("RUNNING", 0)}, {1: ("RUNNING", 0), 2: ("RUNNING", 100)}):
        for spec in ({}, EDITED):
            observed, edited = observe(scene), model(**spec)
            planned, up = plan_one(observed, known, of=edited), plan_one(observed, identity(2), of=edited)
            assert planned.config == up.config
            assert condition(planned, ConditionType.PROGRESSING) == condition(up, ConditionType.PROGRESSING)
            assert condition(planned, ConditionType.DEGRADED) == (
                "True", "RegistryUnreachable", "silence; version 2 stays the wanted one"
            )  # fmt: skip


@pytest.mark.parametrize("reason", ["VersionNotFound", "RegistryUnreachable"])
def test_an_edit_that_may_be_meant_for_another_version_waits_for_it(reason: str) -> None:
    edited = model(**EDITED, model={"uri": "models:/digits/7"})
    observed = observe({1: ("RUNNING", 100), 2: ("DEPLOYING", 0)})
    assert not plan_one(observed, ResolutionProblem(reason, "digits has no version 7"), of=edited).changed


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
