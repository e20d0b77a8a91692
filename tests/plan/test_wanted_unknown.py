"""A rollout under way while nobody knows which version is wanted: it goes no further, and fails as ever."""

from __future__ import annotations

from typing import Any

import pytest

from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.fleet import plan
from rayfleet_operator.plan.observed import Resolution, ResolutionProblem
from rayfleet_operator.plan.rollout import ABORT_ANNOTATION, PROMOTE_ANNOTATION, attempt, promotion

from .play import Play
from .scenes import OPTIONS, identity, table_of

CANARY = {
    "strategy": "Canary",
    "steps": [{"weight": 10, "hold": "5s"}, {"weight": 50, "hold": "5s"}],
    "scaleDownDelay": "5s",
    "analysis": {"minRequests": 5, "errorRate": {"max": "10%"}},
}
BLUE_GREEN = {"strategy": "BlueGreen", "scaleDownDelay": "2s"}
UNKNOWN = [
    pytest.param(ResolutionProblem("VersionDeleted", "version 2 was deleted"), id="deleted"),
    pytest.param(ResolutionProblem("AliasNotFound", "there is no such alias"), id="alias taken off"),
    pytest.param(ResolutionProblem("InsufficientCapacity", "nothing is that large", held=True), id="too large"),
    pytest.param(None, id="not asked yet"),
]


def at_ten(problem: Resolution | None, **rollout: Any) -> Play:
    """Version 2 has 10 % of version 1's requests, and now the URI means nothing."""
    play = Play(rollout=CANARY | rollout)
    play.settle()
    play.mean(2)
    for _ in range(12):
        play.look()
        play.advance()
        if play.shares().get(2, ("", 0, 0))[1] == 10:
            break
    assert play.shares() == {1: ("", 90, 0), 2: ("", 10, 0)}
    means_nothing(play, problem)
    return play


def means_nothing(play: Play, problem: Resolution | None) -> None:
    if problem is None:
        del play.resolutions["digits"]
    else:
        play.resolutions["digits"] = problem


def named_too(rollout: dict[str, Any]) -> Play:
    """Version 2 is called b, and is to take over from version 1."""
    play = Play({"versions": [{"name": "b", "uri": "models:/digits@b"}]}, rollout=rollout)
    play.mean(2, "b")
    play.settle()
    play.mean(2)
    return play


def in_preview() -> Play:
    play = named_too(BLUE_GREEN)
    looks(play, 6, asked=False)
    return play


def looks(play: Play, times: int, *, asked: bool = True) -> None:
    for _ in range(times):
        for router in play.world.routers if asked else []:
            for _ in range(5):
                play.world.send(router)
            router.ongoing.clear()
        play.look()
        play.advance()


@pytest.mark.parametrize("problem", UNKNOWN)
def test_it_goes_no_further_until_the_version_is_known_again(problem: Resolution | None) -> None:
    play = at_ten(problem)
    looks(play, 60)
    assert play.shares() == {1: ("", 90, 0), 2: ("", 10, 0)}
    rollout = play.status.rollout
    assert rollout is not None
    assert (rollout.weight, rollout.ended) == (10, "")
    assert "nobody knows which version is wanted" in rollout.message
    assert [each.outcome for each in play.status.history] == ["Succeeded"]
    play.mean(2)
    looks(play, 60)
    assert play.shares() == {2: ("", 100, 0)}
    assert [(each.version, each.outcome) for each in play.status.history] == [("2", "Succeeded"), ("1", "Succeeded")]


@pytest.mark.parametrize("problem", UNKNOWN)
def test_a_candidate_that_fails_is_given_up_and_removed(problem: Resolution | None) -> None:
    play = at_ten(problem)
    play.world.failing.add(play.rows()[2].app)
    looks(play, 60)
    assert play.shares() == {1: ("", 100, 0)}
    assert len(play.world.apps) == 2, "routers and version 1"
    rollout = play.status.rollout
    assert rollout is not None
    assert rollout.ended == "AnalysisFailed"
    outcomes = [(each.version, each.outcome) for each in play.status.history]
    assert outcomes == [("2", "RolledBack"), ("1", "Succeeded")]
    play.mean(2)
    looks(play, 60)
    assert play.shares() == {1: ("", 100, 0)}, "it is not tried again"
    assert [(each.version, each.outcome) for each in play.status.history] == outcomes, "nor told of twice"
    assert play.told(ConditionType.DEGRADED)[1] == "RolledBack"


