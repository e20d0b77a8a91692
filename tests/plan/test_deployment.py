"""A fleet on Kubernetes over time: its first start, its upgrades, and what may be lost meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import pytest

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan.switch import fragile

from .kuberay import Fleet
from .scenes import app_name, identity
from .world import World


def until(fleet: Fleet, done: Callable[[], bool], *, steps: int = 60, keeps: tuple[str, ...] = ()) -> None:
    """Step until it is so; the models of `keeps` must answer all the time."""
    for _ in range(steps):
        fleet.step()
        for name in keeps:
            assert fleet.answers(name), (
                f"{name} is out of service after {len(fleet.history)} steps: {fleet.condition(name, 'Ready')}"
            )
        if done():
            return
    raise AssertionError(
        f"not so after {steps} steps; {fleet.history[-1]}; {fleet.active=} {fleet.pending=} {fleet.followed=}"
    )


def started(*broken: int, **versions: int) -> Fleet:
    """A fleet that has started, and where all that can answer does."""
    fleet = Fleet(broken={identity(each).model_id for each in broken})
    for name, version in versions.items():
        fleet.add(name, version)
    good = [name for name, version in versions.items() if version not in broken]
    until(fleet, lambda: fleet.active is not None and all(fleet.answers(name) for name in good))
    settle(fleet)
    return fleet


def settle(fleet: Fleet, steps: int = 40) -> None:
    fleet.step(steps)


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
    _lose(fleet, loses)
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
    _never_starts(app_name(5, fleet.models["a"]), fleet.serving.serve)
    settle(fleet, 5)
    before = fleet.condition("a", "Progressing"), fleet.states("a")
    _lose(fleet, loses)
    for _ in range(3):
        fleet.operator()
        assert (fleet.condition("a", "Progressing"), fleet.states("a")) == before
        assert fleet.condition("a", "Progressing")[2] == "version 5 is DEPLOYING"
        assert fleet.condition("a", "Ready")[:2] == ("Unknown", "RayUnreachable")


@pytest.mark.parametrize("loses", ["silent", "forgetful"])
def test_what_is_asked_for_while_ray_is_silent_is_under_way(loses: str) -> None:
    fleet = started(a=1, b=2)
    _lose(fleet, loses)
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


def _lose(fleet: Fleet, what: str) -> None:
    """One answer of the cluster that serves: the dashboard's, what it remembers, or the routers'."""
    match what:
        case "silent":
            fleet.silent.add(fleet.serving.name)
        case "forgetful":
            fleet.forgetful.add(fleet.serving.name)
        case "routers":
            fleet.serving.serve.silent = True


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
    advance = _never_starts("b", new.serve)
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
        _never_starts("b", new.serve)
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


def test_a_change_of_the_pods_before_the_first_cluster_is_kuberays_own() -> None:
    """A model that cannot be placed keeps it from that; `changing` leaves it out, and the change may go on then."""
    fleet = Fleet()
    fleet.add("a", 1)
    fleet.add("slow", 2)
    fleet.step(2)
    _never_starts("slow", fleet.clusters[str(fleet.pending)].serve)
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
    _never_starts("slow", fleet.clusters[str(fleet.pending)].serve)
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
    _lose(fleet, loses)
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


def _never_starts(name: str, world: World) -> Callable[[str], None]:
    """No worker is large enough there for a model, or for one of its applications. Returns what lets it start again."""
    advance = world.advance_app

    def unless_stuck(app: str) -> None:
        if not app.startswith(name) or world.apps[app].status == "DELETING":
            advance(app)

    world.advance_app = unless_stuck  # type: ignore[method-assign]
    return advance


def _queueing(of: ModelDeployment, requests: int) -> ModelDeployment:
    """The model with another limit, which the routers take in place."""
    limits = of.spec.limits.model_copy(update={"max_queued_requests": requests})
    return of.model_copy(update={"spec": of.spec.model_copy(update={"limits": limits})})
