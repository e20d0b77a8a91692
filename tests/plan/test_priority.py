"""A priority goes to the routers with the traffic table, changes in place, and is about nothing else."""

from __future__ import annotations

from typing import Any

from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_serving.config import ModelRoute, Target

from .play import CANARY, Play
from .scenes import DOWN, applications, identity, model, observe, plan_one, table_of

LATENCY = {"autoscaling": {"maxReplicas": 2, "latency": {"percentile": 95, "target": "200ms"}}}


def row(spec: dict[str, Any]) -> ModelRoute:
    return table_of(plan_one(observe({}), identity(1), of=model(**spec)).config).models["digits"]


def test_it_is_in_the_table_with_what_is_promised() -> None:
    found = row({"priority": -7, **LATENCY})
    assert (found.priority, found.target) == (-7, Target(percentile=95, seconds=0.2))


def test_where_nobody_asks_for_it_the_table_is_as_it_was() -> None:
    """A router of an older image knows no such fields."""
    found = row({"autoscaling": {"maxReplicas": 2}, "priority": 0}).model_dump(mode="json")
    assert not {"priority", "target"} & found.keys()
    assert "priority" not in model(priority=0).model_dump(mode="json", exclude_defaults=True)["spec"]


def test_a_change_is_a_row_of_the_table_and_nothing_else() -> None:
    before, play = Play(), Play()
    for each in (before, play):
        each.settle()
    play.edit(priority=500)
    changed = play.look()
    of_models = [
        {name: entry for name, entry in applications(planned).items() if name != "router"}
        for planned in (changed, before.look())
    ]
    assert of_models[0] == of_models[1]
    rows = [table_of(planned.config).models["digits"] for planned in (changed, before.look())]
    assert rows[0] == rows[1].model_copy(update={"priority": 500})
    assert rows[0].digest() != rows[1].digest(), "it is seen whether routers hold it"


def in_table(play: Play) -> ModelRoute:
    return table_of(play.look().config).models["digits"]


def test_a_rollout_counts_on() -> None:
    play = Play(rollout=CANARY)
    play.settle()
    play.mean(2)
    while not (before := in_table(play)).window:
        play.advance()
    play.edit(rollout=CANARY, priority=3)
    after = in_table(play)
    assert (after.window, after.priority) == (before.window, 3)
    assert after.rollout == before.rollout


def test_it_changes_while_the_registry_is_down_and_stays_while_the_spec_cannot_be_read() -> None:
    play = Play(priority=5)
    play.settle()
    play.resolutions["digits"] = DOWN
    play.edit(priority=6)
    assert in_table(play).priority == 6
    play.resolutions["digits"] = ResolutionProblem("InvalidSpec", "it is of another time", held=True)
    play.edit()
    assert in_table(play).priority == 6
