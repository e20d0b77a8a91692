"""What a model's status says of its rollout, and what became of the versions that were to have the requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from rayfleet_operator.api.status import (
    CheckStatus,
    ModelDeploymentStatus,
    ResolvedModel,
    RolloutStatus,
    VersionOutcome,
)
from rayfleet_operator.api.timestamp import stamp
from rayfleet_operator.plan.analysis import Verdict
from rayfleet_operator.plan.model import ModelPlan
from rayfleet_operator.plan.rollback import HAD_ALL
from rayfleet_serving.config import RolloutMark

KEPT = 10
GONE_BACK_TO = 4
"""Of these, versions that had every request: the one that is gone back from and some before it."""
MAX_MESSAGE = 1024
MAX_ROLLOUT_MESSAGE = 4096
MAX_CHECKS = 16
MAX_CHECK_MESSAGE = 512
TOLD_EVERY = timedelta(seconds=10)
"""How often numbers are told anew while no outcome changes. They are other ones with each request, and rounding them
would make them useless for whoever watches; each telling is one write to the API server, and a node renews its lease
as often."""

Outcome = Literal["Succeeded", "WentBack", "RolledBack", "Superseded"]


def rollout_status(planned: ModelPlan, before: RolloutStatus | None, now: datetime) -> RolloutStatus | None:
    """None where no rollout by stages is under way or was given up.

    Args:
        before: as it was written last.
        now: when what `planned` rests on was counted.
    """
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
        rules=mark.rules,
        **_analysed(mark, decision.verdict, before, now),
    )


def _analysed(
    mark: RolloutMark, verdict: Verdict | None, before: RolloutStatus | None, now: datetime
) -> dict[str, Any]:
    """`analysis`, `checks` and `counted` of a status; `before` is not told anew unless it is old or an outcome is
    another one."""
    if before is not None and (before.candidate, before.began, before.stage) != (
        mark.candidate,
        mark.began,
        mark.stage,
    ):
        before = None
    kept = {"analysis": before.analysis, "checks": before.checks, "counted": before.counted} if before else {}
    if verdict is None:
        # Nothing is counted of a candidate that was given up: what decided stays told.
        return kept if mark.ended else {}
    checks = [
        CheckStatus(name=each.name, outcome=each.outcome.value, message=each.told[:MAX_CHECK_MESSAGE])
        for each in verdict.checks[:MAX_CHECKS]
    ]
    if before is not None and _outcomes(before.checks) == _outcomes(checks):
        # All stamps have one form, in which the later one is the greater.
        recent = stamp(now - TOLD_EVERY) < before.counted <= stamp(now)
        if recent or before.checks == checks:
            return kept
    return {"analysis": str(verdict.outcome), "checks": checks, "counted": stamp(now)}


def _outcomes(checks: Sequence[CheckStatus]) -> list[tuple[str, str]]:
    return [(each.name, each.outcome) for each in checks]


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
    holder = planned.holder
    # One logged model may be registered as several versions.
    if holder is None or (last is not None and (last.version, last.model_id) == (holder.version, holder.model_id)):
        return None
    return _outcome(before, planned, holder.app, "WentBack" if holder.model_id == back_to else "Succeeded", "")


def _whereabouts(model_id: str, before: ModelDeploymentStatus, resolved: ResolvedModel | None) -> dict[str, str]:
    """Where the version's bytes are, which is needed to go back to it, and which URI meant it."""
    known: list[ResolvedModel | VersionOutcome] = [each for each in (resolved, before.resolved) if each is not None]
    known += before.history
    found = next((each for each in known if each.model_id == model_id and each.artifact_uri), None)
    if found is None:
        return {}
    return {"artifact_uri": found.artifact_uri, "digest": found.digest, "uri": found.uri}


def _ended(before: ModelDeploymentStatus, after: RolloutStatus | None, planned: ModelPlan) -> VersionOutcome | None:
    was = before.rollout
    same = was is not None and after is not None and (was.candidate, was.began) == (after.candidate, after.began)
    if after is not None and after.ended and not (same and was is not None and was.ended):
        return _outcome(before, planned, after.candidate, "RolledBack", f"{after.ended}: {after.message}")
    if was is None or was.ended or same:
        return None
    if planned.holder is not None and planned.holder.app == was.candidate:
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
