"""How requests move from one version to the next: each strategy is the list of stages that a candidate goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.plan.strategy.blue_green import blue_green
from rayfleet_operator.plan.strategy.canary import canary
from rayfleet_operator.plan.strategy.stage import Stage

__all__ = ["Stage", "following", "stages"]

_BY_NAME: Mapping[str, Callable[[Rollout], tuple[Stage, ...]]] = {"Canary": canary, "BlueGreen": blue_green}


def stages(rollout: Rollout) -> tuple[Stage, ...]:
    """The stages in order, the last one with weight 100; none for Immediate, where there is nothing to wait for."""
    found = _BY_NAME.get(rollout.strategy)
    return found(rollout) if found is not None else ()


def following(rollout: Rollout, stage: int) -> int:
    """Percent of the requests that a candidate is to have after this stage; -1 before the first. With BlueGreen it is
    at full size from the beginning."""
    every = stages(rollout)
    if rollout.strategy != "Canary" or not every:
        return 100
    return every[min(max(stage + 1, 0), len(every) - 1)].weight
