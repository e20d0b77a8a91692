"""No request, then every one."""

from __future__ import annotations

from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.plan.strategy.stage import Stage


def blue_green(rollout: Rollout) -> tuple[Stage, ...]:
    """At full size without requests for the preview, then every request while the version before stands by."""
    return Stage(0, rollout.preview_hold_seconds), Stage(100, rollout.scale_down_delay_seconds)
