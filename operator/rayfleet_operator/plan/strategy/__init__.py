"""How requests move from one version to the next: each strategy is the list of stages that a candidate goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.plan.strategy.blue_green import blue_green
from rayfleet_operator.plan.strategy.canary import canary
from rayfleet_operator.plan.strategy.stage import Stage

__all__ = ["Stage", "stages"]

_BY_NAME: Mapping[str, Callable[[Rollout], tuple[Stage, ...]]] = {"Canary": canary, "BlueGreen": blue_green}


def stages(rollout: Rollout) -> tuple[Stage, ...]:
    """The stages in order, the last one with weight 100; none for Immediate, where there is nothing to wait for."""
    found = _BY_NAME.get(rollout.strategy)
    return found(rollout) if found is not None else ()
