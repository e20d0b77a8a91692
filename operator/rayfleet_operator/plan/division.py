"""How one model's requests are divided among its versions now: from the facts to weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import bounds, measured, rollout
from rayfleet_operator.plan.analysis import Count
from rayfleet_operator.plan.conditions import Reason
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.live import RUNNING
from rayfleet_operator.plan.rollout import (
    ABORT_ANNOTATION,
    PROMOTE_ANNOTATION,
    RETRY_ANNOTATION,
    Command,
    RolloutDecision,
    RolloutFacts,
)
from rayfleet_operator.plan.versions import UNKNOWN
from rayfleet_serving.config import RolloutMark

STARTING = ("NOT_STARTED", "DEPLOYING", UNKNOWN)
"""What Serve, or nobody, says of an application that may be about to run."""


@dataclass(frozen=True)
class Division:
    weights: Mapping[str, int]
    """Percent by application: of the wanted version and, where there is another, of the one that it takes over from;
    together 100. What is in here goes on running."""
    holder: str | None
    """The application that has the requests, or has them back if the wanted version is given up."""
    mark: RolloutMark | None = None
    """Where a rollout by stages stands; None where there is none."""
    decision: RolloutDecision | None = None
    """Of that rollout; None where it is another version's."""


def divide(facts: ModelFacts, model: ModelDeployment, target: str) -> Division:
    """`target` is the wanted version's application."""
    mark = facts.mark()
    holder = _holder(facts, target, mark)
    if holder is None or holder == target:
        return Division({target: 100}, holder)
    if mark is not None and target == mark.stable:
        # Back to where it came from. Until that is done, it is no rollout of its own.
        weights = _moved(target, holder, facts.reachable(target, holder))
        return Division(weights, holder, mark if weights[target] < 100 else None)
    if model.spec.rollout.strategy == "Immediate":
        ready = facts.reachable(target, holder) and _grown(facts, model, target, holder, None)
        return Division(_moved(target, holder, ready), holder)
    own = mark if mark is not None and mark.candidate == target else None
    return _by_stages(facts, model, holder, target, own, wanted=True)


def without(facts: ModelFacts, target: str) -> Division:
    """The same where there is no room for the wanted version: whoever has the requests has all of them, and everything
    else goes, which may make room. So does one that has them and never answered, where nothing else does."""
    kept = _holder(facts, target, facts.mark())
    if kept is None or kept == target or facts.spent(kept):
        others = [app for app in facts.live if app != target and not facts.spent(app)]
        alive = [app for app in others if facts.weight(app) or facts.live[app].status == RUNNING]
        kept = max(alive, key=lambda app: (facts.weight(app), app), default=None)
    return Division({kept: 100} if kept is not None else {}, kept)


def stay(facts: ModelFacts, model: ModelDeployment, *, readable: bool) -> Division | None:
    """The same of a rollout by stages while nobody knows which version is wanted: it goes no further, but a candidate
    that fails, or is aborted, is given up all the same. None where there is no such rollout.

    `readable`: whether the spec is. What it says of a candidate's failure is not known otherwise, and all stays.
    """
    mark = facts.mark() if facts.written is not None else None
    if mark is None or mark.stable not in facts.live or not (mark.ended or mark.candidate in facts.live):
        return None
    if not readable:
        share = facts.share(mark.candidate)
        weights = {mark.stable: 100 - share} | ({mark.candidate: share} if mark.candidate in facts.live else {})
        text = mark.why or "the spec cannot be read, so it stays as it is"
        decision = RolloutDecision(mark=mark, weight=share, reason=Reason.RESOLVING, message=text)
        return Division(weights, mark.stable, mark, decision)
    return _by_stages(facts, model, mark.stable, mark.candidate, mark, wanted=False)


def _by_stages(
    facts: ModelFacts, model: ModelDeployment, holder: str, target: str, mark: RolloutMark | None, *, wanted: bool
) -> Division:
    """From the application that has the requests to another one."""
    decision = rollout.decide(
        model.spec.rollout,
        RolloutFacts(
            stable=holder,
            candidate=target,
            wanted=wanted,
            mark=mark,
            weight=facts.share(target),
            reachable=facts.reachable(target, holder),
            grown=_grown(facts, model, target, holder, mark),
            lost=_lost(facts, target, holder),
            hopeless=_hopeless(facts, holder),
            held=facts.held(),
            frozen=facts.frozen,
            counted={app: Count.of(facts.routers.counts(app, facts.window)) for app in (target, holder)},
            measured=measured.answers(model, mark, facts.measured),
            command=_command(model),
            now=facts.now,
        ),
    )
    weights = {target: decision.weight, holder: 100 - decision.weight}
    if not decision.keeps_candidate:
        del weights[target]
    return Division(weights, holder, decision.mark, decision)


def _grown(facts: ModelFacts, model: ModelDeployment, target: str, holder: str, mark: RolloutMark | None) -> bool:
    """Whether the wanted version has the replicas for the requests that it is to have next."""
    sizes = bounds.of_two(facts, model.spec, target, holder, mark)
    return facts.grown(target, holder, sizes[target].least)


def _moved(target: str, holder: str, reachable: bool) -> dict[str, int]:
    """Everything moves at once, as soon as the wanted version can be reached; until then nothing does.

    The other version's own health has no say but in that: one that can be reached is never worse, and with one that can
    not there is nothing better than what there was.
    """
    share = 100 if reachable else 0
    return {target: share, holder: 100 - share}


def _holder(facts: ModelFacts, target: str, mark: RolloutMark | None) -> str | None:
    """Who has the requests, whatever share a candidate has of them for the time being."""
    if mark is None:
        return facts.holder(target)
    if target == mark.stable:
        # Back to where it came from: at once, where it still has requests.
        return target if facts.share(target) > 0 else facts.holder(target)
    took_over = mark.candidate != target and facts.share(mark.candidate) == 100
    holder = mark.candidate if took_over else mark.stable
    return holder if holder in facts.live else facts.holder(target)


def _lost(facts: ModelFacts, candidate: str, stable: str) -> bool:
    """Where neither is reached, it is the routers that are to be looked at; and what still starts, as on a Ray cluster
    that has just taken over, was not lost."""
    found = facts.live.get(candidate)
    starts = found is not None and (found.status in STARTING or bool(found.observed.replicas_running))
    routers = facts.routers
    return routers.complete and not routers.reaching(candidate) and not starts and routers.reaching(stable) > 0


def _hopeless(facts: ModelFacts, stable: str) -> bool:
    found = facts.live.get(stable)
    return (found is None or found.status != RUNNING) and not facts.routers.reaching(stable)


def _command(model: ModelDeployment) -> Command:
    given = model.metadata.annotations
    return Command(
        promote=given.get(PROMOTE_ANNOTATION, ""),
        abort=given.get(ABORT_ANNOTATION, ""),
        retry=given.get(RETRY_ANNOTATION, ""),
    )
