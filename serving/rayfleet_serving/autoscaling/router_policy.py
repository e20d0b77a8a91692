"""What Serve's controller asks how many routers there should be: by what each tells of itself, added up."""

from __future__ import annotations

import math

from rayfleet_serving.autoscaling import stats
from rayfleet_serving.autoscaling.steady import SteadyPolicy, Told, fresh

FULL = 0.6
"""How much of the time a router's event loop may work. Above it, requests of all models wait for each other there."""
MOST_REQUESTS = 2000.0
"""Requests of one router that wait or are under way: what they hold is in its memory."""
MOST = 1e6
"""No sum of either."""


class RouterPolicy(SteadyPolicy):
    """Of the router app."""

    what = "routers"
    fewest = 2

    def decide(self, told: Told, target: int) -> int:
        """So many that none would work more than `FULL` of the time, or hold more than `MOST_REQUESTS`."""
        busy, ongoing = fresh(told.get(stats.BUSY, {})), fresh(told.get(stats.ONGOING, {}))
        if not busy or not ongoing:
            return target
        return max(1, _routers(busy, FULL), _routers(ongoing, MOST_REQUESTS))


def _routers(told: list[float], most: float) -> int:
    """So many that none has more than `most` of what all have together. A hair above a whole number is none further."""
    return math.ceil(round(min(sum(told), MOST) / most, 6))
