"""A rollout by stages: each rule of the machine, and long walks through it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.plan import strategy
from rayfleet_operator.plan.analysis import Count
from rayfleet_operator.plan.rollout import Command, RolloutDecision, RolloutFacts, attempt, decide
from rayfleet_serving.config import RolloutMark

from .scenes import NOW
from .test_analysis import counted

CANARY = {
    "strategy": "Canary",
    "steps": [{"weight": 10, "hold": "10m"}, {"weight": 50, "hold": "10m"}],
    "analysis": {"errorRate": {"max": "1%"}, "minRequests": 100},
}
MANUAL = {"strategy": "Canary", "steps": [{"weight": 10}, {"weight": 50}]}
BLUE_GREEN = {"strategy": "BlueGreen", "previewHold": "5m", "scaleDownDelay": "1m"}
GOOD, BAD, NONE = counted(500), counted(500, failed=50), Count()


def rollout(spec: dict[str, Any], **more: Any) -> Rollout:
    return Rollout.model_validate({**spec, **more})


class Model:
    """One model with a stable version and a candidate; the world does what it is told at once."""

    def __init__(self, spec: dict[str, Any], **more: Any) -> None:
        self.spec = rollout(spec, **more)
        self.mark: RolloutMark | None = None
        self.weight = 0
        self.now = NOW
        self.facts: dict[str, Any] = {}
        self.decision: RolloutDecision | None = None
        self.weights: list[int] = []

    def look(self, seconds: float = 0, **facts: Any) -> RolloutDecision:
        """Once more, so much later. `facts` hold from now on."""
        self.now += timedelta(seconds=seconds)
        self.facts |= facts
        known: dict[str, Any] = {
            "reachable": True,
            "lost": False,
            "hopeless": False,
            "held": True,
            "frozen": False,
            "counted": {"new": GOOD, "old": GOOD},
            "command": Command(),
        }
        at = RolloutFacts(
            stable="old",
            candidate="new",
            mark=self.mark,
            weight=self.weight,
            now=self.now,
            **(known | self.facts | {"command": self._about(self.facts.get("command", Command()))}),
        )
        self.decision = decide(self.spec, at)
        self.mark, self.weight = self.decision.mark, self.decision.weight
        self.weights.append(self.weight)
        return self.decision

    def _about(self, command: Command) -> Command:
        """`@` stands for the attempt of now."""
        now = attempt(self.mark) if self.mark is not None else "none"
        return replace(command, promote=command.promote.replace("@", now), abort=command.abort.replace("@", now))

    def at(self, stage: int) -> Model:
        """Fast forward to the middle of a stage."""
        self.look(reachable=True)
        while self.mark is not None and self.mark.stage < stage:
            self.look(3600, command=Command(promote=f"@/{self.mark.stage}"))
        self.look(command=Command())
        assert self.mark is not None
        assert (self.mark.stage, bool(self.mark.since)) == (stage, True)
        return self

    @property
    def reason(self) -> str:
        assert self.decision is not None
        return str(self.decision.reason)


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


@pytest.mark.parametrize(
    ("facts", "ended"),
    [
        ({"counted": {"new": BAD, "old": GOOD}}, "AnalysisFailed"),
        ({"command": Command(abort="@")}, "Aborted"),
    ],
)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_what_fails_loses_its_requests_at_once_and_is_not_tried_again(
    facts: dict[str, Any], ended: str, stage: int
) -> None:
    model = Model(CANARY).at(stage)
    model.look(1, **facts)
    assert (model.weight, model.reason) == (0, "RolledBack")
    assert model.mark is not None
    assert model.mark.ended == ended
    assert model.mark.why
    model.look(1, counted={"new": GOOD, "old": GOOD}, lost=False, command=Command())
    assert model.decision is not None
    assert model.decision.keeps_candidate, "somebody may want to look at it"
    model.look(30)
    assert not model.decision.keeps_candidate
    model.look(10**6)
    assert (model.weight, model.reason) == (0, "RolledBack")


def test_a_candidate_of_which_nothing_answers_is_given_a_moment() -> None:
    model = Model(CANARY).at(0)
    model.look(1, lost=True)
    model.look(10)
    assert model.weight == 10
    model.look(1, lost=False)
    model.look(1, lost=True)
    model.look(14)
    assert model.weight == 10, "it had come back"
    model.look(1)
    assert model.mark is not None
    assert (model.weight, model.mark.ended) == (0, "CandidateLost")


def test_nothing_goes_back_to_a_version_that_does_not_run() -> None:
    model = Model(CANARY).at(1)
    model.look(1, hopeless=True, counted={"new": BAD, "old": NONE})
    assert (model.weight, model.reason) == (50, "Paused")
    model.look(1, hopeless=False)
    assert (model.weight, model.reason) == (0, "RolledBack")


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


def test_what_was_said_of_one_attempt_is_nothing_to_the_next() -> None:
    model = Model(MANUAL).at(0)
    assert model.mark is not None
    first = attempt(model.mark)
    model.look(1, command=Command(abort=first))
    assert model.mark.ended
    model.spec = rollout({**MANUAL, "scaleDownDelay": "1m"})
    model.look(1)
    model.look(1)
    model.look(1)
    assert (model.mark.ended, model.mark.stage, model.weight) == ("", 0, 10)
    model.look(10**6, command=Command(promote=f"{first}/0"))
    assert (model.weight, model.reason) == (10, "Paused")


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


def test_a_candidate_that_is_never_ready_is_given_up() -> None:
    model = Model(CANARY, progressDeadline="15m")
    model.look(reachable=False)
    model.look(899)
    assert model.reason == "Deploying"
    model.look(1)
    assert model.mark is not None
    assert (model.mark.ended, model.weight) == ("ProgressDeadlineExceeded", 0)
    model.look(1, reachable=True)
    assert model.weight == 0, "too late"


@pytest.mark.parametrize(
    "again",
    [
        {"command": Command(retry="please")},
        {"spec": {**CANARY, "analysis": {"errorRate": {"max": "20%"}}}},
    ],
)
def test_what_was_given_up_is_tried_again_when_asked_or_under_other_rules(again: dict[str, Any]) -> None:
    model = Model(CANARY).at(1)
    model.look(1, counted={"new": BAD, "old": GOOD})
    if "spec" in again:
        model.spec = rollout(again["spec"])
    else:
        model.look(1, **again)
    model.look(1, counted={})
    model.look(1)
    assert model.mark is not None
    assert (model.mark.stage, model.mark.ended, model.weight) == (0, "", 10)
    if "spec" not in again:
        model.look(1, counted={"new": BAD, "old": GOOD})
        model.look(1, counted={})
        assert model.mark.ended or model.weight == 0, "the same request does not hold twice"


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


def test_a_failure_that_pauses_keeps_the_weight_until_somebody_decides() -> None:
    model = Model(CANARY, onFailure="Pause").at(1)
    model.look(1, counted={"new": BAD, "old": GOOD})
    assert (model.weight, model.reason) == (50, "Paused")
    assert model.mark is not None
    why = model.mark.why
    model.look(10**6, counted={"new": counted(5000, failed=500), "old": GOOD})
    assert (model.weight, model.reason, model.mark.why) == (50, "Paused", why)
    promoted = Model(CANARY, onFailure="Pause")
    promoted.mark, promoted.weight, promoted.now = model.mark, model.weight, model.now
    promoted.look(1, command=Command(promote="@/1"))
    assert promoted.weight == 100
    model.look(1, command=Command(abort="@"))
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


SPECS = st.sampled_from([CANARY, MANUAL, BLUE_GREEN, {**CANARY, "onFailure": "Pause"}, {**CANARY, "paused": True}])
COUNTS = st.sampled_from([GOOD, BAD, NONE, counted(10), counted(200, failed=4)])
FACTS = st.fixed_dictionaries(
    {
        "reachable": st.booleans(),
        "lost": st.sampled_from([False, False, False, True]),
        "hopeless": st.just(False),
        "held": st.booleans(),
        "frozen": st.sampled_from([False, False, False, True]),
        "counted": st.fixed_dictionaries({"new": COUNTS, "old": COUNTS}),
        "command": st.builds(
            Command,
            promote=st.sampled_from(["", "", "@/0", "@/1", "@/2", "@/all", "other/0"]),
            abort=st.sampled_from(["", "", "", "@", "other"]),
            retry=st.sampled_from(["", "", "again"]),
        ),
    }
)
LOOKS = st.lists(st.tuples(st.sampled_from([0, 1, 30, 599, 601, 10_000]), FACTS, SPECS), min_size=1, max_size=25)


@given(LOOKS)
@settings(max_examples=400, deadline=None)
def test_whatever_is_seen_and_edited_no_stage_is_skipped_and_no_weight_comes_back(
    looks: list[tuple[float, dict[str, Any], dict[str, Any]]],
) -> None:
    model = Model(CANARY)
    for seconds, facts, spec in looks:
        before, weight = model.mark, model.weight
        model.spec = rollout(spec)
        found = model.look(seconds, **facts)
        stages = strategy.stages(model.spec)
        assert 0 <= model.weight <= 100
        assert found.reason
        assert found.message
        if model.mark is None:
            assert weight == model.weight == 100, "it ends when it has had every request for a while"
            return
        if model.mark.ended:
            assert model.weight == 0
            continue
        restarted = before is None or before.ended
        if not restarted:
            assert model.weight >= weight, "only a rollback takes weight away"
        if before is not None and not before.ended and model.mark.stage > before.stage >= 0:
            # One stage further by the stages of today, from wherever the weight belongs.
            passed = [each.weight for each in stages if weight < each.weight < model.weight]
            assert not passed, "no step is skipped"
        if model.mark.stage >= 0:
            assert stages[model.mark.stage].weight <= model.weight


@given(LOOKS, st.sampled_from([CANARY, BLUE_GREEN]))
@settings(max_examples=200, deadline=None)
def test_from_wherever_it_stands_a_good_candidate_arrives(
    looks: list[tuple[float, dict[str, Any], dict[str, Any]]], last: dict[str, Any]
) -> None:
    model = Model(CANARY)
    for seconds, facts, spec in looks:
        model.spec = rollout(spec)
        model.look(seconds, **facts)
        if model.mark is None:
            return
    model.spec = rollout(last)
    well = {"reachable": True, "lost": False, "held": True, "frozen": False, "counted": {"new": GOOD, "old": GOOD}}
    model.look(1, **well, command=Command(retry="now"))
    for _ in range(10):
        model.look(3600)
        if model.mark is None:
            break
    paused = model.mark is not None and bool(model.mark.why)
    assert model.mark is None or paused, "only what a failure has paused waits for somebody"


@given(LOOKS)
@settings(max_examples=200, deadline=None)
def test_to_be_killed_before_a_decision_is_written_changes_nothing(
    looks: list[tuple[float, dict[str, Any], dict[str, Any]]],
) -> None:
    """The same facts give the same decision, so it is made again by whoever comes next."""
    model = Model(CANARY)
    for seconds, facts, spec in looks:
        model.spec = rollout(spec)
        mark, weight = model.mark, model.weight
        first = model.look(seconds, **facts)
        after = (model.mark, model.weight)
        model.mark, model.weight = mark, weight
        assert model.look(0) == first
        assert (model.mark, model.weight) == after
        if model.mark is None:
            return


def test_facts_are_plain_values() -> None:
    facts = RolloutFacts(
        stable="old",
        candidate="new",
        mark=None,
        weight=0,
        reachable=True,
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
