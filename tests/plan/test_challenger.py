"""Versions that spec.traffic names while the model's own version changes: by stages, or to one of them."""

from __future__ import annotations

import pytest

from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_operator.plan.rollout import ABORT_ANNOTATION, PROMOTE_ANNOTATION, attempt, promotion
from rayfleet_serving.config import ROUTER_APP

from .play import AB, CANARY, MIRROR, Play, ab
from .scenes import identity


def test_the_models_own_version_changes_beside_it() -> None:
    play = ab()
    play.mean(4)
    play.settle()
    assert play.shares() == {2: ("b", 30, 0), 4: ("", 70, 0)}
    assert [each.outcome for each in play.status.history] == ["Succeeded", "Succeeded"]
    assert play.status.history[0].version == "4"


def test_a_challenger_that_is_promoted_has_everything_and_never_less_on_the_way() -> None:
    play = ab()
    app = play.rows()[2].app
    play.mean(2)
    weights = []
    for _ in range(20):
        play.look()
        weights.append(play.rows()[2].weight)
        play.advance()
    assert weights == sorted(weights)
    assert play.settle().shares() == {2: ("", 100, 0)}
    assert play.rows()[2].app == app, "it is not started again"
    play.mean(5)
    play.settle()
    assert play.shares() == {2: ("b", 30, 0), 5: ("", 70, 0)}, "the name is its own again"
    assert play.rows()[2].app == app


@pytest.mark.parametrize("strategy", ["Immediate", "Canary"])
def test_a_promoted_challenger_grows_before_it_takes_over(strategy: str) -> None:
    """Serve calls an application RUNNING while its replicas are still being added."""
    canary = {"strategy": "Canary", "steps": [{"weight": 50, "hold": "5s"}], "scaleDownDelay": "0s"}
    share, rollout = (0, {"rollout": canary}) if strategy == "Canary" else (30, {})
    named_version = {**AB["versions"][0], "weight": share, "replicas": 1}
    play = Play({"versions": [named_version]}, replicas=10, **rollout)
    play.mean(2, "b")
    play.settle()
    app = play.rows()[2].app
    assert play.world.apps[app].replicas == 1
    play.mean(2)
    weights, told = [], []
    for _ in range(40):
        play.look()
        weights.append(play.rows()[2].weight)
        told.append(play.told(ConditionType.PROGRESSING)[2])
        assert weights[-1] == share or play.world.apps[app].replicas == 10
        play.advance()
    assert weights == sorted(weights)
    assert weights[-1] == 100
    if strategy == "Immediate":
        assert "4 of 10 replicas of version 2 run" in told


def test_where_nothing_else_answers_a_promoted_challenger_does_not_wait() -> None:
    play = Play({"versions": [{**AB["versions"][0], "replicas": 1}]}, replicas=10)
    play.mean(2, "b")
    play.settle()
    own = play.rows()[1].app
    play.world.apps[own].status = play.world.apps[own].outcome = "UNHEALTHY"
    play.world.broken.add(identity(1).model_id)
    for router in play.world.routers:
        router.knows.discard(own)
    play.mean(2)
    play.look()
    assert play.shares()[2] == ("", 100, 0)


@pytest.mark.parametrize("mirror", [{"mirror": 25}, {}])
def test_a_challenger_that_was_given_up_goes_on_under_its_name(mirror: dict[str, int]) -> None:
    play = Play({"versions": [{"name": "b", "uri": "models:/digits@b", **mirror}]}, rollout=CANARY)
    play.mean(2, "b")
    play.settle()
    play.mean(2)
    for _ in range(10):
        play.look()
        play.advance()
    assert play.status.rollout is not None
    assert play.shares()[2] == ("", 50, 0)
    play.say(**{ABORT_ANNOTATION: attempt(play.status.rollout.mark)})
    play.settle()
    assert play.shares() == {1: ("", 100, 0), 2: ("b", 0, mirror.get("mirror", 0))}
    assert play.told(ConditionType.PROGRESSING)[:2] == ("False", "RolledBack")
    assert len(play.status.versions) == 2


