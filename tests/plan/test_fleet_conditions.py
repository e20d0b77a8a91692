"""What people read about a whole fleet."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rayfleet_operator.api.status import Condition as StatusCondition
from rayfleet_operator.plan.conditions import Condition
from rayfleet_operator.plan.fleet_conditions import conditions_of
from rayfleet_operator.plan.observed import ObservedFleet
from rayfleet_operator.plan.pods import Trouble
from rayfleet_operator.plan.switch import Clusters

from .clusters import cluster, clusters, serve
from .scenes import NOW

GOOD = serve({"a.1": "RUNNING"})
NO_ROUTERS = serve({"a.1": "RUNNING"}, routers=0, router="DEPLOYING")
SILENT_ROUTERS = serve({"a.1": "RUNNING"}, routers=0)
NO_NODE = Trouble("Unschedulable", "no node takes pod x")
CRASH = Trouble("PodCrashing", "container ray-head ended")
OLD = timedelta(days=3)
LATE = timedelta(minutes=16)


def told(
    found: Clusters,
    *,
    refused: str | None = None,
    failed: str | None = None,
    stale: tuple[str, ...] = (),
    before: tuple[StatusCondition, ...] = (),
    waits: str | None = None,
    announced: str | None = None,
) -> tuple[Condition, Condition, Condition]:
    return conditions_of(
        found,
        refused=refused,
        failed=failed,
        stale_environment=stale,
        deadline=timedelta(minutes=15),
        now=NOW,
        before=before,
        waits=waits,
        announced=announced,
    )


def ready_since(status: str, minutes: float) -> tuple[StatusCondition, ...]:
    stamp = (NOW - timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (StatusCondition(type="Ready", status=status, reason="Serving", last_transition_time=stamp),)  # type: ignore[arg-type]


ONE = {"active": "c", "followed": "c"}

# The clusters; then status and reason of Ready, of Progressing, and of Degraded.
CASES: dict[str, tuple[Clusters, str, str, str]] = {
    "nothing yet": (clusters(), "False Starting", "True Starting", "False AsExpected"),
    "the first cluster starts": (
        clusters(cluster("c", None, workers=0), pending="c"), "False Starting", "True Starting", "False AsExpected"),
    "the first cluster has no node": (
        clusters(cluster("c", None, workers=0, troubles=(NO_NODE,)), pending="c"),
        "False Unschedulable", "True Starting", "True Unschedulable"),
    "the first cluster is late": (
        clusters(cluster("c", None, workers=0, age=LATE), pending="c"),
        "False ProgressDeadlineExceeded", "True Starting", "True ProgressDeadlineExceeded"),
    "it serves": (clusters(cluster("c", GOOD), **ONE), "True Serving", "False Settled", "False AsExpected"),
    "one worker of a fleet that serves has no node": (
        clusters(cluster("c", GOOD, troubles=(NO_NODE,)), **ONE),
        "True Serving", "False Settled", "True Unschedulable"),
    "the head is gone, workers are not": (
        clusters(cluster("c", None, age=OLD), **ONE), "Unknown RayUnreachable", "True Starting", "False AsExpected"),
    "Serve comes back, and says nothing yet": (
        clusters(cluster("c", ObservedFleet(), age=OLD), **ONE),
        "Unknown RayUnreachable", "True Starting", "False AsExpected"),
    "all is gone": (
        clusters(cluster("c", None, workers=0, age=OLD, troubles=(CRASH,)), **ONE),
        "False PodCrashing", "True Starting", "True PodCrashing"),
    "it answers, but not at its Service": (
        clusters(cluster("c", GOOD), reached=False, **ONE),
        "Unknown ServiceUnreachable", "True Starting", "False AsExpected"),
    "the same, and one worker has no node": (
        clusters(cluster("c", GOOD, troubles=(NO_NODE,)), reached=False, **ONE),
        "Unknown ServiceUnreachable", "True Starting", "True Unschedulable"),
    "an old fleet without a router is not late at once": (
        clusters(cluster("c", NO_ROUTERS, age=OLD), **ONE), "False Starting", "True Starting", "False AsExpected"),
    "the routers run, and none answers": (
        clusters(cluster("c", SILENT_ROUTERS, age=OLD), **ONE),
        "Unknown RoutersUnknown", "True WaitingForRouters", "False AsExpected"),
    "the routers run, and no worker that gets requests": (
        clusters(cluster("c", SILENT_ROUTERS, workers=0, age=OLD), **ONE),
        "False Starting", "True Starting", "False AsExpected"),
    "an upgrade": (
        clusters(cluster("c", GOOD, age=OLD), cluster("d", None, workers=0), pending="d", **ONE),
        "True Serving", "True Upgrading", "False AsExpected"),
    "an upgrade that is stuck": (
        clusters(
            cluster("c", GOOD, age=OLD),
            cluster("d", None, workers=0, age=LATE, troubles=(NO_NODE,)), pending="d", **ONE),
        "True Serving", "True Upgrading", "True ProgressDeadlineExceeded"),
    "an upgrade while the old head is gone: the new pods are not why": (
        clusters(cluster("c", None, age=OLD), cluster("d", None, workers=0, troubles=(NO_NODE,)), pending="d", **ONE),
        "Unknown RayUnreachable", "True Upgrading", "True Unschedulable"),
    "followed before KubeRay promoted it": (
        clusters(cluster("c", GOOD, age=OLD), cluster("d", GOOD), pending="d", active="c", followed="d"),
        "True Serving", "True Upgrading", "False AsExpected"),
    "followed, and KubeRay never promotes it": (
        clusters(cluster("c", GOOD, age=OLD), cluster("d", GOOD, age=LATE), pending="d", active="c", followed="d"),
        "True Serving", "True Upgrading", "True ProgressDeadlineExceeded"),
}  # fmt: skip


def test_a_service_that_stays_unreachable_is_told_as_that() -> None:
    found = clusters(cluster("c", GOOD, age=OLD), reached=False, **ONE)
    ready, _, degraded = told(found, before=ready_since("Unknown", 16))
    assert (ready.reason, degraded.status, degraded.reason) == ("ServiceUnreachable", "True", "ServiceUnreachable")
    assert told(found, before=ready_since("Unknown", 14))[2].status == "False"


@pytest.mark.parametrize("case", CASES)
def test_a_fleet(case: str) -> None:
    found, *expected = CASES[case]
    assert [f"{each.status} {each.reason}" for each in told(found)] == expected


def test_a_stuck_upgrade_says_who_serves_and_what_is_in_the_way() -> None:
    found, *_ = CASES["an upgrade that is stuck"]
    assert told(found)[2].message.splitlines()[0] == (
        "Ray cluster d does not answer after 15 min; c goes on serving: no node takes pod x"
    )


def test_a_fleet_that_served_is_late_once_it_has_not_been_ready_for_long() -> None:
    found, *_ = CASES["an old fleet without a router is not late at once"]
    assert told(found, before=ready_since("True", 600))[2].status == "False"
    assert told(found, before=ready_since("False", 14))[2].status == "False"
    assert told(found, before=ready_since("False", 16))[2].reason == "ProgressDeadlineExceeded"


@pytest.mark.parametrize("case", ["it serves", "the first cluster starts"])
def test_a_change_of_the_pods_that_waits_is_under_way(case: str) -> None:
    found, *expected = CASES[case]
    ready, progressing, degraded = told(found, waits="the new pods wait until KubeRay calls cluster c its own")
    assert (progressing.status, progressing.reason) == ("True", "WaitingForCluster")
    assert progressing.message == "the new pods wait until KubeRay calls cluster c its own"
    assert [f"{each.status} {each.reason}" for each in (ready, degraded)] == [expected[0], expected[2]]


@pytest.mark.parametrize("case", CASES)
def test_a_new_cluster_is_told_of_and_changes_nothing_else_that_is_said(case: str) -> None:
    before, after = told(CASES[case][0]), told(CASES[case][0], announced="spec.image changes")
    assert (after[0], after[2]) == (before[0], before[2])
    assert (after[1].status, after[1].reason, after[1].message) == ("True", "NewCluster", "spec.image changes")
    assert told(CASES[case][0], announced="x", waits="y")[1].message == "y"


def test_a_router_that_finds_no_room_is_told_of_while_the_others_answer() -> None:
    message = "Deployment 'router' has 1 replicas that have taken more than 30s to be scheduled. Required: {CPU: 1.0}"
    app = replace(GOOD.apps["router"], status="DEPLOYING", message=message, replicas_running=2, replicas_target=3)
    short = replace(GOOD, apps={**GOOD.apps, "router": app}, router_target=3)
    ready, progressing, degraded = told(clusters(cluster("c", short), **ONE))
    assert ready.status == "True"
    assert (progressing.reason, progressing.message) == ("WaitingForRouters", "2 of 3 routers answer")
    assert degraded.reason == "InsufficientCapacity"
    assert degraded.message.startswith("2 of 3 routers run: Deployment 'router'")


def test_a_refused_rayservice_is_why_nothing_starts_and_no_reason_against_what_serves() -> None:
    ready, _, degraded = told(clusters(), refused="spec.x: Required value")
    assert (ready.reason, degraded.reason) == ("RayServiceRefused", "RayServiceRefused")
    assert "spec.x: Required value" in degraded.message
    ready, _, degraded = told(CASES["it serves"][0], refused="spec.x: Required value")
    assert (ready.status, ready.reason, degraded.reason) == ("True", "Serving", "RayServiceRefused")


def test_what_could_not_be_written_is_told_of_after_what_was_refused() -> None:
    ready, _, degraded = told(clusters(), failed="failed calling webhook")
    assert (ready.reason, degraded.reason) == ("WriteFailed", "WriteFailed")
    ready, _, degraded = told(CASES["it serves"][0], refused="spec.x: Required value", failed="failed calling webhook")
    assert (ready.status, ready.reason, degraded.reason) == ("True", "Serving", "RayServiceRefused")
    assert "failed calling webhook" in degraded.message


def test_a_changed_secret_is_told_of_and_is_not_why_it_does_not_answer() -> None:
    ready, _, degraded = told(CASES["it serves"][0], stale=("ConfigMap/a", "Secret/b"))
    assert ready.status == "True"
    assert degraded.reason == "EnvironmentChanged"
    assert degraded.message.startswith("ConfigMap/a, Secret/b changed")
    assert "rayfleet.io/restart" in degraded.message
    ready, _, _ = told(CASES["the head is gone, workers are not"][0], stale=("Secret/b",))
    assert ready.reason == "RayUnreachable"
