"""A rollout by stages: when it goes on, when it waits, and what edits under way do to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from rayfleet_operator.plan.analysis import Count
from rayfleet_operator.plan.rollout import UNREACHED, Command, RolloutFacts, decide

from .rollouts import BAD, BLUE_GREEN, CANARY, GOOD, MANUAL, NONE, Model, rollout
from .scenes import NOW
from .test_analysis import counted


def test_a_canary_goes_through_its_steps_and_the_old_version_stands_by() -> None:
    model = Model(CANARY, scaleDownDelay="30s")
    model.look(reachable=False)
    assert (model.weight, model.reason) == (0, "Deploying")
    model.look(5, reachable=True)
    assert (model.weight, model.reason) == (10, "Shifting")
    model.look(1, held=False)
    assert model.reason == "WaitingForRouters"
    model.look(100, held=True)
    assert model.reason == "Holding"
    model.look(599)
    assert (model.weight, model.reason) == (10, "Holding")
    model.look(1)
    assert (model.weight, model.reason) == (50, "Shifting")
    model.look(1)
    model.look(600)
    assert (model.weight, model.reason) == (100, "Shifting")
    model.look(1)
    model.look(29)
    assert (model.weight, model.reason) == (100, "Holding")
    model.look(1)
    assert (model.weight, model.mark) == (100, None)


def test_blue_green_is_one_switch_and_the_way_back_is_open() -> None:
    model = Model(BLUE_GREEN)
    model.look()
    model.look(1)
    assert (model.weight, model.reason) == (0, "Holding")
    model.look(299)
    model.look(1)
    assert model.weight == 100
    model.look(1)
    model.look(59)
    assert model.mark is not None
    model.look(1)
    assert model.mark is None
    assert set(model.weights) == {0, 100}


def test_without_a_hold_a_step_waits_for_somebody() -> None:
    model = Model(MANUAL).at(0)
    model.look(10**6)
    assert (model.weight, model.reason) == (10, "Paused")
    model.look(command=Command(promote="@/1"))
    model.look(command=Command(promote="other/0"))
    assert model.weight == 10, "what is about another step or another candidate is nothing to it"
    model.look(command=Command(promote="@/0"))
    assert model.weight == 50
    model.look(1)
    model.look(10**6)
    assert (model.weight, model.reason) == (50, "Paused"), "said once, it is done once"


def test_promoted_past_all_steps_the_old_version_still_stands_by() -> None:
    model = Model(MANUAL)
    for _ in range(8):
        model.look(1, command=Command(promote="@/all"))
    assert (model.weight, model.reason) == (100, "Holding")
    assert sorted(set(model.weights)) == [10, 50, 100], "no step is skipped"


@pytest.mark.parametrize("stage", [-1, 0, 1])
def test_while_another_ray_cluster_takes_over_nothing_moves_and_no_clock_runs(stage: int) -> None:
    model = Model(CANARY)
    if stage >= 0:
        model.at(stage)
    before = model.weight
    model.look(0, frozen=True, reachable=False)
    mark = model.mark
    for _ in range(5):
        model.look(10**6, command=Command(promote="@/all"))
        assert (model.weight, model.reason) == (before, "WaitingForCluster")
        assert model.mark == mark, "what is written does not change from look to look"
    model.look(1, frozen=False, command=Command())
    assert model.weight >= before
    assert model.mark is None or not model.mark.ended


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("count", [NONE, counted(99), counted(100, failed=2)])
def test_what_cannot_be_concluded_waits_and_goes_on_when_it_can(stage: int, count: Count) -> None:
    model = Model(CANARY).at(stage)
    before = model.weight
    model.look(10**6, counted={"new": count, "old": GOOD})
    assert (model.weight, model.reason) == (before, "Inconclusive")
    model.look(1, counted={"new": GOOD, "old": GOOD})
    assert model.weight > before


def test_at_the_end_no_requests_are_no_reason_to_keep_the_old_version_for_ever() -> None:
    model = Model(CANARY).at(2)
    model.look(30, counted={})
    assert model.mark is None


def test_a_pause_stops_the_clock_from_deciding_and_nothing_else() -> None:
    model = Model(CANARY).at(0)
    model.spec = rollout(CANARY, paused=True)
    model.look(10**6)
    assert (model.weight, model.reason) == (10, "Paused")
    model.spec = rollout(CANARY)
    model.look(1)
    assert model.weight == 50
    model.look(1)
    model.spec = rollout(CANARY, paused=True)
    model.look(1, counted={"new": BAD, "old": GOOD})
    assert (model.weight, model.reason) == (0, "RolledBack")


@pytest.mark.parametrize(
    ("steps", "weights"),
    [
        ([(10, "1m"), (30, "1m"), (60, "1m")], [10, 30, 60, 100]),
        ([(5, "1m"), (20, "1m")], [10, 20, 100]),
        ([(40, "1m")], [10, 40, 100]),
        ([(5, "1m")], [10, 100]),
    ],
)
def test_steps_that_are_edited_under_way_never_take_weight_back(
    steps: list[tuple[int, str]], weights: list[int]
) -> None:
    model = Model(CANARY).at(0)
    model.weights = [model.weight]
    model.spec = rollout({**CANARY, "steps": [{"weight": weight, "hold": hold} for weight, hold in steps]})
    for _ in range(20):
        model.look(61)
        if model.mark is None:
            break
    assert model.mark is None
    assert list(dict.fromkeys(model.weights)) == weights


@pytest.mark.parametrize(
    ("spec", "stage", "weight"), [(BLUE_GREEN, 0, 0), (CANARY, 0, 10)], ids=["edited", "its time has passed"]
)
def test_a_candidate_that_cannot_be_reached_just_now_gets_no_more(
    spec: dict[str, Any], stage: int, weight: int
) -> None:
    model = Model(spec).at(stage)
    model.spec = rollout(CANARY)
    model.look(1, reachable=False)
    assert model.reason == "Holding", "while the clock runs that is no news"
    model.look(3600)
    assert (model.weight, model.reason) == (weight, "Deploying")
    model.look(command=Command(promote=f"@/{stage}"))
    model.look(command=Command(promote="@/all"))
    assert model.weight == weight, "whoever promotes it means one that answers"
    model.look(command=Command(), reachable=True)
    assert model.weight > weight


def test_the_version_before_goes_though_the_candidate_waits_for_what_it_holds() -> None:
    model = Model(CANARY).at(2)
    model.look(3600, reachable=False)
    assert (model.mark, model.weight) == (None, 100)


def test_what_waits_for_somebody_says_so_though_nothing_reaches_the_candidate() -> None:
    model = Model(CANARY, onFailure="Pause").at(0)
    model.look(1, reachable=False, lost=True)
    model.look(20)
    assert model.reason == "Paused"
    assert model.decision is not None
    assert model.decision.message.endswith(f"abort it, or promote it, which takes no effect while {UNREACHED}")


def test_a_strategy_that_is_edited_under_way_goes_on_from_its_weight() -> None:
    model = Model(CANARY).at(1)
    model.spec = rollout(BLUE_GREEN)
    for _ in range(20):
        model.look(120)
        if model.mark is None:
            break
    assert model.mark is None
    assert list(dict.fromkeys(model.weights)) == [10, 50, 100]


def test_where_nothing_serves_a_candidate_need_not_prove_itself() -> None:
    model = Model(CANARY)
    model.look(reachable=True, hopeless=True)
    assert model.weight == 100


@pytest.mark.parametrize("spec", [CANARY, MANUAL, BLUE_GREEN])
def test_while_a_router_is_missing_nothing_moves(spec: dict[str, Any]) -> None:
    model = Model(spec).at(0)
    before = model.weight
    model.look(10**6, held=False, command=Command(promote="@/0"))
    assert (model.weight, model.reason) == (before, "WaitingForRouters")
    model.look(1, held=True)
    assert model.weight > before


def test_facts_are_plain_values() -> None:
    facts = RolloutFacts(
        stable="old",
        candidate="new",
        mark=None,
        weight=0,
        reachable=True,
        grown=True,
        lost=False,
        hopeless=False,
        held=True,
        frozen=False,
        counted={},
        command=Command(),
        now=NOW,
    )
    later = replace(facts, now=datetime.max.replace(tzinfo=NOW.tzinfo))
    assert decide(rollout(CANARY), later).weight == 10
