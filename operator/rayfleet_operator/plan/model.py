"""One model: which versions live on, and how its requests are divided among them.

The order is always the same, and each pass takes the steps whose conditions hold:

1. give Serve the wanted version's application, with weight 0 in the table;
2. once Serve calls it RUNNING and every router reports it ready (where none reaches the old version, every router that
   answers), let the strategy move weight to it;
3. once every router holds the table in which the old version has no weight, and none has a request for it left,
   drop its application and its row.

A model's very first version has all the weight at once: routers answer 503 until it is ready. Nothing is remembered
between passes. The *holder* is the version with the most weight in the table last given to the routers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import conditions, explain, serve_config, traffic
from rayfleet_operator.plan.conditions import Condition, Reason
from rayfleet_operator.plan.division import divide
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.failure import cause
from rayfleet_operator.plan.live import DEPLOY_FAILED, RUNNING
from rayfleet_operator.plan.observed import Noted, Notice, ResolutionProblem
from rayfleet_operator.plan.rollout import RolloutDecision
from rayfleet_operator.plan.versions import DRAINING, WAITING, VersionPlan
from rayfleet_serving.config import ModelIdentity, ModelRoute, Transform, VersionRoute

REQUEUE_S = 1.0
"""How soon to look again while something is under way: Serve starts a replica in seconds, routers follow in less."""

RETRY_FAILED_AFTER = timedelta(minutes=5)
"""Serve gives up on a version after three failed starts. The cause may have passed since (a store that was down), so
the version is taken out and given to Serve afresh after this long."""


@dataclass(frozen=True)
class ModelPlan:
    """One model after this plan is applied."""

    name: str
    conditions: tuple[Condition, ...]
    """Ready, Progressing, Degraded: always all three, in this order."""
    versions: tuple[VersionPlan, ...]
    """The version with the most weight first."""
    serving: bool
    """Whether some router can reach a version that has weight."""
    rollout: RolloutDecision | None = None
    """Of a rollout by stages, under way or given up."""


@dataclass(frozen=True)
class ModelDecision:
    plan: ModelPlan
    entries: tuple[Mapping[str, Any], ...]
    """Its applications in the Serve config."""
    route: ModelRoute | None
    """Its row in the traffic table."""
    requeue_after: float | None


def decide(facts: ModelFacts) -> ModelDecision:
    if facts.model is None:
        return _remove(facts)
    match facts.resolution:
        case ModelIdentity() as identity:
            return _roll_out(facts, facts.model, identity, None)
        case Noted(identity=identity, notices=notices):
            return _roll_out(facts, facts.model, identity, None, notices)
        case ResolutionProblem(last=ModelIdentity() as identity) as problem:
            return _roll_out(facts, facts.model, identity, problem)
        case problem:
            return _hold(facts, facts.model, problem)


def _roll_out(
    facts: ModelFacts,
    model: ModelDeployment,
    identity: ModelIdentity,
    problem: ResolutionProblem | None,
    notices: tuple[Notice, ...] = (),
) -> ModelDecision:
    """With a `problem`, `identity` is what the registry said last. `notices` are only told."""
    wanted = serve_config.model_app(model, identity)
    target = str(wanted["name"])
    divided = divide(facts, model, target)
    holder, weights = divided.holder, divided.weights
    entries: dict[str, Mapping[str, Any]] = {target: wanted} if target in weights else {}
    if holder is not None and holder != target:
        entries[holder] = serve_config.refreshed(facts.live[holder].observed.entry, model.spec)
    leaving = {app: found for app, found in facts.live.items() if app not in weights and not facts.retired(app)}
    entries |= {app: found.observed.entry for app, found in leaving.items()}

    identities = {app: (found.version, found.model_id) for app, found in facts.live.items()}
    identities[target] = (identity.version, identity.model_id)
    # The spec's transform is made for the wanted version; another one's labels or image size may be others.
    given = {app: row.transform for app in weights if app != target and (row := facts.row(app)) is not None}
    rows = [_row(model, app, identities[app], weight, given.get(app)) for app, weight in weights.items()]
    # A version on its way out stays in the table, without weight, for the routers to go on reporting what it has left.
    left = {"weight": 0, "leaving": True}
    rows += [row.model_copy(update=left) for app in leaving if (row := facts.row(app)) is not None]
    route = traffic.route(model.spec, rows, divided.mark)

    # The one that has the requests is not tried again so: where it came from is known to nobody once its entry is gone.
    retry = target in weights and _retry_due(facts, target)
    if retry:
        del entries[target]
    versions = [
        _version(facts, app, identities[app], weights.get(app, 0), leaving=app in leaving)
        for app in identities
        if app in weights or app in leaving
    ]
    faults = explain.faults(facts, target, weights)
    if problem is not None:
        kept = f"version {identity.version} stays the wanted one"
        faults.append((problem.reason, f"{problem.message.rstrip('.')}; {kept}"))
    if divided.decision is not None and divided.mark is not None and divided.mark.ended:
        progress = explain.given_up(divided.mark, identity.version, leaving)
        faults.append((Reason.ROLLED_BACK, explain.why_given_up(divided.mark, identity.version)))
    else:
        progress = explain.progress(facts, target, holder, weights, leaving, entries, route, retry=retry)
        if divided.decision is not None and divided.mark is not None and divided.mark.stage >= 0:
            text = f"version {identity.version}, {divided.decision.message}"
            progress = conditions.progressing(divided.decision.reason, text)
    faults += [(notice.reason, notice.message) for notice in notices]
    return _decision(
        facts,
        weights=weights,
        versions=versions,
        entries=entries,
        route=route,
        progress=progress,
        faults=faults,
        retry_in=_sooner(
            _retry_in(facts, target) if target in weights else None,
            divided.decision.again_in if divided.decision is not None else None,
        ),
        decision=divided.decision,
    )


def _hold(facts: ModelFacts, model: ModelDeployment, problem: ResolutionProblem | None) -> ModelDecision:
    """Without a resolved version nothing is known to be wanted, so everything stays as it was last given.

    Edits of the spec wait, too: they may be meant for a version that is not known yet.
    """
    route = facts.route
    holder = facts.holder(None)
    if holder is not None and facts.weight(holder) == 0:
        # The table is lost or names nothing that lives; what runs must still be served.
        found = facts.live[holder]
        route = traffic.route(model.spec, [_row(model, holder, (found.version, found.model_id), 100, None)])
    elif route is None or not route.versions:
        route = traffic.waiting(model.spec)
    weights = {row.app: row.weight for row in route.versions}
    faults = explain.faults(facts, None, weights)
    if problem is None:
        progress = conditions.progressing(Reason.RESOLVING, "the registry has not answered yet")
    else:
        kept = ", ".join(f"version {found.version}" for app, found in facts.live.items() if weights.get(app, 0) > 0)
        text = f"{problem.message.rstrip('.')}; {kept} keeps the requests" if kept else problem.message
        # What is wrong with a version that answers is graver than what is wrong with the next one; where none answers,
        # it is the next one that people wait for.
        answers = any(facts.routers.reaching(app) > 0 for app, weight in weights.items() if weight > 0)
        faults.insert(len(faults) if answers else 0, (problem.reason, text))
        progress = conditions.resting(problem.reason, "nothing moves until the wanted version is known")
    return _decision(
        facts,
        weights=weights,
        versions=[
            _version(facts, app, (found.version, found.model_id), weights.get(app, 0), leaving=False)
            for app, found in facts.live.items()
        ],
        entries={app: found.observed.entry for app, found in facts.live.items()},
        route=route,
        progress=progress,
        faults=faults,
        retry_in=None,
    )


def _remove(facts: ModelFacts) -> ModelDecision:
    """The row goes first; each application follows once no router holds the row or has a request for it left."""
    leaving = {app: found for app, found in facts.live.items() if not facts.retired(app)}
    return _decision(
        facts,
        weights={},
        versions=[
            _version(facts, app, (found.version, found.model_id), 0, leaving=True) for app, found in leaving.items()
        ],
        entries={app: found.observed.entry for app, found in leaving.items()},
        route=None,
        progress=conditions.progressing(Reason.REMOVING, "the model was deleted; its last requests are being answered"),
        faults=[],
        retry_in=None,
    )


def _decision(
    facts: ModelFacts,
    *,
    weights: Mapping[str, int],
    versions: list[VersionPlan],
    entries: Mapping[str, Mapping[str, Any]],
    route: ModelRoute | None,
    progress: Condition,
    faults: list[tuple[str, str]],
    retry_in: float | None,
    decision: RolloutDecision | None = None,
) -> ModelDecision:
    ordered = tuple(sorted(versions, key=lambda version: (-version.weight, version.app)))
    serving = any(weight > 0 and facts.routers.reaching(app) > 0 for app, weight in weights.items())
    plan = ModelPlan(
        name=facts.name,
        conditions=(explain.ready(facts, ordered, serving), progress, conditions.degraded(faults)),
        versions=ordered,
        serving=serving,
        rollout=decision,
    )
    requeue_after = REQUEUE_S if progress.status == "True" else retry_in
    if requeue_after is not None:
        # A retry that is due may have to wait for the routers to be known.
        requeue_after = max(requeue_after, REQUEUE_S)
    return ModelDecision(plan, tuple(entries.values()), route, requeue_after)


def _sooner(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)


def _row(
    model: ModelDeployment, app: str, identity: tuple[str, str], weight: int, transform: Transform | None
) -> VersionRoute:
    """`identity` is the version and its model id; without a transform of its own the version gets the spec's."""
    version, model_id = identity
    return VersionRoute(
        app=app,
        version=version,
        model_id=model_id,
        weight=weight,
        max_batch_size=model.spec.batching.max_batch_size,
        transform=transform or traffic.transform(model.spec.transform),
    )


