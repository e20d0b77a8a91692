"""What people read in a status, and the events that it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from api.api_server import refusals
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.api.status import Condition as StatusCondition
from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import causes, conditions, events, status
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY, Condition, ConditionType
from rayfleet_operator.plan.model import ModelPlan
from rayfleet_operator.plan.observed import Resolution, ResolutionProblem
from rayfleet_operator.plan.pods import Trouble
from rayfleet_operator.plan.versions import VersionPlan
from rayfleet_serving.config import ModelIdentity

from .scenes import NOW, identity, model

NO_NODE = Trouble("Unschedulable", "no node takes pod vision-worker-a")
CRASH = Trouble("PodCrashing", "container ray-worker ended with code 1")
SHORT = "1 of 3 replicas wait: each needs 0.4 GPU, 0.2 free on 1 GPU"
REGISTRY = ("RegistryUnreachable", "http://mlflow.ml:5000 does not answer")
FAILED = ("VersionFailed", "version 1 failed to start: no module named x")


def version(number: int = 1, state: str = "RUNNING", weight: int = 100, **fields: Any) -> VersionPlan:
    return VersionPlan(str(number), f"m-{number}", f"digits-{number}", weight, state, **fields)


def plan(
    *versions: VersionPlan, ready: str = "True", reason: str = "Serving", faults: Sequence[tuple[str, str]] = ()
) -> ModelPlan:
    return ModelPlan(
        name="digits",
        conditions=(
            Condition(ConditionType.READY, ready, reason, f"Serve says {reason}"),  # type: ignore[arg-type]
            conditions.resting("Settled", "at rest"),
            conditions.degraded(list(faults)),
        ),
        versions=versions,
        serving=ready == "True",
    )


LOADING = plan(version(state="DEPLOYING"), ready="False", reason="NotServing")
DEAD = plan(version(state="DEPLOY_FAILED"), ready="False", reason="NotServing", faults=[FAILED])
AGAIN = plan(version(state="DEPLOYING", failure="it has no x"), ready="False", reason="NotServing", faults=[FAILED])
UNRESOLVED = plan(ready="False", reason="NotDeployed", faults=[REGISTRY])
LOADING_2 = plan(
    version(state="DEPLOYING"), version(2, "DEPLOY_FAILED", 0), ready="False", reason="NotServing", faults=[FAILED]
)
REPLACING = plan(
    version(state="DEPLOY_FAILED"), version(2, "DEPLOYING", 0), ready="False", reason="NotServing", faults=[FAILED]
)
WAITING_2 = plan(
    version(state="UNHEALTHY"), version(2, "Waiting", 0), ready="False", reason="NotServing", faults=[FAILED]
)

# The plan, trouble with pods, whether replicas lack room; then the reasons of Ready and Degraded, "-" where none is.
REASONS: dict[str, tuple[ModelPlan, list[Trouble], bool, str, str]] = {
    "it serves": (plan(version()), [], False, "Serving", "-"),
    "it serves, whatever ails other pods": (plan(version()), [NO_NODE], False, "Serving", "-"),
    "it serves, and not all of its replicas have room": (plan(version()), [], True, "Serving", "InsufficientCapacity"),
    "it serves while the registry is away": (
        plan(version(), faults=[REGISTRY]), [], False, "Serving", "RegistryUnreachable"),
    "it loads": (LOADING, [], False, "NotServing", "-"),
    "it loads, and no node is there": (LOADING, [NO_NODE, CRASH], False, "Unschedulable", "Unschedulable"),
    "it loads, and has no room": (LOADING, [], True, "InsufficientCapacity", "InsufficientCapacity"),
    "pods come before room": (LOADING, [CRASH], True, "PodCrashing", "PodCrashing"),
    "it failed": (DEAD, [], False, "VersionFailed", "VersionFailed"),
    "its own failure comes before the pods'": (DEAD, [CRASH], True, "VersionFailed", "VersionFailed"),
    "the registry comes before pods": (UNRESOLVED, [NO_NODE], False, "RegistryUnreachable", "RegistryUnreachable"),
    "another version's failure is not why it does not answer": (LOADING_2, [], False, "NotServing", "VersionFailed"),
    "nor is it where the pods know better": (LOADING_2, [NO_NODE], False, "Unschedulable", "Unschedulable"),
    "a newer version that has no room is why a failed one is not replaced": (
        REPLACING, [], True, "InsufficientCapacity", "InsufficientCapacity"),
    "so it is where it has not been given to Serve yet": (
        WAITING_2, [], True, "InsufficientCapacity", "InsufficientCapacity"),
    "and where no node takes its pod": (REPLACING, [NO_NODE], True, "Unschedulable", "Unschedulable"),
    "a newer version that only loads is no reason": (REPLACING, [], False, "VersionFailed", "VersionFailed"),
    "the registry is not why a crashed replica does not answer": (
        plan(version(state="DEPLOYING"), ready="False", reason="NotServing", faults=[REGISTRY]),
        [], False, "NotServing", "RegistryUnreachable"),
    "it failed and is tried again": (AGAIN, [], False, "VersionFailed", "VersionFailed"),
    "it failed and is tried again, and has no room": (AGAIN, [], True, "VersionFailed", "VersionFailed"),
    "nobody knows": (
        plan(version(), ready="Unknown", reason="RoutersUnknown", faults=[REGISTRY]), [NO_NODE], False,
        "RoutersUnknown", "RegistryUnreachable"),
}  # fmt: skip


@pytest.mark.parametrize("case", REASONS)
def test_the_layer_that_knows_speaks_first(case: str) -> None:
    planned, troubles, lacking, ready, degraded = REASONS[case]
    explained = causes.explain(planned, troubles, SHORT if lacking else None)
    assert [each.type for each in explained] == ["Ready", "Progressing", "Degraded"]
    assert explained[0].reason == ready
    assert explained[0].status == planned.conditions[0].status, "the cause changes nothing about whether it answers"
    assert (explained[2].reason if explained[2].status == "True" else "-") == degraded


def test_nothing_that_is_wrong_is_left_out() -> None:
    assert causes.explain(DEAD, [CRASH], None)[2].message == f"{FAILED[1]}\n{CRASH.message}"
    ready, _, degraded = causes.explain(REPLACING, [], SHORT)
    assert ready.message == degraded.message == f"{SHORT}\n{FAILED[1]}"
    assert causes.explain(LOADING_2, [NO_NODE], None)[0].message == NO_NODE.message, "version 2 had no requests"


REFUSED = Trouble("RayServiceRefused", "the RayService is refused: spec.x: Required value")

# The plan, trouble with pods; then what Ready and Degraded say where something of the fleet was refused.
REFUSALS: dict[str, tuple[ModelPlan, list[Trouble], str, str, list[str]]] = {
    "it serves": (plan(version()), [], "True Serving", "RayServiceRefused", [REFUSED.message]),
    "nobody knows": (
        plan(version(), ready="Unknown", reason="RoutersUnknown"), [],
        "Unknown RoutersUnknown", "RayServiceRefused", [REFUSED.message]),
    "it serves, and the next version failed": (
        plan(version(), faults=[FAILED]), [], "True Serving", "VersionFailed", [FAILED[1], REFUSED.message]),
    "it loads": (
        LOADING, [NO_NODE], "False RayServiceRefused", "RayServiceRefused", [REFUSED.message, NO_NODE.message]),
    "it was told of among the troubles, too": (
        LOADING, [REFUSED], "False RayServiceRefused", "RayServiceRefused", [REFUSED.message]),
    "it failed": (DEAD, [], "False VersionFailed", "VersionFailed", [FAILED[1], REFUSED.message]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_told_whether_it_answers_or_not(case: str) -> None:
    planned, troubles, ready, degraded, messages = REFUSALS[case]
    explained = causes.explain(planned, troubles, None, refused=REFUSED)
    assert f"{explained[0].status} {explained[0].reason}" == ready
    assert (explained[2].status, explained[2].reason) == ("True", degraded)
    assert explained[2].message.split("\n") == messages


@pytest.mark.parametrize("case", REFUSALS)
def test_what_nobody_can_address_is_not_ready(case: str) -> None:
    planned, troubles, *_ = REFUSALS[case]
    ready, progressing, degraded = causes.explain(planned, troubles, None, refused=REFUSED, address_taken=True)
    assert (ready.status, ready.reason, ready.message) == ("False", REFUSED.reason, REFUSED.message)
    assert progressing == planned.conditions[1]
    assert degraded.reason == REFUSED.reason
    assert degraded.message.split("\n").count(REFUSED.message) == 1
    ready, _, degraded = causes.explain(planned, troubles, None, address_taken=True)
    assert (ready.status, ready.reason, degraded.reason) == ("False", "NameTaken", "NameTaken")


def test_an_address_that_is_taken_is_no_lost_answer() -> None:
    before = written(model(), plan(version()))
    after = written(before, plan(version()), minutes=1, quiet=True, refused=REFUSED, address_taken=True)
    assert after.status.conditions[0].status == "False"
    assert told(before, after) == [("Warning", "RayServiceRefused")] * 2


def written(
    of: ModelDeployment,
    planned: ModelPlan,
    resolution: Resolution | None = None,
    *,
    minutes: float = 0,
    quiet: bool = False,
    refused: Trouble | None = None,
    address_taken: bool = False,
    shortage: str | None = None,
) -> ModelDeployment:
    after = status.model_status(
        of,
        planned,
        url="http://shared.ml.svc:8000/digits",
        resolution=resolution,
        troubles=(),
        shortage=shortage,
        quiet=quiet,
        refused=refused,
        address_taken=address_taken,
        now=NOW + timedelta(minutes=minutes),
    )
    return of.model_copy(update={"status": after})


def times(of: ModelDeployment) -> dict[str, str]:
    return {each.type: each.last_transition_time[11:16] for each in of.status.conditions}


def test_the_time_of_a_condition_moves_with_its_status_only() -> None:
    of = written(model(), LOADING)
    assert times(of) == {"Ready": "12:00", "Progressing": "12:00", "Degraded": "12:00"}
    of = written(of, DEAD, minutes=1)
    assert times(of) == {"Ready": "12:00", "Progressing": "12:00", "Degraded": "12:01"}
    of = written(of, plan(version()), minutes=2)
    assert times(of) == {"Ready": "12:02", "Progressing": "12:00", "Degraded": "12:02"}
    assert times(written(of, plan(version(2)), minutes=3)) == times(of)


def told(before: ModelDeployment, after: ModelDeployment) -> list[tuple[str, str]]:
    return [(each.type, each.reason) for each in events.events(before.status.conditions, after.status.conditions)]


def test_events_are_told_when_something_changes() -> None:
    steps = [LOADING, DEAD, replace(DEAD), plan(version()), LOADING, plan(version())]
    of, seen = model(), []
    for minutes, step in enumerate(steps):
        after = written(of, step, minutes=minutes)
        seen.append(told(of, after))
        of = after
    assert seen == [
        [],
        [("Warning", "VersionFailed")],
        [],
        [("Normal", "Serving"), ("Normal", "Recovered")],
        [("Warning", "NotServing")],
        [("Normal", "Serving")],
    ]


def test_a_new_cluster_is_an_event_whenever_it_is_another_one() -> None:
    def announced(text: str) -> list[StatusCondition]:
        return status.merged([], [conditions.progressing("NewCluster", text)], 1, NOW)

    assert [each.message for each in events.events([], announced("a"))] == ["a"]
    assert events.events(announced("a"), announced("a")) == []
    assert [each.message for each in events.events(announced("a"), announced("b"))] == ["b"]


def test_a_model_tells_of_a_cluster_of_its_own_unless_something_of_itself_is_under_way() -> None:
    rests = written(model(), plan(version())).status
    told = status.announced(rests, rests, "spec.image changes", NOW)
    assert [(each.type, each.status) for each in told.conditions] == [
        ("Ready", "True"),
        ("Progressing", "True"),
        ("Degraded", "False"),
    ]
    assert (told.conditions[1].reason, told.conditions[1].message) == ("NewCluster", "spec.image changes")
    again = status.announced(rests, told, "spec.image changes", NOW + timedelta(minutes=1))
    assert again.conditions[1].last_transition_time == told.conditions[1].last_transition_time
    moves = written(model(), under_way("Deploying")).status
    assert status.announced(moves, moves, "spec.image changes", NOW) == moves


def under_way(reason: str) -> ModelPlan:
    """It serves, and something is under way."""
    ready, _, degraded = plan(version()).conditions
    return replace(plan(version()), conditions=(ready, conditions.progressing(reason, "v2"), degraded))


def test_an_event_for_the_end_of_a_change() -> None:
    before = written(model(), under_way("Deploying"))
    assert told(before, written(before, plan(version(2)))) == [("Normal", "Settled")]


def test_one_lost_answer_is_no_outage() -> None:
    before = written(model(), plan(version()))
    lost = plan(version(), ready="Unknown", reason="RoutersUnknown")
    after = written(before, lost, minutes=1, quiet=True)
    assert told(before, after) == []
    assert times(after) == times(before)
    assert written(model(), lost, quiet=True).status.conditions[0].status == "Unknown", "it was never ready"


def test_what_serve_does_not_say_stays_as_it_was() -> None:
    before = written(model(), plan(version(state="UNHEALTHY", message="it crashed", replicas_running=3)))
    unknown = plan(version(state="Unknown"), version(2, "Waiting", 0), ready="Unknown", reason="RayUnreachable")
    after = written(before, unknown)
    assert after.status.replicas == 3
    assert [(each.state, each.message) for each in after.status.versions] == [
        ("Unhealthy", "it crashed"),
        ("Starting", ""),
    ]
    assert [each.state for each in written(model(), unknown).status.versions] == ["Starting"] * 2


@pytest.mark.parametrize("reason", ["WaitingForRouters", "Starting"])
def test_what_was_settled_is_not_under_way_because_an_answer_was_lost(reason: str) -> None:
    before = written(model(), plan(version()))
    waits = under_way(reason)
    assert written(before, waits, quiet=True) == before
    assert written(before, waits).status.conditions[1].reason == reason
    edited = before.model_copy(update={"metadata": before.metadata.model_copy(update={"generation": 5})})
    assert written(edited, waits, quiet=True).status.conditions[1].reason == reason, "another spec was settled"
    assert written(before, under_way("Deploying"), quiet=True).status.conditions[1].reason == "Deploying"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([case[0] for case in REASONS.values()]), min_size=2, max_size=6))
def test_the_same_is_never_told_twice(plans: list[ModelPlan]) -> None:
    of = model()
    for each in plans:
        of = written(of, each)
        assert told(of, written(of, each)) == []
        assert written(of, each, minutes=5) == of, "nor written"


def test_what_was_resolved_is_kept_while_the_registry_says_nothing() -> None:
    of = written(model(), plan(version()), identity(3))
    assert of.status.resolved is not None
    assert of.status.resolved.version == "3"
    small = ResolutionProblem(INSUFFICIENT_CAPACITY, "no worker is large enough")
    gone = ResolutionProblem("VersionNotFound", "no such version")
    away = ResolutionProblem("RegistryUnreachable", "away", last=identity(3))
    assert written(of, plan(version()), None).status.resolved == of.status.resolved
    assert written(of, plan(version()), small).status.resolved == of.status.resolved
    assert written(of, plan(version()), away).status.resolved == of.status.resolved
    assert written(of, plan(version()), gone).status.resolved is None
    other = model(model={"uri": "models:/other@live"}).model_copy(update={"status": of.status})
    assert written(other, plan(version()), None).status.resolved is None, "another URI was never resolved"


def test_what_does_not_fit_into_a_status_does_not_stop_the_fleet() -> None:
    long = ModelIdentity(version="1", model_id="m", artifact_uri="s3://" + "x" * 3000)
    assert written(model(), plan(version()), long).status.resolved is None


@pytest.mark.parametrize(
    ("state", "running", "told_as"),
    [
        ("Waiting", None, "Starting"),
        ("DEPLOYING", None, "Starting"),
        ("RUNNING", 1, "Ready"),
        ("UNHEALTHY", 1, "Unhealthy"),
        ("UNHEALTHY", 0, "Unhealthy"),
        ("DEPLOY_FAILED", 0, "Failed"),
        ("DEPLOY_FAILED", None, "Failed"),
        ("DEPLOY_FAILED", 1, "Unhealthy"),
        ("Draining", 1, "Draining"),
    ],
)
def test_a_version_that_had_started_has_not_failed_to(state: str, running: int | None, told_as: str) -> None:
    of = written(model(), plan(version(state=state, replicas_running=running)))
    assert [each.state for each in of.status.versions] == [told_as]
    assert refused(of.status) == []


LONG = st.sampled_from(["", "x", "ü" * 40_000, "\n".join(["line"] * 10_000)])


@settings(max_examples=60, deadline=None)
@given(st.lists(LONG, max_size=20), LONG, LONG)
def test_every_status_is_one_that_the_api_server_takes(messages: list[str], text: str, ready: str) -> None:
    many = [
        replace(
            version(number, "DEPLOY_FAILED", 0, message=message), version="v" + message[:500], model_id="m" + message
        )
        for number, message in enumerate(messages)
    ]
    planned = plan(*many, ready="False", reason="NotServing", faults=[("VersionFailed", text)])
    planned = replace(planned, conditions=(replace(planned.conditions[0], message=ready), *planned.conditions[1:]))
    of = written(model(), planned, identity(1))
    assert refused(of.status) == []
    assert len(of.status.versions) <= 16


def refused(found: ModelDeploymentStatus) -> list[Any]:
    body = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    obj = {
        "apiVersion": "rayfleet.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits"},
        "spec": {"model": {"uri": "models:/digits@live"}},
        "status": body,
    }
    return list(refusals(obj))


def test_a_status_that_is_too_long_would_be_seen_here() -> None:
    good = written(model(), plan(version())).status
    bad = good.model_copy(
        update={
            "conditions": [StatusCondition.model_construct(**{**dict(good.conditions[0]), "message": "x" * 40_000})]
        }
    )
    assert refused(good) == []
    assert refused(bad) != []
