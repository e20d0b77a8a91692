"""Which of two Ray clusters requests go to."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.plan.observed import ObservedFleet
from rayfleet_operator.plan.switch import Clusters, ObservedCluster, admitted, follow, fragile
from rayfleet_serving.config import ROUTER_APP

from .clusters import cluster, clusters, serve
from .scenes import NOW

BOTH = {"a.1": "RUNNING", "b.1": "RUNNING"}
GOOD = serve(BOTH)
HALF = serve({"a.1": "RUNNING", "b.1": "DEPLOYING"}, {"a.1": 100, "b.1": 100})
ROUTERS_ONLY = serve({"a.1": "DEPLOYING", "b.1": "DEPLOYING"}, {"a.1": 100, "b.1": 100})
BROKEN = serve({"a.1": "RUNNING", "b.1": "DEPLOY_FAILED"}, {"a.1": 100, "b.1": 100})
WITHOUT_B = serve({"a.1": "RUNNING"}, {"a.1": 100, "b.1": 100})
NO_MODEL = serve({}, {"a.1": 100, "b.1": 100})
NO_ROUTERS = serve(BOTH, routers=0)
GONE = serve({"a.1": "UNHEALTHY", "b.1": "UNHEALTHY"}, replicas={"a.1": 0, "b.1": 0}, router="UNHEALTHY")
SHIFTED = serve({"a.1": "RUNNING", "a.2": "DEPLOYING", "b.1": "RUNNING"}, {"a.1": 0, "a.2": 100, "b.1": 100})

# What the old cluster says; how many of its workers are ready; what the new one says, and its workers; whether users go
# to the new one then.
UPGRADES: dict[str, tuple[ObservedFleet | None, int, ObservedFleet | None, int, bool]] = {
    "the new one answers everything": (GOOD, 2, GOOD, 2, True),
    "the new one is not there yet": (GOOD, 2, None, 0, False),
    "a model still loads on the new one": (GOOD, 2, HALF, 2, False),
    "no worker of the new one is ready": (GOOD, 2, GOOD, 0, False),
    "not every router of the new one answers": (GOOD, 2, serve(BOTH, routers=1), 2, False),
    "routers of the new one hold another table": (GOOD, 2, serve(BOTH, stale=True), 2, False),
    "routers of the new one do not reach a model": (GOOD, 2, serve(BOTH, reached=["a.1"]), 2, False),
    "a model that failed on the old one is not missed": (BROKEN, 2, WITHOUT_B, 2, True),
    "a model that is deleted meanwhile is not missed": (GOOD, 2, serve({"a.1": "RUNNING"}), 2, True),
    "the new table sends a model's requests to a version that still loads": (GOOD, 2, SHIFTED, 2, False),
    "the new one runs a newer version": (GOOD, 2, serve({"a.2": "RUNNING", "b.1": "RUNNING"}), 2, True),
    "the old dashboard is silent, and the new one has only routers": (None, 2, ROUTERS_ONLY, 2, False),
    "the old dashboard is silent, and a model failed on the new one": (None, 2, BROKEN, 2, False),
    "the old dashboard is silent, and the new one answers what it was given": (None, 2, WITHOUT_B, 2, True),
    "the old dashboard is silent, and the new one was given no model": (None, 2, NO_MODEL, 2, False),
    "the old Serve comes back and says that there is nothing": (ObservedFleet(), 2, ROUTERS_ONLY, 2, False),
    "the old routers are silent for once": (NO_ROUTERS, 2, ROUTERS_ONLY, 2, False),
    "an old model is unhealthy for a moment": (
        serve({"a.1": "UNHEALTHY", "b.1": "RUNNING"}), 2, serve({"a.1": "DEPLOYING", "b.1": "RUNNING"}), 2, False),
    "the old workers are not ready for a moment": (GOOD, 0, ROUTERS_ONLY, 2, False),
    "the old table is of another contract": (serve(BOTH, table=False), 2, HALF, 2, False),
    "the old one has lost everything": (None, 0, ROUTERS_ONLY, 2, False),
    "the old one has lost everything, and what can be had is there": (None, 0, BROKEN, 2, True),
    "the old one has lost everything, and one model is there": (None, 0, HALF, 2, True),
    "the old head is back without its memory, and one model is there": (ObservedFleet(), 0, HALF, 2, True),
    "the old head is back, and says nothing for once": (ObservedFleet(), 2, HALF, 2, False),
    "the old workers are not ready for a moment, and one model is there": (GOOD, 0, HALF, 2, False),
    "the old workers are gone, and one model is there": (GONE, 0, HALF, 2, True),
    "nothing ever ran on the old one": (ROUTERS_ONLY, 2, ROUTERS_ONLY, 2, True),
}  # fmt: skip


@pytest.mark.parametrize("promoted", [False, True], ids=["KubeRay waits", "KubeRay has moved on"])
@pytest.mark.parametrize("case", UPGRADES)
def test_an_upgrade(case: str, promoted: bool) -> None:
    old, old_workers, new, new_workers, moves = UPGRADES[case]
    found = clusters(
        cluster("old", old, workers=old_workers),
        cluster("new", new, workers=new_workers),
        followed="old",
        active="new" if promoted else "old",
        pending=None if promoted else "new",
    )
    assert follow(found) == ("new" if moves else "old")


def test_there_is_no_way_back_to_the_older_cluster_before_kuberay_lets_it_go() -> None:
    both = (cluster("old", GOOD), cluster("new", GOOD))
    assert follow(clusters(*both, followed="new", active="old", pending="new")) == "new"


@pytest.mark.parametrize(("new", "workers"), [(GOOD, 0), (ROUTERS_ONLY, 2), (None, 0)])
def test_the_older_cluster_helps_out_while_it_is_there(new: ObservedFleet | None, workers: int) -> None:
    both = (cluster("old", GOOD), cluster("new", new, workers=workers))
    assert follow(clusters(*both, followed="new", active="old", pending="new")) == "old"


def test_the_older_cluster_helps_out_while_it_answers_for_more() -> None:
    """The newer one took over while nothing answered on the older one."""
    both = (cluster("old", GOOD), cluster("new", HALF))
    assert follow(clusters(*both, followed="new", active="old", pending="new")) == "old"
    assert follow(clusters(*both, followed="old", active="old", pending="new")) == "old"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (GOOD, serve({"a.2": "RUNNING", "b.1": "DEPLOYING"})),
        (GOOD, serve({"a.1": "RUNNING"})),
        (GOOD, serve({"a.1": "RUNNING", "b.2": "DEPLOYING"})),
        (GOOD, serve({"a.1": "RUNNING", "b.1": "DEPLOYING", "c.1": "RUNNING"})),
        (HALF, serve({"a.1": "DEPLOYING", "b.1": "RUNNING"})),
        (serve(BOTH, stale=True), HALF),
    ],
    ids=["another version", "a deleted model", "a new version of it", "a new model", "another model", "an older table"],
)
def test_the_older_cluster_takes_nothing_back(old: ObservedFleet, new: ObservedFleet) -> None:
    both = (cluster("old", old), cluster("new", new))
    assert follow(clusters(*both, followed="new", active="old", pending="new")) == "new"


def test_one_silent_answer_is_no_reason_to_go_back() -> None:
    both = (cluster("old", GOOD), cluster("new", None))
    assert follow(clusters(*both, followed="new", active="old", pending="new")) == "new"


def test_the_first_cluster_is_followed_at_once() -> None:
    assert follow(clusters(cluster("first", None, workers=0), pending="first")) == "first"
    assert follow(clusters()) is None
    assert follow(clusters(pending="not-made-yet")) is None


def test_when_the_followed_cluster_is_gone_kuberays_own_is_next() -> None:
    found = clusters(cluster("b", None), cluster("c", GOOD), followed="a", active="b", pending="c")
    assert follow(found) == "c"
    assert follow(replace(found, pending=None)) == "b"


def test_a_change_in_the_middle_of_an_upgrade() -> None:
    """`new` was followed before KubeRay promoted it, and is about to be deleted for `newer`."""
    three = (cluster("old", GOOD), cluster("new", GOOD), cluster("newer", None, workers=0))
    assert follow(clusters(*three, followed="new", active="old", pending="newer")) == "old"
    three = (cluster("old", HALF), cluster("new", GOOD), cluster("newer", None, workers=0))
    assert follow(clusters(*three, followed="new", active="old", pending="newer")) == "new"


def config(*apps: str) -> dict[str, Any]:
    return {"proxy_location": "EveryNode", "applications": [{"name": app} for app in (*apps, ROUTER_APP)]}


EVERYTHING = config("a.1", "b.1", "new.1")
GIVEN = {"a.1", "b.1", ROUTER_APP}

# Followed, active, pending; what the clusters say; what KubeRay is given.
ADMITTED: dict[str, tuple[tuple[str, str | None, str | None], dict[str, ObservedFleet | None], set[str]]] = {
    "no upgrade": (("old", "old", None), {"old": BROKEN}, {"a.1", "b.1", "new.1"}),
    "first start": (("old", None, "old"), {"old": BROKEN}, {"a.1", "b.1", "new.1"}),
    "what runs on the old one": (("old", "old", "new"), {"old": GOOD, "new": None}, {"a.1", "b.1"}),
    "what failed on the old one waits": (("old", "old", "new"), {"old": BROKEN, "new": None}, {"a.1"}),
    "the new one is not listed yet": (("old", "old", "new"), {"old": BROKEN}, {"a.1"}),
    "what is unhealthy on the old one": (
        ("old", "old", "new"), {"old": serve({"a.1": "UNHEALTHY", "b.1": "RUNNING"}), "new": None}, {"a.1", "b.1"}),
    "what Serve calls DEPLOYING while it runs": (
        ("old", "old", "new"),
        {"old": serve({"a.1": "DEPLOYING", "b.1": "RUNNING"}, replicas={"a.1": 1}), "new": None},
        {"a.1", "b.1"}),
    "what runs on the new one already": (
        ("old", "old", "new"), {"old": BROKEN, "new": serve({"new.1": "RUNNING"})}, {"a.1", "new.1"}),
    "what the new one has begun is not taken away when the old one falters": (
        ("old", "old", "new"),
        {"old": serve({"a.1": "DEPLOYING", "b.1": "DEPLOYING"}), "new": serve({"a.1": "DEPLOYING"})},
        {"a.1"}),
    "what fails on the new one, and runs on the old one": (
        ("old", "old", "new"), {"old": GOOD, "new": BROKEN}, {"a.1", "b.1"}),
    "what fails on both": (("old", "old", "new"), {"old": BROKEN, "new": BROKEN}, {"a.1"}),
    "the old one is silent: nothing changes": (("old", "old", "new"), {"old": None, "new": None}, {"a.1", "b.1"}),
    "the old one has lost everything: nothing changes": (
        ("old", "old", "new"), {"old": ObservedFleet(), "new": None}, {"a.1", "b.1"}),
    "followed before KubeRay made it its own": (
        ("new", "old", "new"), {"old": GOOD, "new": WITHOUT_B}, {"a.1"}),
    "followed, silent, before KubeRay made it its own": (
        ("new", "old", "new"), {"old": GOOD, "new": None}, {"a.1", "b.1"}),
    "KubeRay has made it its own": (("old", "new", None), {"old": BROKEN, "new": WITHOUT_B}, {"a.1", "b.1", "new.1"}),
}  # fmt: skip


@pytest.mark.parametrize("case", ADMITTED)
def test_what_the_cluster_that_is_built_is_given(case: str) -> None:
    (followed, active, pending), seen, expected = ADMITTED[case]
    found = clusters(
        *(cluster(name, observed) for name, observed in seen.items()), followed=followed, active=active, pending=pending
    )
    kept = admitted(EVERYTHING, found, GIVEN)
    assert {app["name"] for app in kept["applications"]} == expected | {ROUTER_APP}
    assert kept["proxy_location"] == "EveryNode"


def test_only_a_first_cluster_that_may_answer_is_fragile() -> None:
    def fragile_now(found: Clusters) -> bool:
        return fragile(found, timedelta(minutes=15), NOW)

    assert fragile_now(clusters(cluster("first", GOOD), pending="first"))
    assert fragile_now(clusters(cluster("first", None), pending="first")), "it is not known, and it may answer"
    assert not fragile_now(clusters(cluster("first", None, workers=0), pending="first"))
    late = clusters(cluster("first", GOOD, age=timedelta(minutes=16)), pending="first")
    assert not fragile_now(late)
    assert fragile(late, timedelta(minutes=17), NOW)
    assert not fragile_now(clusters(cluster("first", ROUTERS_ONLY), pending="first"))
    assert not fragile_now(clusters(cluster("first", GOOD), active="first"))
    both = (cluster("old", GOOD), cluster("new", GOOD))
    assert not fragile_now(clusters(*both, active="old", pending="new", followed="new"))


STATUSES = st.sampled_from(["RUNNING", "DEPLOYING", "DEPLOY_FAILED", "UNHEALTHY", "DELETING", "NOT_STARTED"])


@st.composite
def _fleets(draw: st.DrawFn) -> ObservedFleet | None:
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from([None, ObservedFleet()]))
    apps = draw(st.dictionaries(st.sampled_from(["a.1", "a.2", "b.1"]), STATUSES))
    weights: dict[str, int] = {}
    if draw(st.booleans()):
        first = draw(st.integers(0, 1)) * 100
        weights |= {"a.1": first, "a.2": 100 - first}
    if draw(st.booleans()):
        weights["b.1"] = 100
    return serve(
        apps,
        weights,
        routers=draw(st.integers(0, 2)),
        reached=draw(st.none() | st.sets(st.sampled_from(["a.1", "a.2", "b.1"]))),
        replicas=draw(st.dictionaries(st.sampled_from(["a.1", "a.2", "b.1"]), st.integers(0, 2))),
        stale=draw(st.booleans()),
        table=draw(st.integers(0, 4)) > 0,
    )


@st.composite
def _clusters(draw: st.DrawFn) -> Clusters:
    names = draw(st.sets(st.sampled_from(["x", "y", "z"])))
    found = [cluster(name, draw(_fleets()), workers=draw(st.integers(0, 2))) for name in sorted(names)]
    some = st.none() | st.sampled_from(["x", "y", "z"])
    return clusters(*found, followed=draw(some), active=draw(some), pending=draw(some))


def _surely(found: ObservedCluster) -> set[str]:
    """Models of which every request is answered there."""
    table = found.observed.table if found.observed is not None else None
    return {
        name
        for name, route in (table.models.items() if table is not None else ())
        if all(found.answers(row.app) for row in route.versions if row.weight > 0)
    }


@settings(max_examples=150, deadline=None)
@given(_clusters())
def test_following_comes_to_rest(found: Clusters) -> None:
    """Whatever is observed, doing what is decided and looking again leads nowhere else than twice at most."""
    path = [found.followed]
    for _ in range(4):
        path.append(follow(replace(found, followed=path[-1])))
    assert path[-1] == path[-2] == path[-3], path


@settings(max_examples=150, deadline=None)
@given(_clusters())
def test_nothing_that_is_answered_is_lost_by_a_move(found: Clusters) -> None:
    serving, to = found.serving, follow(found)
    if serving is None or to is None:
        assert to is None
        return
    assert to in found.by_name
    if to != serving.name:
        there = found.by_name[to]
        table = there.observed.table if there.observed is not None else None
        assert table is not None
        assert _surely(serving) & table.models.keys() <= _surely(there)
        assert there.ready_workers


@settings(max_examples=150, deadline=None)
@given(_clusters(), st.sets(st.sampled_from(["a.1", "a.2", "b.1"])))
def test_what_runs_where_requests_go_is_always_given(found: Clusters, given_last: set[str]) -> None:
    everything = config("a.1", "a.2", "b.1")
    kept = {app["name"] for app in admitted(everything, found, given_last)["applications"]}
    assert ROUTER_APP in kept
    if found.serving is not None:
        assert {app for app in ("a.1", "a.2", "b.1") if found.serving.answers(app)} <= kept
    if found.pending is None:
        assert kept == {"a.1", "a.2", "b.1", ROUTER_APP}
