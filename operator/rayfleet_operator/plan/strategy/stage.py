"""One stage of a rollout."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """What a candidate has, and for how long."""

    weight: int
    """Percent of the model's requests."""
    hold: float | None
    """Seconds from the moment when every router holds the weight; None: until somebody says to go on."""