@pytest.mark.parametrize("problem", UNKNOWN)
def test_it_can_be_aborted(problem: Resolution | None) -> None:
    play = at_ten(problem)
    assert play.status.rollout is not None
    play.say(**{ABORT_ANNOTATION: attempt(play.status.rollout.mark)})
    looks(play, 2)
    assert play.rows()[1].weight == 100
    assert play.status.rollout.ended == "Aborted"


def test_it_is_not_promoted_before_it_is_wanted_again() -> None:
    play = at_ten(ResolutionProblem("AliasNotFound", "there is no such alias"))
    assert play.status.rollout is not None
    play.say(**{PROMOTE_ANNOTATION: promotion(play.status.rollout.mark, "all")})
    looks(play, 20, asked=False)
    assert play.shares() == {1: ("", 90, 0), 2: ("", 10, 0)}
    play.mean(2)
    looks(play, 20, asked=False)
    assert play.shares() == {2: ("", 100, 0)}


def test_what_is_to_pause_pauses() -> None:
    play = at_ten(ResolutionProblem("AliasNotFound", "there is no such alias"), onFailure="Pause")
    play.world.failing.add(play.rows()[2].app)
    looks(play, 30)
    assert play.shares() == {1: ("", 90, 0), 2: ("", 10, 0)}
    assert "requests failed" in play.told(ConditionType.DEGRADED)[2]


def test_steps_that_were_edited_meanwhile_count_once_it_is_known() -> None:
    play = at_ten(ResolutionProblem("AliasNotFound", "there is no such alias"))
    play.edit(rollout=CANARY | {"steps": [{"weight": 30}]})
    looks(play, 20)
    assert play.shares() == {1: ("", 90, 0), 2: ("", 10, 0)}
    play.mean(2)
    looks(play, 20)
    assert play.shares() == {1: ("", 70, 0), 2: ("", 30, 0)}


@pytest.mark.parametrize("given_up", [False, True])
def test_of_a_spec_that_cannot_be_read_nothing_is_made_up(given_up: bool) -> None:
    """What stands for it says nothing of failures, of delays or of when to try again."""
    play = at_ten(ResolutionProblem("AliasNotFound", "there is no such alias"), onFailure="Pause", scaleDownDelay="1h")
    read = play.model
    if given_up:
        assert play.status.rollout is not None
        play.say(**{ABORT_ANNOTATION: attempt(play.status.rollout.mark)})
        looks(play, 3)
    before, told, history = play.shares(), play.status.rollout, play.status.history
    play.resolutions["digits"] = ResolutionProblem("InvalidSpec", "it is of another time", held=True)
    play.edit()
    play.say()
    play.world.apps[play.rows()[2].app].status = "UNHEALTHY"
    for router in play.world.routers:
        router.knows.discard(play.rows()[2].app)
    play.world.broken.add(identity(2).model_id)
    looks(play, 120)
    assert play.shares() == before
    assert told is not None
    assert play.status.rollout is not None
    assert (play.status.rollout.ended, play.status.rollout.weight) == (told.ended, told.weight)
    assert play.status.history == history
    play.model = read
    play.mean(2)
    looks(play, 2, asked=False)
    assert play.shares() == before, "nor is it tried again"


