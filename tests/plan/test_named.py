"""Versions that spec.traffic names: what each gets, and that none of it touches the model's own version."""

from __future__ import annotations

import pytest

from rayfleet_operator.plan import named, rows, size
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.fleet import plan
from rayfleet_operator.plan.observed import Noted, Notice, ResolutionProblem
from rayfleet_serving.config import ROUTER_APP

from .play import AB, MIRROR, TEST, Play, ab
from .scenes import DOWN, OPTIONS, applications, deployed, identity, table_of


def test_a_named_version_gets_its_share_once_every_router_reaches_it() -> None:
    play = Play().settle()
    play.edit(AB)
    play.mean(2, "b")
    seen = []
    for _ in range(20):
        play.look()
        seen.append(play.shares().get(2, ("", 0, 0))[1])
        if seen[-1]:
            assert all(router.takes(play.rows()[2].app) for router in play.world.routers)
        play.advance()
    assert seen == sorted(seen)
    assert seen[-1] == 30
    assert play.settle().told(ConditionType.PROGRESSING)[:2] == ("False", "Settled")


def test_what_is_named_without_a_share_runs_and_can_be_asked_for() -> None:
    play = Play(TEST)
    play.mean(9, "test")
    assert play.settle().shares() == {1: ("", 100, 0), 9: ("test", 0, 0)}
    assert deployed(play.look()) == {1, 9}


def test_a_mirror_gets_copies_and_no_requests() -> None:
    play = Play(MIRROR)
    play.mean(9, "shadow")
    assert play.settle().shares() == {1: ("", 100, 0), 9: ("shadow", 0, 25)}


def test_one_that_does_not_start_leaves_everything_to_the_models_own() -> None:
    play = Play(AB)
    play.world.broken.add(identity(2).model_id)
    play.mean(2, "b")
    play.settle()
    assert play.shares() == {1: ("", 100, 0), 2: ("b", 0, 0)}
    assert play.told(ConditionType.READY)[0] == "True"
    status, reason, message = play.told(ConditionType.DEGRADED)
    assert (status, reason) == ("True", "VersionFailed")
    assert message.startswith("b: version 2 is DEPLOY_FAILED")


def test_one_that_no_router_reaches_any_more_gives_its_share_back() -> None:
    play = ab()
    app = play.rows()[2].app
    play.world.apps[app].status = "UNHEALTHY"
    for router in play.world.routers:
        router.knows.discard(app)
    play.look()
    assert play.shares() == {1: ("", 100, 0), 2: ("b", 0, 0)}
    # It is back in seconds; were it always given its share again at once, it would take requests down each time.
    shared = []
    for _ in range(45):
        play.advance()
        play.look()
        shared.append(play.shares()[2][1])
    assert shared == sorted(shared)
    assert 25 <= shared.count(0) <= 32
    assert play.settle().shares() == {1: ("", 70, 0), 2: ("b", 30, 0)}


def test_what_is_not_known_takes_no_share_away() -> None:
    play = ab()
    play.world.silent = True
    play.look()
    assert play.shares() == {1: ("", 70, 0), 2: ("b", 30, 0)}


def test_the_version_before_has_the_share_until_the_next_one_can_take_it() -> None:
    play = ab()
    play.mean(3, "b")
    for _ in range(20):
        play.look()
        by_name = sum(weight for name, weight, _ in play.shares().values() if name == "b")
        assert by_name == 30
        play.advance()
    assert play.settle().shares() == {1: ("", 70, 0), 3: ("b", 30, 0)}
    assert deployed(play.look()) == {1, 3}


def test_while_the_models_own_is_not_known_the_others_are_as_the_spec_says() -> None:
    play = ab()
    play.resolutions["digits"] = ResolutionProblem("ModelNotFound", "there is no such model")
    play.mean(3, "b")
    play.settle()
    assert play.shares() == {1: ("", 70, 0), 3: ("b", 30, 0)}
    play.edit()
    assert play.settle().shares() == {1: ("", 100, 0)}
    assert deployed(play.look()) == {1}


