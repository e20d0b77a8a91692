"""What Serve's controller asks how many routers there should be: by what each tells of itself, added up.

Like `policy`, it never raises: whatever goes wrong, the number stays as it is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rayfleet_serving.autoscaling import stats

logger = logging.getLogger(__name__)

FULL = 0.6
"""How much of the time a router's event loop may work. Above it, requests of all models wait for each other there."""
MOST_REQUESTS = 2000.0
"""Requests of one router that wait or are under way: what they hold is in its memory."""
STALE_S = 10.0
"""A number so much older than the newest one is of a router that hangs."""


class RouterPolicy:
    """Serve's `policy_function` of the router app."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """From an `AutoscalingContext` to the number that should be, and no state. Never raises."""
        target = 2
        try:
            target = int(ctx.target_num_replicas)
            return decide(ctx.raw_metrics, target), {}
        except Exception as error:
            if not self._told:
                self._told = True
                logger.warning("The number of routers stays at %d: %s: %s", target, type(error).__name__, error)
            return target, {}


def decide(metrics: Mapping[str, Mapping[Any, Sequence[Any]]], target: int) -> int:
    """So many that none would work more than `FULL` of the time, or hold more than `MOST_REQUESTS`."""
    busy = _sum(metrics.get(stats.BUSY, {}))
    ongoing = _sum(metrics.get(stats.ONGOING, {}))
    if busy is None or ongoing is None:
        return target
    # A hair above a whole number is no further router.
    return max(1, math.ceil(round(busy / FULL, 6)), math.ceil(round(ongoing / MOST_REQUESTS, 6)))


def _sum(told: Mapping[Any, Sequence[Any]]) -> float | None:
    """Over all routers, of those numbers that make sense; None where there is none."""
    newest = [samples[-1] for samples in told.values() if samples]
    fresh = max((float(each.timestamp) for each in newest), default=0.0) - STALE_S
    values = [float(each.value) for each in newest if float(each.timestamp) >= fresh]
    good = [value for value in values if math.isfinite(value) and value >= 0]
    return min(sum(good), 1e6) if good else None
