"""Where a rollout stands, and where it goes next: one function from facts to weights.

A strategy is a list of stages (`plan.strategy`). The candidate goes through them one by one: a stage is over when its
time has passed *and* what must hold of the candidate does. Where it stands is kept in the model's row of the traffic
table (`RolloutMark`), beside the weights, so both change together or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.api.timestamp import moment, stamp
from rayfleet_operator.plan import analysis, strategy
from rayfleet_operator.plan.analysis import Count, Outcome, Verdict
from rayfleet_operator.plan.conditions import Reason
from rayfleet_operator.plan.measured import Answer
from rayfleet_operator.plan.strategy import Stage
from rayfleet_serving.config import RolloutMark

PROMOTE_ANNOTATION = "rayfleet.io/promote"
ABORT_ANNOTATION = "rayfleet.io/abort"
RETRY_ANNOTATION = "rayfleet.io/retry"


LOOK_S = 5.0
"""Between looks at a stable version that does not run."""
LOST = timedelta(seconds=15)
"""How long nothing of a candidate may answer before it is lost: Serve starts a replica that died again in seconds."""
HOPELESS = timedelta(minutes=5)
"""How long a stable version may not run before one that was given up is tried again: it is all there is."""
UNREACHED = "not every router reaches the candidate, or it is not running"
FROZEN = "another Ray cluster is to take over first"


@dataclass(frozen=True)
class Command:
    """What somebody asked for, by annotations. Each names what it is about, so that none is carried out twice: the same
    version may be a candidate again, and that is another attempt."""

    promote: str = ""
    """`promotion` of an attempt: go past one stage, or past every one."""
    abort: str = ""
    """An `attempt` to give up."""
    retry: str = ""
    """Any text: another one has a candidate that was given up tried again."""


@dataclass(frozen=True, kw_only=True)
class RolloutFacts:
    stable: str
    """Application of the version that requests go back to."""
    candidate: str
    """Application of the version that should have them."""
    wanted: bool = True
    """Whether the candidate is known to be the version that is wanted."""
    mark: RolloutMark | None
    """Where the rollout of this candidate stands; None before it begins."""
    weight: int
    """The candidate's, in percent, in the table written last."""
    reachable: bool
    """Requests can move to the candidate: `ModelFacts.reachable`."""
    grown: bool
    """And it has all its replicas: `ModelFacts.grown`."""
    lost: bool
    """Every router that there should be answers, none reaches the candidate, and it does not start either."""
    hopeless: bool
    """The stable version does not run, and no router reaches it: there is nothing to protect."""
    held: bool
    """Every router that there should be holds the row written last."""
    frozen: bool
    """Another Ray cluster is to take over first."""
    counted: Mapping[str, Count]
    """What routers counted in the window of the row written last, by application."""
    measured: Mapping[str, Answer] = field(default_factory=dict)
    """What was answered to the analysis' queries in this stage, by their names."""
    command: Command
    now: datetime


@dataclass(frozen=True, kw_only=True)
class RolloutDecision:
    mark: RolloutMark | None
    """None once the rollout has come to its end: the candidate is the model's version."""
    weight: int
    """The candidate's, in percent; the stable version has the rest."""
    keeps_candidate: bool = True
    """Whether the candidate goes on running."""
    reason: str
    message: str
    verdict: Verdict | None = None
    """What the analysis says of the stage, where there is one."""
    again_in: float | None = None
    """Seconds after which something is due by the clock alone; None where nothing is."""


def attempt(mark: RolloutMark) -> str:
    """What commands call one attempt to have a candidate take over."""
    return f"{mark.candidate}/{mark.began}"


def promotion(mark: RolloutMark, stage: str) -> str:
    """What says that an attempt goes past a stage, by its number, or past "all"."""
    return f"{attempt(mark)}/{stage}"


def decide(rollout: Rollout, facts: RolloutFacts) -> RolloutDecision:
    """One look at a rollout by stages. Only a `mark` that is written together with the weight makes it take effect."""
    stages = strategy.stages(rollout)
    rules = _rules(rollout, facts.command)
    mark = facts.mark
    if mark is None or (facts.wanted and mark.ended and (mark.rules != rules or _worse(facts, mark))):
        mark = RolloutMark(stable=facts.stable, candidate=facts.candidate, began=stamp(facts.now))
    if mark.ended:
        return _given_up(rollout, facts, mark)
    if facts.command.abort == attempt(mark):
        return _give_up(rollout, facts, mark, rules, "Aborted", "somebody aborted it")
    if not facts.wanted:
        return _stay(rollout, facts, mark, rules)
    if mark.stage < 0:
        return _prepare(rollout, facts, mark, rules, stages)
    return _step(rollout, facts, mark, rules, stages)


def _worse(facts: RolloutFacts, mark: RolloutMark) -> bool:
    """Whether the version that requests went back to has not run for so long that any other is better."""
    return facts.hopeless and bool(mark.lost) and facts.now - moment(mark.lost) >= HOPELESS