def test_one_that_dies_while_the_models_own_is_not_known_leaves_its_share() -> None:
    play = ab()
    play.resolutions["digits"] = ResolutionProblem("ModelNotFound", "there is no such model")
    app = play.rows()[2].app
    play.world.apps[app].status = "UNHEALTHY"
    for router in play.world.routers:
        router.knows.discard(app)
    play.look()
    assert play.shares() == {1: ("", 100, 0), 2: ("b", 0, 0)}


def test_without_one_of_its_own_a_model_answers_only_those_who_name_another() -> None:
    play = Play(AB)
    play.resolutions["digits"] = ResolutionProblem("ModelNotFound", "there is no such model")
    play.mean(2, "b")
    assert play.settle().shares() == {2: ("b", 0, 0)}
    assert play.told(ConditionType.READY)[0] == "False"
    play.mean(1)
    assert play.settle().shares() == {1: ("", 70, 0), 2: ("b", 30, 0)}


def test_the_models_own_is_never_taken_from_the_named_ones() -> None:
    """Where the application that had the requests is gone."""
    play = ab()
    play.resolutions["digits"] = ResolutionProblem("ModelNotFound", "there is no such model")
    del play.world.apps[play.rows()[1].app]
    play.settle()
    assert play.shares()[2][0] == "b"


def test_what_the_registry_only_notes_of_a_named_version_hides_nothing_worse() -> None:
    play = ab()
    play.resolutions["digits/b"] = Noted(identity(2), (Notice("VersionArchived", "version 2 is archived"),))
    play.resolutions["digits"] = Noted(identity(3), (Notice("VersionArchived", "version 3 is archived"),))
    play.world.broken.add(identity(3).model_id)
    play.settle()
    _, reason, message = play.told(ConditionType.DEGRADED)
    assert reason == "VersionFailed"
    assert message.index("version 3 failed") < message.index("version 3 is archived") < message.index("b: version 2 is")


def test_at_rest_the_condition_says_who_gets_what() -> None:
    assert ab().told(ConditionType.PROGRESSING) == (
        "False",
        "Settled",
        "of the requests 70 % go to version 1, 30 % go to version 2",
    )


def test_a_spec_that_cannot_be_read_changes_nothing_of_the_named_versions() -> None:
    play = ab()
    read, told = play.model, play.status.traffic
    play.edit()
    play.resolutions = {"digits": ResolutionProblem("InvalidSpec", "it is of another time", held=True)}
    play.settle()
    assert play.shares() == {1: ("", 70, 0), 2: ("b", 30, 0)}
    assert deployed(play.look()) == {1, 2}
    assert play.status.traffic == told != []
    play.model = read
    play.resolutions = {"digits": identity(1), "digits/b": identity(2)}
    assert play.settle().shares() == {1: ("", 70, 0), 2: ("b", 30, 0)}


def test_what_may_not_be_given_to_ray_is_not_given_to_it_under_a_name_either() -> None:
    play = ab()
    before = applications(play.look())
    play.edit(AB, resources={"cpu": "500"})
    play.resolutions["digits"] = ResolutionProblem("InsufficientCapacity", "no worker has 500 CPUs", held=True)
    play.settle()
    assert applications(play.look()).keys() == before.keys()
    assert play.shares() == {1: ("", 70, 0), 2: ("b", 30, 0)}


def test_a_renamed_version_goes_on_running_until_its_new_name_is_answered() -> None:
    play = ab()
    app = play.rows()[2].app
    play.edit({"versions": [{**AB["versions"][0], "name": "c"}]})
    for _ in range(20):
        play.look()
        play.advance()
    assert play.world.apps[app].status == "RUNNING"
    play.mean(2, "c")
    play.settle()
    assert play.shares() == {1: ("", 70, 0), 2: ("c", 30, 0)}
    assert play.rows()[2].app == app


def test_a_name_of_the_models_own_version_is_kept_while_nobody_knows_what_it_means() -> None:
    play = ab()
    play.mean(2)
    play.settle()
    play.resolutions["digits/b"] = ResolutionProblem("AliasNotFound", "there is no such alias")
    play.settle()
    assert play.rows()[2].other_names == ["b"]


def test_routers_that_were_started_anew_take_no_share_away() -> None:
    play = ab()
    for router in play.world.routers:
        router.knows.clear()
    play.look()
    assert play.shares() == {1: ("", 70, 0), 2: ("b", 30, 0)}


