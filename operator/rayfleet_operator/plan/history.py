"""What a model's status says of its rollout, and what became of the versions that were to have the requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from rayfleet_operator.api.status import ModelDeploymentStatus, ResolvedModel, RolloutStatus, VersionOutcome
from rayfleet_operator.api.timestamp import stamp
from rayfleet_operator.plan.model import ModelPlan
from rayfleet_operator.plan.rollback import HAD_ALL

KEPT = 10
GONE_BACK_TO = 4
"""Of these, versions that had every request: the one that is gone back from and some before it."""
MAX_MESSAGE = 1024
MAX_ROLLOUT_MESSAGE = 4096

Outcome = Literal["Succeeded", "WentBack", "RolledBack", "Superseded"]


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
    before: ModelDeploymentStatus,
    after: RolloutStatus | None,
    resolved: ResolvedModel | None,
    planned: ModelPlan,
    now: datetime,
    back_to: str | None = None,
) -> list[VersionOutcome]:
    """The history with what has just come to an end, the newest first.

    It follows from two statuses that follow each other, so nothing is told twice, and what a status did not get to say
    is not made up.

    Args:
        before: as it was written last.
        after: the rollout as it is now.
        resolved: what the URI means.
        back_to: model id of the version that somebody went back to.
    """
    kept = list(before.history)
    ended = _ended(before, after, planned) or _took_over(before, after, planned, back_to)
    if ended is not None:
        if ended.outcome in HAD_ALL:
            ended = ended.model_copy(update=_whereabouts(ended.model_id, before, resolved))
        kept.insert(0, ended.model_copy(update={"ended": stamp(now)}))
    return _shortened(kept)


def _shortened(kept: list[VersionOutcome]) -> list[VersionOutcome]:
    """The newest, but never without versions to go back to, however many were given up since."""
    while len(kept) > KEPT:
        spared = [each for each in kept if each.outcome in HAD_ALL][:GONE_BACK_TO]
        kept.remove(next(each for each in reversed(kept) if not any(each is one for one in spared)))
    return kept


def _took_over(
    before: ModelDeploymentStatus, after: RolloutStatus | None, planned: ModelPlan, back_to: str | None
) -> VersionOutcome | None:
    """A version that has got every request without stages: the first one, one that took over at once, or one that
    somebody went back to."""
    if before.rollout is not None or after is not None or not planned.serving:
        return None
    last = next((each for each in before.history if each.outcome in HAD_ALL), None)
    holder = next((version for version in planned.versions if version.weight == 100), None)
    if holder is None or (last is not None and last.model_id == holder.model_id):
        return None
    return _outcome(before, planned, holder.app, "WentBack" if holder.model_id == back_to else "Succeeded", "")


def _whereabouts(model_id: str, before: ModelDeploymentStatus, resolved: ResolvedModel | None) -> dict[str, str]:
    """Where the version's bytes are: what is needed to go back to it."""
    known: list[ResolvedModel | VersionOutcome] = [each for each in (resolved, before.resolved) if each is not None]
    known += before.history
    found = next((each for each in known if each.model_id == model_id and each.artifact_uri), None)
    return {"artifact_uri": found.artifact_uri, "digest": found.digest} if found is not None else {}


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