def _stay(rollout: Rollout, facts: RolloutFacts, mark: RolloutMark, rules: str) -> RolloutDecision:
    """Nobody knows which version is wanted, so the candidate goes no further; what it is given up for still counts."""
    text = "it goes no further while nobody knows which version is wanted"
    if mark.stage < 0:
        return RolloutDecision(mark=mark, weight=0, reason=Reason.RESOLVING, message=text)
    mark, verdict, given_up = _judged(rollout, facts, mark, rules)
    if given_up is not None:
        return given_up
    text = f"weight {facts.weight}: {text}"
    return RolloutDecision(
        mark=mark, weight=facts.weight, reason=Reason.RESOLVING, message=text, verdict=verdict, again_in=0.0
    )


def _prepare(
    rollout: Rollout, facts: RolloutFacts, mark: RolloutMark, rules: str, stages: tuple[Stage, ...]
) -> RolloutDecision:
    """The candidate has no weight yet."""
    if facts.reachable and facts.hopeless:
        return _enter(mark, stages, len(stages) - 1, "the version before does not run")
    if facts.reachable and facts.grown:
        return _enter(mark, stages, 0, "the candidate is ready")
    if facts.frozen:
        # The candidate does not even start before, so the clock does not either.
        return RolloutDecision(mark=mark, weight=0, reason=Reason.WAITING_FOR_CLUSTER, message=FROZEN)
    if not mark.since:
        mark = mark.model_copy(update={"since": stamp(facts.now)})
    waited = facts.now - moment(mark.since)
    deadline = timedelta(seconds=rollout.progress_deadline_seconds)
    if waited >= deadline:
        text = f"it was not ready within {rollout.progress_deadline}"
        return _give_up(rollout, facts, mark, rules, "ProgressDeadlineExceeded", text)
    return RolloutDecision(mark=mark, weight=0, reason=Reason.DEPLOYING, message="the candidate is not ready yet")


def _step(
    rollout: Rollout, facts: RolloutFacts, mark: RolloutMark, rules: str, stages: tuple[Stage, ...]
) -> RolloutDecision:
    """The candidate is in a stage."""
    at = _position(stages, facts.weight)
    weight = max(stages[at].weight, facts.weight)
    if at != mark.stage or weight != facts.weight:
        # The steps were edited under way: it goes on where its weight belongs, and never with less than it has.
        mark = mark.model_copy(update={"stage": at})
        if facts.reachable or weight == facts.weight:
            mark = mark.model_copy(update={"since": "", "why": ""})
            return RolloutDecision(mark=mark, weight=weight, reason=Reason.SHIFTING, message="the steps were changed")
        weight = facts.weight
    mark, verdict, given_up = _judged(rollout, facts, mark, rules)
    if given_up is not None:
        return given_up
    if not mark.since and facts.held:
        mark = mark.model_copy(update={"since": stamp(facts.now)})
    elif mark.since and facts.held and not facts.frozen and _promoted(facts, mark, stages, at):
        return _advance(mark, stages, at, "somebody promoted it", verdict)

    waits = _waits(rollout, facts, mark, stages[at], weight, verdict)
    if waits is None:
        why = verdict.message if verdict is not None and verdict.outcome == Outcome.PASS else "its time has passed"
        return _advance(mark, stages, at, why, verdict)
    reason, text = waits
    return RolloutDecision(
        mark=mark, weight=weight, reason=reason, message=f"{_where(stages, at, weight)}: {text}", verdict=verdict
    )


def _judged(
    rollout: Rollout, facts: RolloutFacts, mark: RolloutMark, rules: str
) -> tuple[RolloutMark, Verdict | None, RolloutDecision | None]:
    """What is known of a candidate in a stage, and the decision if that gives it up."""
    verdict = _verdict(rollout, facts)
    mark = mark.model_copy(update={"lost": (mark.lost or stamp(facts.now)) if facts.lost else ""})
    fault = _fault(facts, mark, verdict)
    if fault is not None and rollout.on_failure == "Rollback" and not facts.hopeless:
        return mark, verdict, _give_up(rollout, facts, mark, rules, *fault, verdict)
    if fault is not None and not mark.why:
        mark = mark.model_copy(update={"why": fault[1]})
    return mark, verdict, None


def _promoted(facts: RolloutFacts, mark: RolloutMark, stages: tuple[Stage, ...], at: int) -> bool:
    """Whoever says "all" wants every step behind; how long the version before stands by is another matter."""
    last = at == len(stages) - 1
    said = facts.command.promote
    if facts.lost or not _may_go_on(facts, facts.weight):
        return False
    return said == promotion(mark, str(at)) or (said == promotion(mark, "all") and not last)


def _may_go_on(facts: RolloutFacts, weight: int) -> bool:
    """Whether the candidate can be given more. Where it has everything, only the version before is at stake, which may
    hold what the candidate waits for."""
    return weight == 100 or facts.reachable


def _fault(facts: RolloutFacts, mark: RolloutMark, verdict: Verdict | None) -> tuple[str, str] | None:
    """What must hold of the candidate and does not: a word, and the same for people."""
    if mark.lost and facts.now - moment(mark.lost) >= LOST:
        return "CandidateLost", f"nothing of it has answered since {mark.lost}"
    if verdict is not None and verdict.outcome == Outcome.FAIL:
        return "AnalysisFailed", verdict.message
    return None


