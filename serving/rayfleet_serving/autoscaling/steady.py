"""What the policies have in common: whatever goes wrong, the number stays as it is, for a policy that raises keeps
Serve from looking after every other application.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

logger = logging.getLogger(__name__)

STALE_S = 10.0
"""A number so much older than the newest one is of a process that hangs."""

Told = Mapping[str, Mapping[Any, Sequence[Any]]]
"""Samples with `timestamp` and `value`, oldest first, by metric and by who told it."""


class SteadyPolicy(ABC):
    """A `policy_function` of Serve's; made without arguments, which could not change without a restart."""

    what: ClassVar[str]
    """Plural of what is counted."""
    fewest: ClassVar[int]
    """The number where not even the one that Serve works towards is known."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """From an `AutoscalingContext` to the number that should be, and no state. Never raises."""
        target = self.fewest
        try:
            target = int(ctx.target_num_replicas)
            return self.decide(ctx.raw_metrics, target), {}
        except Exception as error:
            if not self._told:
                self._told = True
                logger.warning("The number of %s stays at %d: %s: %s", self.what, target, type(error).__name__, error)
            return target, {}

    @abstractmethod
    def decide(self, told: Told, target: int) -> int:
        """The number that should be, from what was told and from the number that Serve works towards."""


def fresh(told: Mapping[Any, Sequence[Any]]) -> list[float]:
    """The newest number of each who told one, where it is a number, not negative, and not of a process that hangs."""
    newest = [samples[-1] for samples in told.values() if samples]
    since = max((float(each.timestamp) for each in newest), default=0.0) - STALE_S
    values = [float(each.value) for each in newest if float(each.timestamp) >= since]
    return [value for value in values if math.isfinite(value) and value >= 0]