def test_whoever_asks_by_name_is_answered_after_the_promotion_too() -> None:
    play = ab()
    play.mean(2)
    play.settle()
    assert play.rows()[2].other_names == ["b"]
    play.mean(5)
    play.settle()
    assert (play.rows()[2].name, play.rows()[2].other_names) == ("b", [])


def test_whoever_has_callers_keeps_its_place_whatever_becomes_of_the_others() -> None:
    """Routers lay sticky callers out by it."""
    play = Play()
    for number, name in enumerate(("b", "c", "d", "shadow"), start=2):
        play.mean(number, name)

    def places(**shares: int) -> dict[str, int]:
        versions = [
            {"name": name, "uri": f"models:/digits@{name}", "weight": weight} for name, weight in shares.items()
        ]
        play.edit({"versions": versions} if versions else None)
        play.settle()
        return {row.name: row.place for row in play.rows().values() if row.weight and row.name}

    assert places(shadow=0, b=10, c=20) == {"b": 0, "c": 1}
    assert places(shadow=0, b=0, c=20) == {"c": 1}
    assert places(c=30) == {"c": 1}
    assert places(d=5, c=30) == {"d": 0, "c": 1}
    assert places(d=5, b=7, c=30) == {"d": 0, "b": 2, "c": 1}
    assert places(d=5, b=7) == {"d": 0, "b": 1}, "the last two stand on two sides"
    assert places(b=7) == {"b": 1}
    assert places(b=7, c=30) == {"b": 1, "c": 0}
    play.mean(9, "c")
    play.look()
    assert {row.place for row in play.rows().values() if row.name == "c"} == {0}


@pytest.mark.parametrize("trouble", ["it does not load", "it means nothing"])
def test_what_is_wrong_with_the_models_own_is_not_hidden_by_what_is_pending_beside_it(trouble: str) -> None:
    play = ab()
    if trouble == "it does not load":
        play.world.broken.add(identity(3).model_id)
        play.mean(3)
        expected = "VersionFailed"
    else:
        play.resolutions["digits"] = ResolutionProblem("AliasNotFound", "there is no such alias")
        expected = "AliasNotFound"
    del play.resolutions["digits/b"]
    play.edit({"versions": [AB["versions"][0], {"name": "c", "uri": "models:/digits@c"}]})
    for _ in range(20):
        found = play.look()
        play.advance()
    assert play.told(ConditionType.PROGRESSING)[:2] == ("False", expected)
    assert found.models[0].name == "digits"


def test_a_candidate_that_lacks_replicas_waits_unless_somebody_promotes_it() -> None:
    play = Play(replicas=3, rollout=CANARY).settle()
    play.mean(2)
    for _ in range(5):
        play.look()
        play.advance()
    app = play.rows()[2].app
    assert play.rows()[2].weight == 10
    play.edit(replicas=4, rollout=CANARY)
    play.look()
    play.world.apps[app].replicas = 3
    for _ in range(10):
        play.look()
        for router in play.world.routers:
            play.world.advance_router(router)
        play.world.apps[app].status = play.world.apps[ROUTER_APP].status = "RUNNING"
    assert play.rows()[2].weight == 10
    assert "not all replicas" in play.told(ConditionType.PROGRESSING)[2]
    assert play.status.rollout is not None
    play.say(**{PROMOTE_ANNOTATION: promotion(play.status.rollout.mark, "0")})
    play.look()
    assert play.rows()[2].weight == 50


def test_a_mirror_stays_where_it_is_while_a_rollout_goes_by_stages() -> None:
    canary = {"strategy": "Canary", "steps": [{"weight": 10, "hold": "5s"}], "scaleDownDelay": "0s"}
    play = Play(MIRROR, rollout=canary)
    play.mean(9, "shadow")
    play.settle()
    play.mean(2)
    seen = []
    for _ in range(40):
        play.look()
        shares = play.shares()
        assert shares[9] == ("shadow", 0, 25)
        seen.append(shares.get(2, ("", 0, 0))[1])
        play.advance()
    assert sorted(set(seen)) == [0, 10, 100]
    assert seen == sorted(seen)