def _waits(
    rollout: Rollout, facts: RolloutFacts, mark: RolloutMark, stage: Stage, weight: int, verdict: Verdict | None
) -> tuple[Reason, str] | None:
    """What the stage waits for; None once it is over."""
    if not mark.since:
        return Reason.WAITING_FOR_ROUTERS, "not every router holds these weights yet"
    if facts.frozen:
        return Reason.WAITING_FOR_CLUSTER, FROZEN
    if not facts.held:
        # Nothing moves while nobody knows what some router holds.
        return Reason.WAITING_FOR_ROUTERS, "not every router says that it holds these weights"
    not_yet = "" if _may_go_on(facts, weight) else f", which takes no effect while {UNREACHED}"
    if mark.why:
        return Reason.PAUSED, f"{mark.why}; abort it, or promote it{not_yet}"
    if rollout.paused:
        return Reason.PAUSED, "it is to stay, as spec.rollout.paused or the command says"
    if stage.hold is None:
        return Reason.PAUSED, f"it waits for somebody to promote it{not_yet}"
    over = moment(mark.since) + timedelta(seconds=stage.hold)
    if facts.now < over:
        return Reason.HOLDING, f"until {stamp(over)}"
    # Once it has every request, only how long the version before stands by is at stake: that ends by the clock.
    if verdict is not None and verdict.outcome == Outcome.INCONCLUSIVE and weight < 100:
        return Reason.INCONCLUSIVE, f"nothing can be concluded yet: {verdict.message}"
    if not _may_go_on(facts, weight):
        return Reason.DEPLOYING, UNREACHED
    if weight < 100 and not facts.grown:
        return Reason.DEPLOYING, "not all replicas of the candidate run; promote goes on without them"
    return None


def _verdict(rollout: Rollout, facts: RolloutFacts) -> Verdict | None:
    """None where nothing is asked, or where the candidate has no requests that could tell."""
    if rollout.analysis is None or facts.weight == 0:
        return None
    candidate, stable = (facts.counted.get(app, Count()) for app in (facts.candidate, facts.stable))
    return analysis.judge(rollout.analysis, candidate, stable, facts.measured)


def _advance(
    mark: RolloutMark, stages: tuple[Stage, ...], at: int, why: str, verdict: Verdict | None
) -> RolloutDecision:
    if at == len(stages) - 1:
        return RolloutDecision(mark=None, weight=100, reason=Reason.SHIFTING, message=why, verdict=verdict)
    return _enter(mark, stages, at + 1, why)


def _enter(mark: RolloutMark, stages: tuple[Stage, ...], at: int, why: str) -> RolloutDecision:
    mark = mark.model_copy(update={"stage": at, "since": "", "why": ""})
    text = f"{_where(stages, at, stages[at].weight)}: {why}"
    return RolloutDecision(mark=mark, weight=stages[at].weight, reason=Reason.SHIFTING, message=text)


def _give_up(
    rollout: Rollout,
    facts: RolloutFacts,
    mark: RolloutMark,
    rules: str,
    ended: str,
    why: str,
    verdict: Verdict | None = None,
) -> RolloutDecision:
    mark = mark.model_copy(update={"ended": ended, "why": why, "rules": rules, "since": stamp(facts.now)})
    return RolloutDecision(mark=mark, weight=0, reason=Reason.ROLLED_BACK, message=why, verdict=verdict, again_in=0.0)


def _given_up(rollout: Rollout, facts: RolloutFacts, mark: RolloutMark) -> RolloutDecision:
    """It stays so until another version is wanted, under other rules, or when somebody asks. The candidate runs a while
    longer: whoever looks for the cause may want it."""
    mark = mark.model_copy(update={"lost": (mark.lost or stamp(facts.now)) if facts.hopeless else ""})
    left = rollout.scale_down_delay_seconds - (facts.now - moment(mark.since)).total_seconds()
    return RolloutDecision(
        mark=mark,
        weight=0,
        keeps_candidate=left > 0,
        reason=Reason.ROLLED_BACK,
        message=mark.why,
        again_in=left if left > 0 else LOOK_S if facts.hopeless else None,
    )


def _position(stages: tuple[Stage, ...], weight: int) -> int:
    """The stage of a candidate with this weight: the last one that has no more, or the first."""
    return max((at for at, stage in enumerate(stages) if stage.weight <= weight), default=0)


def _where(stages: tuple[Stage, ...], at: int, weight: int) -> str:
    return f"stage {at + 1} of {len(stages)}, weight {weight}"


def _rules(rollout: Rollout, command: Command) -> str:
    """Tells apart what candidates are judged by. That a rollout is paused is not among it, nor is what is left to its
    default: a release that brings a new field must not have every candidate tried again that was given up."""
    said = rollout.model_dump(mode="json", exclude={"paused"}, exclude_defaults=True)
    text = json.dumps([said, command.retry], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
