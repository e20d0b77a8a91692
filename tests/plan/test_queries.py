"""What Prometheus is asked of a candidate, and what is concluded from its answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from rayfleet_operator.api.rollout import Analysis
from rayfleet_operator.api.timestamp import stamp
from rayfleet_operator.plan.analysis import Count, judge
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.measured import Answer, Question, answers, questions
from rayfleet_serving.config import ModelRoute, RolloutMark, VersionRoute

from .rollouts import Model
from .scenes import NOW, OPTIONS, condition, identity, model, weights
from .test_analysis import counted
from .world import World

MOST = {"name": "error-budget", "query": "up", "max": 0.02}
SPEC = {"queries": [MOST], "minRequests": 100}
DOWN = Answer(problem="Prometheus is unreachable: http://prometheus:9090: All connection attempts failed")
MANY, FEW = counted(100), counted(99)


def verdict(
    queries: list[dict[str, Any]], candidate: Count, measured: Mapping[str, Answer], **more: Any
) -> tuple[str, str]:
    analysis = Analysis.model_validate({"queries": queries, "minRequests": 100, **more})
    found = judge(analysis, candidate, counted(1000), measured)
    return str(found.outcome), found.message


@pytest.mark.parametrize(
    ("bounds", "answer", "candidate", "expected"),
    [
        ({"max": 0.02}, Answer(0.02), MANY, "Pass"),
        ({"max": 0.02}, Answer(-7.0), MANY, "Pass"),
        ({"max": 0.02}, Answer(0.0201), MANY, "Fail"),
        ({"max": 0.02}, Answer(0.0201), FEW, "Inconclusive"),
        ({"max": 0.02}, Answer(0.0), FEW, "Inconclusive"),
        ({"max": 0.02}, Answer(0.0201), Count(), "Inconclusive"),
        ({"min": 1}, Answer(1.0), MANY, "Pass"),
        ({"min": 1}, Answer(0.99), MANY, "Fail"),
        ({"min": 0, "max": 0}, Answer(0.0), MANY, "Pass"),
        ({"min": 0, "max": 0}, Answer(1e-9), MANY, "Fail"),
        ({"max": 0.02}, Answer(), MANY, "Inconclusive"),
        ({"max": 0.02}, DOWN, MANY, "Inconclusive"),
        ({"max": 0.02}, None, MANY, "Inconclusive"),
    ],
)
def test_each_answer(bounds: dict[str, float], answer: Answer | None, candidate: Count, expected: str) -> None:
    measured = {"a": answer} if answer is not None else {}
    found, message = verdict([{"name": "a", "query": "up", **bounds}], candidate, measured)
    assert found == expected, message
    assert message


def test_the_numbers_that_decided_are_told() -> None:
    assert verdict([MOST], MANY, {"error-budget": Answer(0.031)})[1] == "query error-budget: 0.031 (max 0.02)"
    both = {"name": "b", "query": "up", "min": 1, "max": 2.5}
    assert verdict([MOST, both], MANY, {"error-budget": Answer(0.0), "b": Answer(2.0)})[1] == (
        "query error-budget: 0 (max 0.02); query b: 2 (min 1, max 2.5)"
    )


def test_what_is_waited_for_is_told_in_words_that_stay() -> None:
    """It stands in statuses, and must not be news with each answer."""
    told = {verdict([MOST], counted(41), {"error-budget": Answer(value)})[1] for value in (0.0, 0.5, 7e9)}
    assert told == {"about 40 of at least 100 requests were answered"}
    assert verdict([MOST], MANY, {"error-budget": Answer()})[1] == (
        "query error-budget: there is nothing that it measures"
    )
    assert verdict([MOST], FEW, {"error-budget": DOWN})[1] == f"query error-budget: {DOWN.problem}"
    assert verdict([MOST], MANY, {})[1] == "query error-budget: Prometheus has not answered yet"


def test_what_several_wait_for_is_told_once() -> None:
    more = {"name": "b", "query": "up", "max": 1}
    measured = {"error-budget": Answer(0.0), "b": Answer(0.0)}
    told = verdict([MOST, more], FEW, measured, errorRate={"max": "1%"})
    assert told == ("Inconclusive", "about 90 of at least 100 requests were answered")


def test_one_query_that_does_not_hold_decides_whatever_is_not_known_of_others() -> None:
    more = {"name": "b", "query": "up", "max": 1}
    found = verdict([MOST, more], MANY, {"error-budget": DOWN, "b": Answer(1.5)}, errorRate={"max": "1%"})
    assert found == ("Fail", "query b: 1.5 (max 1)")


# What is asked.

MARK = RolloutMark(stable="old", candidate="new", began=stamp(NOW), stage=0, since=stamp(NOW))
PROMQL = """\
rate(a{n="{{namespace}}",m="{{model}}",v="{{candidate}}"}[{{window}}])
/ rate(a{v="{{stable}}"}[{{window}}])"""


def row(mark: RolloutMark | None, weight: int = 10) -> ModelRoute:
    versions = [
        VersionRoute(app=app, version=version, model_id=f"m-{app}", weight=share)
        for app, version, share in (("old", "3", 100 - weight), ("new", "4", weight))
    ]
    return ModelRoute(versions=versions, rollout=mark)


def asking(*queries: dict[str, Any], **metadata: Any) -> Any:
    rollout = {
        "strategy": "Canary",
        "steps": [{"weight": 10, "hold": "10m"}],
        "analysis": {"queries": list(queries), "minRequests": 10},
    }
    found = model(rollout=rollout)
    return found.model_copy(update={"metadata": found.metadata.model_copy(update=metadata)})


def texts(asked: Mapping[Question, str]) -> list[str]:
    return list(asked.values())


def test_placeholders_stand_for_the_model_and_its_two_versions() -> None:
    digits = asking({**MOST, "query": PROMQL}, namespace="vision")
    (text,) = texts(questions([digits], {"digits": row(MARK)}, NOW + timedelta(seconds=119.9)))
    assert text == 'rate(a{n="vision",m="digits",v="4"}[119s])\n/ rate(a{v="3"}[119s])'


@pytest.mark.parametrize(("seconds", "window"), [(-5, "1s"), (0, "1s"), (0.9, "1s"), (1.9, "1s"), (86_400, "86400s")])
def test_the_window_is_the_time_in_the_stage_and_never_nothing(seconds: float, window: str) -> None:
    now = NOW + timedelta(seconds=seconds)
    assert texts(questions([asking({**MOST, "query": "{{window}}"})], {"digits": row(MARK)}, now)) == [window]


@pytest.mark.parametrize(
    "rows",
    [
        {},
        {"digits": row(None)},
        {"digits": row(MARK, weight=0)},
        {"digits": row(MARK.model_copy(update={"since": ""}))},
        {"digits": row(MARK.model_copy(update={"ended": "Aborted"}))},
        {"digits": row(MARK.model_copy(update={"candidate": "gone"}))},
        {"digits": row(MARK.model_copy(update={"stable": "gone"}))},
        {"another": row(MARK)},
    ],
)
def test_nothing_is_asked_of_a_candidate_without_requests(rows: dict[str, ModelRoute]) -> None:
    assert questions([asking(MOST)], rows, NOW) == {}


def test_nothing_is_asked_where_nobody_asks() -> None:
    assert questions([model(), asking(MOST)], {"digits": row(MARK)}, NOW) != {}
    assert questions([model()], {"digits": row(MARK)}, NOW) == {}


def test_a_candidate_with_every_request_is_still_asked_about() -> None:
    assert len(questions([asking(MOST)], {"digits": row(MARK, weight=100)}, NOW)) == 1


@pytest.mark.parametrize(
    "later",
    [
        {"stage": 1},
        {"candidate": "newer"},
        {"began": stamp(NOW + timedelta(seconds=1))},
        {"since": stamp(NOW + timedelta(seconds=1))},
    ],
)
def test_an_answer_counts_in_its_own_stage_only(later: dict[str, Any]) -> None:
    digits = asking(MOST)
    measured = dict.fromkeys(questions([digits], {"digits": row(MARK)}, NOW), Answer(0.0))
    assert answers(digits, MARK, measured) == {"error-budget": Answer(0.0)}
    assert answers(digits, MARK.model_copy(update=later), measured) == {}
    assert answers(digits, None, measured) == {}
    assert answers(asking({**MOST, "query": "down"}), MARK, measured) == {}, "it was edited"


def test_the_same_stage_has_the_same_question_however_late_it_is() -> None:
    digits, rows = asking({**MOST, "query": PROMQL}), {"digits": row(MARK)}
    first, later = (questions([digits], rows, NOW + timedelta(seconds=seconds)) for seconds in (1, 100))
    assert first.keys() == later.keys()
    assert texts(first) != texts(later)


# What becomes of a rollout.

CANARY = {"strategy": "Canary", "steps": [{"weight": 10, "hold": "10m"}], "analysis": SPEC}


def test_a_prometheus_that_is_down_passes_nothing_and_rolls_nothing_back() -> None:
    found = Model(CANARY).at(0)
    found.look(10**6, measured={"error-budget": DOWN})
    assert (found.weight, found.reason) == (10, "Inconclusive")
    assert found.decision is not None
    assert DOWN.problem in found.decision.message
    found.look(1, measured={"error-budget": Answer(0.01)})
    assert found.weight == 100
    found.look(1, measured={"error-budget": DOWN})
    found.look(29)
    assert (found.weight, found.reason) == (100, "Holding")
    found.look(1)
    assert (found.weight, found.mark) == (100, None), "only the clock counts at the end"


@pytest.mark.parametrize("stage", [0, 1])
def test_what_does_not_hold_is_rolled_back_at_once_even_at_the_end(stage: int) -> None:
    found = Model(CANARY).at(stage)
    found.look(1, measured={"error-budget": Answer(0.031)})
    assert found.mark is not None
    assert (found.weight, found.mark.ended) == (0, "AnalysisFailed")
    assert found.mark.why == "query error-budget: 0.031 (max 0.02)"


class Walk:
    """A model whose second version takes over, step by step, in a world that counts; each query has one answer."""

    def __init__(self) -> None:
        self.world, self.now = World(), NOW
        self.model = asking(MOST)
        self.asked: set[Question] = set()
        self.planned: FleetPlan | None = None

    def steps(self, number: int, version: int, answer: Answer, seconds: float = 1) -> FleetPlan:
        for _ in range(number):
            self.now += timedelta(seconds=seconds)
            observed = self.world.observe(self.now)
            rows = observed.table.models if observed.table is not None else {}
            asked = questions([self.model], rows, self.now)
            self.asked |= asked.keys()
            self.planned = plan(
                fleet=None,
                models=[self.model],
                resolutions={"digits": identity(version)},
                observed=observed,
                serve_options=OPTIONS,
                now=self.now,
                measured=dict.fromkeys(asked, answer),
            )
            if self.planned.changed:
                self.world.put(self.planned.config)
            for name in list(self.world.apps):
                self.world.advance_app(name)
            for router in self.world.routers:
                self.world.advance_router(router)
                self.world.advance_router(router)
                for _ in range(10):
                    self.world.send(router)
                router.ongoing.clear()
        assert self.planned is not None
        return self.planned


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(Answer(0.01), {2: 100}), (Answer(0.031), {1: 100}), (DOWN, {1: 90, 2: 10}), (Answer(), {1: 90, 2: 10})],
)
def test_answers_reach_the_decision(answer: Answer, expected: dict[int, int]) -> None:
    walk = Walk()
    walk.steps(5, 1, answer)
    assert walk.asked == set(), "the first version has nothing to be held against"
    planned = walk.steps(20, 2, answer, seconds=60)
    assert {version: weight for version, weight in weights(planned).items() if weight} == expected
    assert walk.asked
    if expected == {1: 90, 2: 10}:
        status, reason, message = condition(planned, ConditionType.PROGRESSING)
        assert (status, reason) == ("True", "Inconclusive")
        assert "query error-budget: " in message
