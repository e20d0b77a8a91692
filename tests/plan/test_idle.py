"""When a Ray cluster goes that KubeRay has dropped."""

from __future__ import annotations

from datetime import timedelta

from rayfleet_operator.plan.switch import Clusters
from rayfleet_operator.reconcile.idle import HOPELESS, Idle

from .clusters import cluster, clusters, serve
from .scenes import NOW

AFTER = timedelta(seconds=60)
SOON = timedelta(seconds=1)
GOOD = serve({"a.1": "RUNNING"})


def gone(found: Clusters, *, after: timedelta, follow: str | None = None) -> list[str]:
    """What is deleted when all of it has been as it is for so long."""
    idle = Idle()
    assert idle.over(found, follow or found.followed, AFTER, NOW) == []
    return idle.over(found, follow or found.followed, AFTER, NOW + after)


OLD, NEW = cluster("old", GOOD), cluster("new", GOOD)
DEAD = cluster("old", None, workers=0)
STARTING = cluster("new", None, workers=0)


def test_a_cluster_goes_when_its_last_requests_are_answered() -> None:
    found = clusters(OLD, NEW, active="new", followed="new")
    assert gone(found, after=AFTER) == []
    assert gone(found, after=AFTER + SOON) == ["old"]


def test_one_that_requests_go_to_stays_whatever_kuberay_says() -> None:
    week = timedelta(days=7)
    assert gone(clusters(OLD, NEW, active="new", followed="old"), after=week) == []
    assert gone(clusters(OLD, NEW, active="new", followed="new"), after=week, follow="old") == []
    assert gone(clusters(OLD, NEW, active="old", pending="new", followed="new"), after=week) == []
    assert gone(clusters(cluster("old", None), NEW, active="new", followed="old"), after=week) == [], "it may answer"


def test_before_kuberay_has_said_which_ones_it_knows_none_goes() -> None:
    assert gone(clusters(OLD, NEW, followed="new"), after=timedelta(days=7)) == []
    assert gone(clusters(OLD, active="gone", followed="old"), after=timedelta(days=7)) == []


def test_a_cluster_that_never_served_makes_room_for_the_one_that_waits_for_its_nodes() -> None:
    """The first cluster of a fleet cannot start, and its spec was put right twice."""
    other = cluster("other", None, workers=0)
    found = clusters(DEAD, other, STARTING, pending="new", followed="old")
    assert gone(found, after=AFTER + SOON) == ["other"]
    assert gone(found, after=HOPELESS + SOON) == ["old", "other"]


def test_one_that_answers_again_is_not_hopeless() -> None:
    idle = Idle()
    dead, alive = (clusters(each, STARTING, pending="new", followed="old") for each in (DEAD, OLD))
    assert idle.over(dead, "old", AFTER, NOW) == []
    assert idle.over(alive, "old", AFTER, NOW + HOPELESS) == []
    assert idle.over(dead, "old", AFTER, NOW + HOPELESS + SOON) == []
    assert idle.over(dead, "old", AFTER, NOW + 2 * HOPELESS + 2 * SOON) == ["old"]
