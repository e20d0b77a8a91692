"""More and more requests, step by step."""

from __future__ import annotations

from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.plan.strategy.stage import Stage


def canary(rollout: Rollout) -> tuple[Stage, ...]:
    """The steps by their weight, then every request while the version before stands by."""
    steps = sorted(rollout.steps, key=lambda step: step.weight)
    return (*(Stage(step.weight, step.hold_seconds) for step in steps), Stage(100, rollout.scale_down_delay_seconds))
