"""What a plan says of each model: its conditions and its versions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rayfleet_operator.api.status import ModelDeploymentStatus, VersionStatus
from rayfleet_operator.plan import status
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.observed import ResolutionProblem

from .scenes import DOWN, NOW, app_name, condition, identity, model, observe, plan_one

CONDITIONS: dict[str, tuple[dict[str, Any], int | ResolutionProblem, dict[ConditionType, str], bool]] = {
    "serving": ({"versions": {1: ("RUNNING", 100)}}, 1, {ConditionType.READY: "True Serving"}, True),
    "an update under way does not make it unready": (
        {"versions": {1: ("RUNNING", 100), 2: ("DEPLOYING", 0)}}, 2, {ConditionType.READY: "True Serving"}, True),
    "replicas being added do not make it unready": (
        {"versions": {1: ("DEPLOYING", 100)}, "ready": {1: 2}}, 1, {ConditionType.READY: "True Serving"}, True),
    "one router being replaced does not make it unready": (
        {"versions": {1: ("RUNNING", 100)}, "ready": {1: 1}}, 1, {ConditionType.READY: "True Serving"}, True),
    "loading": ({"versions": {1: ("DEPLOYING", 100)}}, 1, {ConditionType.READY: "False NotServing"}, False),
    "not deployed yet": ({"versions": {}}, 1, {ConditionType.READY: "False NotDeployed"}, False),
    "unknown": (
        {"versions": {1: ("RUNNING", 100)}, "routers": 0}, 1, {ConditionType.READY: "Unknown RoutersUnknown"}, False),
    "unknown while replicas are being added": (
        {"versions": {1: ("DEPLOYING", 100)}, "routers": 0, "replicas": {1: 1}}, 1,
        {ConditionType.READY: "Unknown RoutersUnknown"}, False),
    "no router answers, and there is no replica that could": (
        {"versions": {1: ("DEPLOYING", 100)}, "routers": 0, "replicas": {1: 0}}, 1,
        {ConditionType.READY: "False NotServing"}, False),
    "settled": ({"versions": {1: ("RUNNING", 100)}}, 1, {ConditionType.PROGRESSING: "False Settled"}, True),
    "a router still holds an older table": (
        {"versions": {1: ("RUNNING", 100)}, "stale": 1}, 1,
        {ConditionType.PROGRESSING: "True WaitingForRouters"}, True),
    "a router has not answered": (
        {"versions": {1: ("RUNNING", 100)}, "routers": 1}, 1,
        {ConditionType.PROGRESSING: "True WaitingForRouters"}, True),
    "never resolved": (
        {"versions": {}}, DOWN,
        {ConditionType.READY: "False NotDeployed", ConditionType.DEGRADED: "True RegistryUnreachable"}, False),
    "failed candidate": (
        {"versions": {1: ("RUNNING", 100), 2: ("DEPLOY_FAILED", 0)}}, 2,
        {ConditionType.READY: "True Serving", ConditionType.DEGRADED: "True VersionFailed"}, True),
    "failed first version": (
        {"versions": {1: ("DEPLOY_FAILED", 100)}}, 1,
        {ConditionType.READY: "False NotServing", ConditionType.DEGRADED: "True VersionFailed"}, False),
    "unhealthy stable version": (
        {"versions": {1: ("UNHEALTHY", 100)}}, 1, {ConditionType.DEGRADED: "True StableUnhealthy"}, False),
    "unhealthy stable version outweighs a failed candidate": (
        {"versions": {1: ("UNHEALTHY", 100), 2: ("DEPLOY_FAILED", 0)}}, 2,
        {ConditionType.DEGRADED: "True StableUnhealthy"}, False),
    "nothing wrong": (
        {"versions": {1: ("RUNNING", 100), 2: ("DEPLOYING", 0)}}, 2,
        {ConditionType.DEGRADED: "False AsExpected"}, True),
}  # fmt: skip


@pytest.mark.parametrize("case", CONDITIONS)
def test_conditions(case: str) -> None:
    scene, wanted, expected, serving = CONDITIONS[case]
    planned = plan_one(observe(**scene), identity(wanted) if isinstance(wanted, int) else wanted)
    (found,) = planned.models
    assert [str(one.type) for one in found.conditions] == ["Ready", "Progressing", "Degraded"]
    assert {one.type: f"{one.status} {one.reason}" for one in found.conditions if one.type in expected} == expected
    assert found.serving == serving


@pytest.mark.parametrize("edit", [{"replicas": 3}, {"limits": {"requestTimeout": "1s"}}])
def test_an_edit_that_serve_was_not_given_yet_is_under_way(edit: dict[str, Any]) -> None:
    observed = observe({1: ("RUNNING", 100)})
    planned = plan_one(observed, identity(1), of=model(**edit))
    assert planned.changed
    assert condition(planned, ConditionType.PROGRESSING)[:2] == ("True", "Deploying")
    assert condition(planned, ConditionType.READY)[0] == "True"
    assert planned.requeue_after is not None


def test_a_neighbour_s_change_of_the_table_is_no_change_of_this_model() -> None:
    observed = observe({1: ("RUNNING", 100)})
    routers = tuple(state.model_copy(update={"table": "0" * 16}) for state in observed.routers)
    planned = plan_one(replace(observed, routers=routers), identity(1))
    assert condition(planned, ConditionType.PROGRESSING)[:2] == ("False", "Settled")


def test_a_failure_says_what_the_model_said() -> None:
    message = (
        "Failed to update the deployments ['model'].\n"
        "The deployment failed to start 3 times in a row. Error:\n"
        "\x1b[36mray::ServeReplica:digits:model.initialize_and_get_metadata()\x1b[39m (pid=1)\n"
        '  File "/ray/replica.py", line 1, in initialize\n    await self.init()\n'
        "RuntimeError: Traceback (most recent call last):\n"
        '  File "/model/app.py", line 7, in __init__\n    load()\n    ^^^^^^\n'
        "rayfleet_serving.model.errors.LoadError: "
        "this pickle needs allowCodeExecution: true\nand a person who trusts it\n"
    )
    planned = plan_one(observe({1: ("RUNNING", 100), 2: ("DEPLOY_FAILED", 0)}, message=message), identity(2))
    assert condition(planned, ConditionType.DEGRADED)[2] == (
        "version 2 failed to start: this pickle needs allowCodeExecution: true\nand a person who trusts it"
    )


@pytest.mark.parametrize("state", [None, "DELETING", "NOT_STARTED", "DEPLOYING"])
@pytest.mark.parametrize("weight", [0, 100])
def test_a_version_that_failed_is_told_of_until_it_runs(state: str | None, weight: int) -> None:
    failed = VersionStatus(name="2", app=app_name(2), state="Failed", message="no module named x")
    of = model().model_copy(update={"status": ModelDeploymentStatus(versions=[failed])})
    stable = {1: ("RUNNING", 100)} if weight == 0 else {}

    def told(versions: dict[int, tuple[str, int]]) -> tuple[tuple[str, str, str], VersionStatus]:
        planned = plan_one(observe(versions), identity(2), of=of)
        after = status.model_status(
            of, planned.models[0], url="", resolution=None, troubles=(), shortage=None, quiet=False, now=NOW
        )
        (version,) = (each for each in after.versions if each.name == "2")
        return condition(planned, ConditionType.DEGRADED), version

    degraded, version = told(stable if state is None else {**stable, 2: (state, weight)})
    assert degraded == ("True", "VersionFailed", "version 2 failed to start: no module named x")
    assert (version.state, version.message) == ("Failed", "no module named x")

    degraded, version = told({**stable, 2: ("RUNNING", weight)})
    assert degraded[:2] == ("False", "AsExpected")
    assert version.state == "Ready"


def test_versions_say_how_many_replicas_answer_of_those_that_should() -> None:
    observed = observe({1: ("RUNNING", 100)})
    apps = {name: replace(app, replicas_running=1, replicas_target=3) for name, app in observed.apps.items()}
    planned = plan_one(replace(observed, apps=apps), identity(2))
    assert [(one.version, one.replicas_running, one.replicas_target) for one in planned.models[0].versions] == [
        ("1", 1, 3),
        ("2", None, None),
    ]


def test_versions_say_what_becomes_of_them() -> None:
    planned = plan_one(observe({1: ("RUNNING", 0), 2: ("RUNNING", 100)}, busy={1: 1}), identity(3))
    assert [(one.version, one.weight, one.state) for one in planned.models[0].versions] == [
        ("2", 100, "RUNNING"),
        *sorted([("1", 0, "Draining"), ("3", 0, "Waiting")], key=lambda one: app_name(int(one[0]))),
    ]
