"""How requests move from the stable version to the candidate: one function from facts to weights for each strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class VersionFacts:
    app: str
    weight: int
    """Percent of the model's requests in the table last given to the routers."""


@dataclass(frozen=True, kw_only=True)
class RolloutFacts:
    stable: VersionFacts
    """The version that has the requests now."""
    candidate: VersionFacts
    """The version that should have them."""
    reachable: bool
    """Requests can move to the candidate: `ModelFacts.reachable`."""
    now: datetime


def immediate(facts: RolloutFacts) -> Mapping[str, int]:
    """The weight of each of the two applications, together 100. Everything moves at once, as soon as the candidate can
    be reached; until then nothing does.

    The stable version's own health has no say but in that: a candidate that can be reached is never worse, and with one
    that can not there is nothing better than the stable version.
    """
    share = 100 if facts.reachable else 0
    return {facts.candidate.app: share, facts.stable.app: 100 - share}
