"""What Serve's controller asks how many replicas an application should have, ten times a second.

All thresholds are the replicas' to know (`model.scaling`), for they change without a restart; this only takes the
largest number that they tell. Serve does the delays and the bounds. Whatever goes wrong, the number stays as it is: a
policy that raises keeps Serve from looking after every other application.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rayfleet_serving.autoscaling import stats
from rayfleet_serving.autoscaling.need import held

logger = logging.getLogger(__name__)

STALE_S = 10.0
"""A number so much older than the newest one is of a replica that hangs."""
MOST = 100_000
"""No number of replicas."""


class Policy:
    """Serve's `policy_function`; made without arguments, which could not change without a restart."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """From an `AutoscalingContext` to the number that should be, and no state. Never raises."""
        target = 1
        try:
            target = int(ctx.target_num_replicas)
            return decide(ctx.raw_metrics, target), {}
        except Exception as error:
            if not self._told:
                self._told = True
                logger.warning("The number of replicas stays at %d: %s: %s", target, type(error).__name__, error)
            return target, {}


def decide(metrics: Mapping[str, Mapping[Any, Sequence[Any]]], target: int) -> int:
    """The largest number that the replicas tell, as far from `target` as one step goes, and not below it while one of
    them has more than it can do: it knows only those that there are.

    Args:
        metrics: samples with `timestamp` and `value`, by name and replica.
    """
    newest = {
        name: [samples[-1] for samples in metrics.get(name, {}).values() if samples]
        for name in (stats.WANTED, stats.STAYS, stats.STEP_UP, stats.STEP_DOWN)
    }
    wanted = _number(newest[stats.WANTED])
    if wanted is None:
        return target
    wanted = held(wanted, target, stays=bool(_number(newest[stats.STAYS])))
    up, down = _number(newest[stats.STEP_UP]), _number(newest[stats.STEP_DOWN])
    if up and wanted > target:
        wanted = min(wanted, target + up)
    if down and wanted < target:
        wanted = max(wanted, target - down)
    # The last one goes alone.
    return max(1, wanted) if target > 1 else wanted


def _number(samples: Sequence[Any]) -> int | None:
    """The largest whole number of the fresh samples; None where there is none that makes sense."""
    fresh = max((float(each.timestamp) for each in samples), default=0.0) - STALE_S
    values = [float(each.value) for each in samples if float(each.timestamp) >= fresh]
    good = [value for value in values if math.isfinite(value) and 0 <= value <= MOST]
    return math.ceil(max(good)) if good else None
