"""Upgrades of a fleet on Kubernetes: what answers goes on answering, whatever changes or dies meanwhile."""

from __future__ import annotations

import pytest

from .fleets import never_starts, settle, started, until
from .scenes import identity


def test_an_upgrade_loses_no_request() -> None:
    fleet = started(a=1, b=2)
    fleet.pods = 1
    until(fleet, lambda: fleet.serving.pods == 1, keeps=("a", "b"))
    until(fleet, lambda: len(fleet.clusters) == 1, keeps=("a", "b"))
    settle(fleet)
    assert fleet.planned is not None
    assert fleet.planned.requeue_after is None
    assert {each for seen in fleet.history[-80:] for each in seen.values()} == {("True", "Serving")}


def test_a_broken_neighbour_does_not_block_an_upgrade() -> None:
    fleet = started(2, a=1, bad=2)
    fleet.pods = 1
    until(fleet, lambda: len(fleet.clusters) == 1 and fleet.serving.pods == 1, keeps=("a",))
    settle(fleet)
    assert fleet.condition("bad", "Degraded")[:2] == ("True", "VersionFailed")


def test_an_upgrade_that_never_answers_leaves_the_old_cluster_alone() -> None:
    fleet = started(a=1)
    old = fleet.followed
    fleet.stuck, fleet.pods = True, 1
    for _ in range(200):
        fleet.step()
        assert fleet.answers("a")
        assert fleet.followed == old
    assert len(fleet.clusters) == 2
    fleet.pods = 0
    fleet.stuck = False
    until(fleet, lambda: len(fleet.clusters) == 1, keeps=("a",), steps=120)


def test_a_model_that_works_on_the_old_cluster_only_keeps_it() -> None:
    fleet = started(a=1, b=2)
    old = fleet.followed
    fleet.pods = 1
    fleet.step(3)
    new = fleet.clusters[str(fleet.pending)]
    new.serve.broken = {identity(2).model_id}
    for _ in range(100):
        fleet.step()
        assert fleet.answers("a")
        assert fleet.answers("b")
        assert fleet.followed == old


def test_a_model_deleted_during_an_upgrade_goes_with_the_old_cluster() -> None:
    fleet = started(a=1, b=2)
    fleet.pods = 1
    fleet.step(2)
    del fleet.models["b"], fleet.wanted["b"]
    until(fleet, lambda: len(fleet.clusters) == 1, keeps=("a",))
    settle(fleet)
    assert fleet.given() == {"a/1"}
    assert fleet.weights("b") == {}


@pytest.mark.parametrize("wait", range(8))
def test_an_alias_that_moves_during_an_upgrade_loses_no_request(wait: int) -> None:
    fleet = started(a=1, b=2)
    fleet.pods = 1
    for _ in range(wait):
        fleet.step()
    fleet.wanted["a"] = identity(5, "a")
    until(fleet, lambda: fleet.given() == {"a/5", "b/2"}, keeps=("a", "b"), steps=150)
    settle(fleet)
    assert fleet.weights("a") == {"5": 100}
    assert len(fleet.clusters) == 1


@pytest.mark.parametrize("wait", range(8))
def test_an_upgrade_in_the_middle_of_a_rollout_loses_no_request(wait: int) -> None:
    fleet = started(a=1, b=2)
    fleet.wanted["a"] = identity(5, "a")
    for _ in range(wait):
        fleet.step()
        assert fleet.answers("a")
    fleet.pods = 1
    until(fleet, lambda: fleet.given() == {"a/5", "b/2"} and len(fleet.clusters) == 1, keeps=("a", "b"), steps=150)


def test_a_new_model_during_an_upgrade_waits_and_says_so() -> None:
    fleet = started(a=1)
    fleet.stuck, fleet.pods = True, 1
    fleet.step(3)
    fleet.add("b", 2)
    fleet.step(2)
    assert fleet.given() == {"a/1"}
    status, reason, message = fleet.condition("b", "Progressing")
    assert (status, reason) == ("True", "WaitingForCluster")
    assert str(fleet.pending) in message
    fleet.stuck = False
    until(fleet, lambda: fleet.answers("b"), keeps=("a",))


def test_a_second_change_of_the_pods_during_an_upgrade() -> None:
    fleet = started(a=1, b=2)
    for pods in (1, 2, 0, 3):
        fleet.pods = pods
        for _ in range(7):
            fleet.step()
            assert fleet.answers("a"), pods
            assert fleet.answers("b"), pods
    until(fleet, lambda: len(fleet.clusters) == 1, keeps=("a", "b"), steps=120)
    assert fleet.serving.pods == 3


def test_the_old_cluster_dies_during_an_upgrade() -> None:
    fleet = started(a=1, b=2)
    old = fleet.serving
    fleet.pods = 1
    fleet.step(2)
    old.lose_everything()
    until(fleet, lambda: fleet.answers("a") and fleet.answers("b"))
    until(fleet, lambda: len(fleet.clusters) == 1, keeps=("a", "b"), steps=120)


def test_the_old_cluster_dies_during_an_upgrade_that_has_no_room_for_one_model() -> None:
    """Its head comes back empty, and KubeRay gives it nothing: it configures the new one only."""
    fleet = started(a=1, b=2)
    old = fleet.serving
    fleet.pods = 1
    fleet.step(2)
    new = fleet.clusters[str(fleet.pending)]
    advance = never_starts("b", new.serve)
    old.lose_everything()
    until(fleet, lambda: fleet.answers("a"))
    for _ in range(40):
        fleet.step()
        assert fleet.answers("a")
    new.serve.advance_app = advance  # type: ignore[method-assign]
    until(fleet, lambda: fleet.answers("b"), keeps=("a",))
    until(fleet, lambda: len(fleet.clusters) == 1, keeps=("a", "b"), steps=120)


@pytest.mark.parametrize("fails", [False, True])
def test_an_old_cluster_that_is_back_at_once_loses_no_model(fails: bool) -> None:
    """For a moment its head is silent and its workers are not ready, and a model answers there only."""
    fleet = started(a=1, b=2)
    old = fleet.serving
    fleet.pods = 1
    fleet.step(2)
    new = fleet.clusters[str(fleet.pending)]
    if fails:
        new.serve.broken = {identity(2).model_id}
    else:
        never_starts("b", new.serve)
    settle(fleet)
    assert fleet.followed == old.name
    fleet.silent, old.workers = {old.name}, 0
    fleet.operator()
    assert fleet.followed == new.name
    fleet.silent, old.workers = set(), 2
    for _ in range(60):
        fleet.step()
        assert fleet.followed == old.name
        assert fleet.answers("a")
        assert fleet.answers("b")
