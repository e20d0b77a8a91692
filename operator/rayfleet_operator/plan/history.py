"""What a model's status says of its rollout, and what becomes of the versions that were to take over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from rayfleet_operator.api.status import ModelDeploymentStatus, RolloutStatus, VersionOutcome
from rayfleet_operator.api.timestamp import stamp
from rayfleet_operator.plan.model import ModelPlan

KEPT = 10
MAX_MESSAGE = 1024
MAX_ROLLOUT_MESSAGE = 4096

Outcome = Literal["Succeeded", "RolledBack", "Superseded"]


def rollout_status(planned: ModelPlan) -> RolloutStatus | None:
    """None where no rollout by stages is under way or was given up."""
    decision = planned.rollout
    if decision is None or decision.mark is None:
        return None
    mark = decision.mark
    return RolloutStatus(
        stable=mark.stable,
        candidate=mark.candidate,
        began=mark.began,
        stage=mark.stage,
        weight=decision.weight,
        since=mark.since,
        ended=mark.ended,
        message=(mark.why if mark.ended else decision.message)[:MAX_ROLLOUT_MESSAGE],
        analysis=str(decision.verdict.outcome) if decision.verdict is not None else "",
        rules=mark.rules,
    )


def history(
    before: ModelDeploymentStatus, after: RolloutStatus | None, planned: ModelPlan, now: datetime
) -> list[VersionOutcome]:
    """The history with what has just come to an end, the newest first.

    It follows from two statuses that follow each other, so nothing is told twice, and what a status did not get to say
    is not made up.
    """
    kept = list(before.history)
    ended = _ended(before, after, planned)
    if ended is not None:
        kept.insert(0, ended.model_copy(update={"ended": stamp(now)}))
    return kept[:KEPT]


def _ended(before: ModelDeploymentStatus, after: RolloutStatus | None, planned: ModelPlan) -> VersionOutcome | None:
    was = before.rollout
    same = was is not None and after is not None and (was.candidate, was.began) == (after.candidate, after.began)
    if after is not None and after.ended and not (same and was is not None and was.ended):
        return _outcome(before, planned, after.candidate, "RolledBack", f"{after.ended}: {after.message}")
    if was is None or was.ended or same:
        return None
    has_all = any(version.app == was.candidate and version.weight == 100 for version in planned.versions)
    if has_all:
        return _outcome(before, planned, was.candidate, "Succeeded", "")
    return _outcome(before, planned, was.candidate, "Superseded", "another version was wanted")


def _outcome(
    before: ModelDeploymentStatus, planned: ModelPlan, app: str, outcome: Outcome, message: str
) -> VersionOutcome | None:
    """None for an application of which nobody knows the version any more."""
    named: Sequence[tuple[str, str, str]] = [
        *((each.app, each.version, each.model_id) for each in planned.versions),
        *((each.app, each.name, each.model_id) for each in before.versions),
    ]
    found = next(((version, model_id) for known, version, model_id in named if known == app), None)
    if found is None:
        return None
    return VersionOutcome(
        version=found[0][:64], model_id=found[1][:128], outcome=outcome, ended="", message=message[:MAX_MESSAGE]
    )
