"""Long walks through a rollout by stages, whatever is seen and edited under way."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.plan import strategy
from rayfleet_operator.plan.rollout import Command

from .rollouts import BAD, BLUE_GREEN, CANARY, GOOD, MANUAL, NONE, Model, rollout
from .test_analysis import counted

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
            reachable = model.facts.get("reachable", True)
            assert stages[model.mark.stage].weight <= model.weight or not reachable
            assert reachable or model.weight == weight, "nothing moves to what cannot be reached"


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