def _version(facts: ModelFacts, app: str, identity: tuple[str, str], weight: int, *, leaving: bool) -> VersionPlan:
    """`identity` is the version and its model id."""
    failed = facts.failed(app)
    failure = failed.message if failed is not None and not leaving else None
    if app not in facts.live:
        return VersionPlan(*identity, app, weight, WAITING, failure=failure)
    found = facts.live[app]
    return VersionPlan(
        *identity,
        app,
        weight,
        DRAINING if leaving else found.status,
        "" if found.status == RUNNING else cause(found.observed.message),
        found.observed.replicas_running,
        found.observed.replicas_target,
        failure,
    )


def _retry_due(facts: ModelFacts, target: str) -> bool:
    """Serve may call an application failed whose older replicas still answer; those are left alone. A router that does
    not answer may reach one, unless Serve has none; where no router answers, nothing is dropped."""
    if _retry_in(facts, target) != 0 or not facts.routers.routers or facts.routers.reaching(target):
        return False
    return facts.routers.complete or not facts.live[target].observed.replicas_running


def _retry_in(facts: ModelFacts, target: str) -> float | None:
    """Seconds until a failed version is given to Serve afresh; None where it did not fail."""
    found = facts.live.get(target)
    if found is None or found.status != DEPLOY_FAILED or found.observed.failed_since is None:
        return None
    return max(0.0, (found.observed.failed_since + RETRY_FAILED_AFTER - facts.now).total_seconds())
