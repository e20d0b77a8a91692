"""How requests move from the stable version to the candidate: one function from facts to weights for each strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class VersionFacts:
    app: str
    weight: int
    """Percent of the model's requests in the table last given to the routers."""
    reachable: bool
    """Serve calls it RUNNING and every router that there should be can send to it."""


@dataclass(frozen=True, kw_only=True)
class RolloutFacts:
    stable: VersionFacts
    """The version that has the requests now."""
    candidate: VersionFacts
    """The version that should have them."""
    now: datetime


Strategy = Callable[[RolloutFacts], Mapping[str, int]]
"""Gives each of the two applications its weight. Weights sum to 100."""


def immediate(facts: RolloutFacts) -> Mapping[str, int]:
    """Everything moves at once, as soon as the candidate can be reached; until then nothing does.

    The stable version's own health has no say: a candidate that can be reached is never worse, and with one that can
    not there is nothing better than the stable version.
    """
    share = 100 if facts.candidate.reachable else 0
    return {facts.candidate.app: share, facts.stable.app: 100 - share}
