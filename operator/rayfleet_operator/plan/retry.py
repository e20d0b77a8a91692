"""When a version that could not start is given to Serve afresh."""

from __future__ import annotations

from datetime import timedelta

from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.live import DEPLOY_FAILED

RETRY_FAILED_AFTER = timedelta(minutes=5)
"""Serve gives up on a version after three failed starts. The cause may have passed since (a store that was down), so
the version is taken out and given to Serve afresh after this long."""


def due(facts: ModelFacts, app: str) -> bool:
    """Serve may call an application failed whose older replicas still answer; those are left alone. A router that does
    not answer may reach one, unless Serve has none; where no router answers, nothing is dropped."""
    if due_in(facts, app) != 0 or not facts.routers.routers or facts.routers.reaching(app):
        return False
    return facts.routers.complete or not facts.live[app].observed.replicas_running


def due_in(facts: ModelFacts, app: str) -> float | None:
    """Seconds until a failed version is given to Serve afresh; None where it did not fail."""
    found = facts.live.get(app)
    if found is None or found.status != DEPLOY_FAILED or found.observed.failed_since is None:
        return None
    return max(0.0, (found.observed.failed_since + RETRY_FAILED_AFTER - facts.now).total_seconds())


def sooner(*seconds: float | None) -> float | None:
    """The first of some moments, None for those that never come."""
    return min((each for each in seconds if each is not None), default=None)
