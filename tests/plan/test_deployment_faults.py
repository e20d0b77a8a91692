"""A fleet on Kubernetes whose version breaks, or whose Ray falls silent or forgets: what is told and what stays."""

from __future__ import annotations

import pytest

from rayfleet_operator.api.types import ModelDeployment

from .fleets import lose, never_starts, settle, started, until
from .scenes import app_name, identity


def test_a_version_that_is_tried_again_and_again_is_told_of_once() -> None:
    fleet = started(a=1, bad=2)
    fleet.broken |= {identity(3).model_id}
    fleet.wanted["bad"] = identity(3, "bad")
    until(fleet, lambda: "Failed" in fleet.states("bad"), keeps=("bad",))
    fleet.told.clear()
    degraded, tries = fleet.condition("bad", "Degraded"), 0
    for _ in range(400):
        fleet.step()
        tries += fleet.condition("bad", "Progressing")[1] == "Retrying"
        assert fleet.condition("bad", "Degraded") == degraded
        assert fleet.states("bad") == ["Ready", "Failed"]
        # A neighbour's new settings make Serve call every application DEPLOYING for a moment.
        fleet.models["a"] = _queueing(fleet.models["a"], len(fleet.history))
    assert tries == 2
    assert fleet.told == []
    fleet.broken.clear()
    until(fleet, lambda: fleet.weights("bad").get("3") == 100, steps=200, keeps=("bad",))
    settle(fleet)
    assert [note for note in fleet.told if note[0] == "bad"] == [
        ("bad", "Normal", "Recovered"),
        ("bad", "Normal", "Settled"),
    ]
    assert fleet.states("bad") == ["Ready"]


def test_ray_that_lost_everything_gets_back_the_weights_it_had() -> None:
    fleet = started(a=1)
    fleet.broken |= {identity(5).model_id}
    fleet.wanted["a"] = identity(5, "a")
    until(fleet, lambda: fleet.condition("a", "Degraded")[1] == "VersionFailed")
    fleet.serving.lose_everything()
    fleet.step()
    assert fleet.weights("a") == {"1": 100, "5": 0}, "the version that never started gets no request"
    until(fleet, lambda: fleet.answers("a"))


def test_a_silent_dashboard_changes_nothing() -> None:
    fleet = started(a=1, b=2)
    before, cluster = fleet.config, fleet.serving
    cluster.head = False
    cluster.starts = 10
    for _ in range(8):
        fleet.operator()
        assert fleet.config == before
        assert fleet.condition("a", "Ready")[:2] == ("Unknown", "RayUnreachable")
    cluster.workers = 0
    fleet.operator()
    assert fleet.config == before
    assert fleet.condition("a", "Ready")[0] == "False"


@pytest.mark.parametrize("loses", ["silent", "forgetful", "routers"])
def test_one_lost_answer_is_no_change_of_anything(loses: str) -> None:
    fleet = started(a=1, bad=2)
    fleet.broken |= {identity(3).model_id}
    fleet.wanted["bad"] = identity(3, "bad")
    until(fleet, lambda: "Failed" in fleet.states("bad"), keeps=("bad",))
    settle(fleet)
    before, events = dict(fleet.models), list(fleet.told)
    lose(fleet, loses)
    fleet.quiet = True
    fleet.operator()
    assert fleet.models == before
    assert fleet.planned is not None
    assert fleet.planned.requeue_after is not None, "and it is looked for soon"
    fleet.hear()
    fleet.quiet = False
    fleet.operator()
    assert fleet.models == before
    assert fleet.told == events


@pytest.mark.parametrize("loses", ["silent", "forgetful"])
def test_what_is_under_way_when_ray_falls_silent_is_told_of_as_it_was(loses: str) -> None:
    fleet = started(a=1)
    fleet.wanted["a"] = identity(5, "a")
    never_starts(app_name(5, fleet.models["a"]), fleet.serving.serve)
    settle(fleet, 5)
    before = fleet.condition("a", "Progressing"), fleet.states("a")
    lose(fleet, loses)
    for _ in range(3):
        fleet.operator()
        assert (fleet.condition("a", "Progressing"), fleet.states("a")) == before
        assert fleet.condition("a", "Progressing")[2] == "version 5 is DEPLOYING"
        assert fleet.condition("a", "Ready")[:2] == ("Unknown", "RayUnreachable")


@pytest.mark.parametrize("loses", ["silent", "forgetful"])
def test_what_is_asked_for_while_ray_is_silent_is_under_way(loses: str) -> None:
    fleet = started(a=1, b=2)
    lose(fleet, loses)
    fleet.wanted["a"] = identity(5, "a")
    fleet.models["b"] = _queueing(fleet.models["b"], 7)
    for _ in range(3):
        fleet.operator()
        assert fleet.condition("a", "Progressing")[:2] == ("True", "Deploying")
        assert fleet.condition("b", "Progressing")[:2] == ("True", "Deploying")
        assert sorted(fleet.states("a")) == ["Ready", "Starting"]
        assert fleet.states("b") == ["Ready"]


def test_a_cluster_of_which_nothing_is_left_is_not_told_of_as_settled() -> None:
    fleet = started(a=1)
    fleet.serving.lose_everything()
    fleet.operator()
    assert fleet.condition("a", "Ready")[0] == "False"
    assert fleet.condition("a", "Progressing")[:2] == ("True", "Deploying")
    assert fleet.states("a") == ["Starting"]


def _queueing(of: ModelDeployment, requests: int) -> ModelDeployment:
    """The model with another limit, which the routers take in place."""
    limits = of.spec.limits.model_copy(update={"max_queued_requests": requests})
    return of.model_copy(update={"spec": of.spec.model_copy(update={"limits": limits})})