@pytest.mark.parametrize("problem", UNKNOWN)
def test_a_candidate_that_has_a_name_as_well_waits_in_its_preview(problem: Resolution | None) -> None:
    play = in_preview()
    before = play.status.rollout
    assert before is not None
    means_nothing(play, problem)
    looks(play, 10, asked=False)
    assert play.status.rollout is not None
    assert (play.status.rollout.began, play.status.rollout.ended) == (before.began, "")
    assert [each.outcome for each in play.status.history] == ["Succeeded"]
    play.say(**{ABORT_ANNOTATION: attempt(before.mark)})
    looks(play, 2, asked=False)
    assert play.status.rollout.ended == "Aborted"
    assert play.rows()[2].name == "b" or "b" in play.rows()[2].other_names


@pytest.mark.parametrize("given_up", [False, True])
@pytest.mark.parametrize("edit", ["removed", "means another"])
def test_a_candidate_that_loses_its_name_meanwhile_is_told_of_once_and_keeps_its_row(given_up: bool, edit: str) -> None:
    play = in_preview()
    app = play.rows()[2].app
    if given_up:
        assert play.status.rollout is not None
        play.say(**{ABORT_ANNOTATION: attempt(play.status.rollout.mark)})
        looks(play, 10, asked=False)
    play.resolutions["digits"] = ResolutionProblem("AliasNotFound", "there is no such alias")
    looks(play, 2, asked=False)
    if edit == "removed":
        play.edit(rollout=BLUE_GREEN)
    else:
        play.mean(3, "b")
    for _ in range(10):
        for router in play.world.routers:
            router.ongoing[app] = 1
        play.look()
        play.advance()
        apps = [each.app for each in play.status.versions]
        assert len(apps) == len(set(apps))
        assert app in {row.app for row in play.rows().values()}
    assert play.rows()[2].leaving == given_up


def test_what_was_given_up_gets_nothing_back_while_another_cluster_takes_over() -> None:
    """Its routers may hold a table from before."""
    play = named_too(CANARY)
    while play.shares()[2][1] != 10:
        looks(play, 1, asked=False)
    assert play.planned is not None
    before = table_of(play.planned.config).models["digits"]
    assert before.rollout is not None
    over = before.rollout.model_copy(update={"ended": "Aborted", "since": "2020-01-01T00:00:00Z"})
    rows = [row.model_copy(update={"weight": 100 if row.version == "1" else 0}) for row in before.versions]
    planned = plan(
        fleet=None,
        models=[play.model],
        resolutions={"digits": ResolutionProblem("InsufficientCapacity", "too large", held=True)},
        observed=play.world.observe(play.now),
        serve_options=OPTIONS,
        now=play.now,
        written={"digits": before.model_copy(update={"rollout": over, "versions": rows})},
        frozen=True,
    )
    assert {row.version: row.weight for row in table_of(planned.config).models["digits"].versions} == {"1": 100, "2": 0}


@pytest.mark.parametrize("problem", UNKNOWN)
def test_one_that_was_given_up_and_has_a_name_as_well_can_be_asked_for(problem: Resolution | None) -> None:
    play = named_too(CANARY)
    while play.shares()[2][1] != 10:
        looks(play, 1, asked=False)
    means_nothing(play, problem)
    play.world.failing.add(play.rows()[2].app)
    looks(play, 60)
    row = play.rows()[2]
    assert (row.weight, row.leaving) == (0, False)
    assert "b" in (row.name, *row.other_names)
    assert row.app in play.world.apps


def test_what_was_the_models_own_and_is_named_now_is_told_of_once() -> None:
    """The API server takes no status with two versions of one application."""
    play = Play()
    play.settle()
    play.mean(2)
    first = play.rows()[1].app
    for _ in range(12):
        for router in play.world.routers:
            router.ongoing[first] = 1
        play.look()
        play.advance()
    assert play.rows()[1].leaving
    play.resolutions["digits"] = ResolutionProblem("AliasNotFound", "there is no such alias")
    play.edit({"versions": [{"name": "b", "uri": "models:/digits/1", "weight": 10}]})
    play.mean(1, "b")
    for _ in range(3):
        play.look()
        play.advance()
        apps = [each.app for each in play.status.versions]
        assert len(apps) == len(set(apps))
    assert play.shares() == {2: ("", 90, 0), 1: ("b", 10, 0)}
