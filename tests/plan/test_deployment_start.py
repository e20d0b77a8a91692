"""The first start of a fleet on Kubernetes: with models that work, that are broken, and that have no room."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from rayfleet_operator.plan.switch import fragile

from .fleets import lose, never_starts, settle, started, until
from .kuberay import Fleet
from .scenes import identity


def changes(values: list[object]) -> int:
    return sum(1 for one, other in pairwise(values) if one != other)


def test_a_fleet_starts_and_comes_to_rest() -> None:
    fleet = started(a=1, b=2)
    assert fleet.planned is not None
    assert fleet.planned.requeue_after is None
    assert fleet.condition("a", "Ready")[:2] == ("True", "Serving")
    assert [len(fleet.clusters), fleet.active, fleet.pending] == [1, fleet.followed, None]


def test_a_broken_model_does_not_keep_a_first_cluster_from_being_kuberays_own() -> None:
    fleet = Fleet(broken={identity(2).model_id})
    fleet.add("a", 1)
    fleet.add("bad", 2)
    until(fleet, lambda: fleet.active is not None)
    assert fleet.answers("a")
    # It is tried again then, and fails again, and from then on nothing moves.
    until(fleet, lambda: "bad/2" in fleet.given())
    settle(fleet)
    assert fleet.condition("bad", "Degraded")[:2] == ("True", "VersionFailed")
    assert fleet.condition("a", "Degraded")[0] == "False"
    seen = [each.get("bad") for each in fleet.history]
    assert changes(list(seen)) <= 8, seen
    assert len(fleet.clusters) == 1


def test_a_broken_model_that_is_left_out_is_told_of_all_the_time() -> None:
    fleet = Fleet(broken={identity(2).model_id, identity(3).model_id})
    for name, version in (("a", 1), ("bad", 2), ("worse", 3)):
        fleet.add(name, version)
    until(fleet, lambda: ("bad/2" not in fleet.given()) and bool(fleet.config), steps=30)
    while fleet.active is None:
        fleet.step()
        assert "bad/2" not in fleet.given()
        assert fleet.condition("bad", "Degraded")[1] == "VersionFailed"


def test_all_models_broken_still_makes_a_cluster_that_is_kuberays_own() -> None:
    fleet = Fleet(broken={identity(2).model_id})
    fleet.add("bad", 2)
    until(fleet, lambda: fleet.active is not None)
    fleet.add("good", 1)
    until(fleet, lambda: fleet.answers("good"))


def test_a_fixed_version_replaces_a_broken_one_during_the_first_start() -> None:
    fleet = Fleet(broken={identity(2).model_id})
    fleet.add("a", 2)
    until(fleet, lambda: fleet.models["a"].status.versions[0].state == "Failed")
    fleet.wanted["a"] = identity(3, "a")
    until(fleet, lambda: fleet.answers("a"))
    assert fleet.given() == {"a/3"}


def test_a_change_of_the_pods_before_the_first_cluster_is_kuberays_own() -> None:
    """A model that cannot be placed keeps it from that; `changing` leaves it out, and the change may go on then."""
    fleet = Fleet()
    fleet.add("a", 1)
    fleet.add("slow", 2)
    fleet.step(2)
    never_starts("slow", fleet.clusters[str(fleet.pending)].serve)
    settle(fleet)
    assert fleet.answers("a")
    assert fleet.active is None
    assert fragile(fleet.observed(), timedelta(minutes=15), fleet.now)
    fleet.changing = True
    until(fleet, lambda: fleet.active is not None, keeps=("a",))
    fleet.changing, fleet.pods = False, 1
    until(fleet, lambda: fleet.answers("slow"), keeps=("a",))


def test_a_silent_dashboard_is_no_reason_to_leave_anything_out() -> None:
    fleet = Fleet(changing=True)
    fleet.add("a", 1)
    fleet.step(3)
    fleet.silent |= set(fleet.clusters)
    fleet.operator()
    assert fleet.given() == {"a/1"}


def first_start_that_waits() -> Fleet:
    """A first cluster on which `a` answers, and that KubeRay does not call its own, because `slow` has no room."""
    fleet = Fleet(broken={identity(3).model_id})
    for name, version in (("a", 1), ("slow", 2), ("bad", 3)):
        fleet.add(name, version)
    fleet.step(2)
    never_starts("slow", fleet.clusters[str(fleet.pending)].serve)
    settle(fleet)
    assert fleet.answers("a")
    assert fleet.active is None
    assert fleet.given() == {"a/1", "slow/2"}
    assert fleet.states("bad") == ["Failed"]
    return fleet


@pytest.mark.parametrize("loses", ["silent", "forgetful"])
def test_what_is_not_known_of_a_first_cluster_adds_nothing_and_takes_nothing_away(loses: str) -> None:
    fleet = first_start_that_waits()
    (cluster,) = fleet.clusters.values()
    (app,) = (found for name, found in cluster.serve.apps.items() if name.startswith("a-"))
    app.status = "UNHEALTHY"
    fleet.operator()
    assert fleet.states("a") == ["Unhealthy"]
    lose(fleet, loses)
    before = fleet.config
    for _ in range(3):
        fleet.operator()
        assert fleet.config == before
        assert fleet.states("a") == ["Unhealthy"]
        assert fleet.states("bad") == ["Failed"], "and it is still told of"
        assert fleet.condition("bad", "Degraded")[1] == "VersionFailed"
    fleet.hear()
    until(fleet, lambda: fleet.states("a") == ["Ready"], keeps=())
    assert fleet.answers("a")


def test_a_version_that_was_unhealthy_on_a_first_cluster_and_is_lost_is_started_again() -> None:
    fleet = first_start_that_waits()
    (cluster,) = fleet.clusters.values()
    (name,) = (name for name in cluster.serve.apps if name.startswith("a-"))
    cluster.serve.apps[name].status = "UNHEALTHY"
    fleet.operator()
    del cluster.serve.apps[name]
    fleet.operator()
    assert fleet.given() == {"a/1", "slow/2"}
    cluster.given = ""
    until(fleet, lambda: fleet.answers("a"))