def test_a_share_that_is_lost_while_all_is_held_comes_back() -> None:
    play = ab()
    play.resolutions["digits"] = ResolutionProblem("InsufficientCapacity", "there is no room", held=True)
    app = play.rows()[2].app
    for router in play.world.routers:
        router.knows.discard(app)
    play.look()
    play.settle()
    assert play.shares() == {1: ("", 70, 0), 2: ("b", 30, 0)}


def test_of_two_names_for_one_version_the_first_counts() -> None:
    versions = [{"name": name, "uri": "models:/digits/2", "weight": 20} for name in ("b", "c")]
    play = Play({"versions": versions})
    play.mean(2, "b")
    play.mean(2, "c")
    assert play.settle().shares() == {1: ("", 80, 0), 2: ("b", 20, 0)}
    assert play.told(ConditionType.PROGRESSING)[2].endswith("20 % go to version 2; c means version 2 as well")


def test_one_whose_uri_means_nothing_is_told_of_and_nothing_else_waits() -> None:
    play = Play(AB)
    play.resolutions["digits/b"] = ResolutionProblem("ModelNotFound", "digits has no alias b")
    assert play.settle().shares() == {1: ("", 100, 0)}
    assert play.told(ConditionType.DEGRADED) == ("True", "ModelNotFound", "b: digits has no alias b")
    assert play.told(ConditionType.READY)[0] == "True"


def test_a_registry_that_is_away_changes_nothing() -> None:
    play = ab()
    play.resolutions = {}
    play.look()
    assert play.shares() == {1: ("", 70, 0), 2: ("b", 30, 0)}
    play.resolutions = {"digits": identity(1), "digits/b": DOWN}
    assert play.settle().shares() == {1: ("", 70, 0), 2: ("b", 30, 0)}


def test_what_was_meant_is_in_the_status_and_asked_for_from_there() -> None:
    play = ab()
    (told,) = play.status.traffic
    assert (told.name, told.uri, told.version, told.model_id) == ("b", "models:/digits@b", "2", identity(2).model_id)
    play.resolutions = {}
    play.look()
    assert play.status.traffic == [told]
    own, asked = named.asked_for([play.model.model_copy(update={"status": play.status})])
    assert (own.spec.model.uri, asked.spec.model.uri) == ("models:/digits@live", "models:/digits@b")
    assert asked.metadata.name == "digits/b"
    assert asked.status.resolved is not None
    assert asked.status.resolved.model_id == identity(2).model_id


def test_taken_out_of_the_spec_it_answers_its_last_requests_and_goes() -> None:
    play = ab()
    app = play.rows()[2].app
    play.world.routers[0].ongoing[app] = 1
    play.edit()
    play.settle()
    assert play.shares() == {1: ("", 100, 0)}
    assert play.rows()[2].leaving
    play.world.routers[0].ongoing.clear()
    assert deployed(play.settle().look()) == {1}


def test_a_deleted_model_takes_its_named_versions_along() -> None:
    play = ab()
    observed = play.world.observe(play.now)
    gone = plan(fleet=None, models=[], resolutions={}, observed=observed, serve_options=OPTIONS, now=play.now)
    assert "digits" not in table_of(gone.config).models
    assert deployed(gone) == {1, 2}


def test_its_replicas_are_its_own_and_starts_nothing_anew() -> None:
    play = ab(replicas=3)
    before = {app: entry for app, entry in applications(play.look()).items() if app != ROUTER_APP}
    play.edit({"versions": [{**AB["versions"][0], "replicas": 1}]}, replicas=3)
    after = {app: entry for app, entry in applications(play.settle().look()).items() if app != ROUTER_APP}
    assert after.keys() == before.keys()
    assert {size.given(entry).least for entry in after.values()} == {1, 3}


@pytest.mark.parametrize(
    ("weights", "left", "expected"),
    [
        ({"a": 100}, 70, {"a": 70}),
        ({"a": 0, "b": 100}, 1, {"a": 0, "b": 1}),
        ({"a": 33, "b": 67}, 50, {"a": 16, "b": 34}),
        ({}, 100, {}),
    ],
)
def test_shares_of_what_is_left(weights: dict[str, int], left: int, expected: dict[str, int]) -> None:
    assert rows.shared_out(weights, left) == expected
