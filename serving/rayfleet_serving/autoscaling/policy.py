"""What Serve's controller asks how many replicas an application should have, ten times a second.

All thresholds are the replicas' to know (`model.scaling`), for they change without a restart; this only takes the
largest number that they tell. Serve does the delays and the bounds.
"""

from __future__ import annotations

import math

from rayfleet_serving.autoscaling import stats
from rayfleet_serving.autoscaling.need import held
from rayfleet_serving.autoscaling.steady import SteadyPolicy, Told, fresh

MOST = 100_000
"""No number of replicas."""


class Policy(SteadyPolicy):
    """Of a model's replicas."""

    what = "replicas"
    fewest = 1

    def decide(self, told: Told, target: int) -> int:
        """The largest number that the replicas tell, as far from `target` as one step goes, and not below it while one
        of them has more than it can do: it knows only those that there are.
        """
        wanted = _largest(told, stats.WANTED)
        if wanted is None:
            return target
        wanted = held(wanted, target, stays=bool(_largest(told, stats.STAYS)))
        up, down = _largest(told, stats.STEP_UP), _largest(told, stats.STEP_DOWN)
        if up and wanted > target:
            wanted = min(wanted, target + up)
        if down and wanted < target:
            wanted = max(wanted, target - down)
        # The last one goes alone.
        return max(1, wanted) if target > 1 else wanted


def _largest(told: Told, name: str) -> int | None:
    """The largest whole number that is told; None where there is none that makes sense."""
    good = [value for value in fresh(told.get(name, {})) if value <= MOST]
    return math.ceil(max(good)) if good else None
