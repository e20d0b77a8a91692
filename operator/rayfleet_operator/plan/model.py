"""One model: which versions live on, and how its requests are divided among them.

The order is always the same, and each pass takes the steps whose conditions hold:

1. give Serve the wanted version's application, with weight 0 in the table;
2. once Serve calls it RUNNING and every router reports it ready, let the strategy move weight to it;
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
from rayfleet_operator.plan import conditions, explain, rollout, serve_config, traffic
from rayfleet_operator.plan.conditions import Condition, Reason
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.failure import cause
from rayfleet_operator.plan.live import DEPLOY_FAILED, RUNNING
from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_operator.plan.versions import DRAINING, WAITING, VersionPlan
from rayfleet_serving.config import ModelIdentity, ModelRoute, VersionRoute

REQUEUE_S = 1.0
"""How soon to look again while something is under way: Serve starts a replica in seconds, routers follow in less."""

RETRY_FAILED_AFTER = timedelta(minutes=5)
"""Serve gives up on a version after three failed starts. The cause may have passed since (a store that was down), so
the version is taken out and given to Serve afresh after this long without any new config."""


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
    if facts.resolution is None or isinstance(facts.resolution, ResolutionProblem):
        return _hold(facts, facts.model, facts.resolution)
    return _roll_out(facts, facts.model, facts.resolution)


def _roll_out(facts: ModelFacts, model: ModelDeployment, identity: ModelIdentity) -> ModelDecision:
    wanted = serve_config.model_app(model, identity)
    target = str(wanted["name"])
    holder = facts.holder(target)
    weights: Mapping[str, int] = {target: 100}
    entries: dict[str, Mapping[str, Any]] = {target: wanted}
    if holder is not None and holder != target:
        weights = rollout.immediate(
            rollout.RolloutFacts(
                stable=_version_facts(facts, holder), candidate=_version_facts(facts, target), now=facts.now
            )
        )
        entries[holder] = serve_config.refreshed(facts.live[holder].observed.entry, model.spec)
    leaving = {app: found for app, found in facts.live.items() if app not in weights and not facts.retired(app)}
    entries |= {app: found.observed.entry for app, found in leaving.items()}

    batch = model.spec.batching.max_batch_size
    identities = {app: (found.version, found.model_id) for app, found in facts.live.items()}
    identities[target] = (identity.version, identity.model_id)
    rows = [
        VersionRoute(
            app=app, version=identities[app][0], model_id=identities[app][1], weight=weight, max_batch_size=batch
        )
        for app, weight in weights.items()
    ]
    # A version on its way out stays in the table, without weight, for the routers to go on reporting what it has left.
    rows += [row.model_copy(update={"weight": 0}) for app in leaving if (row := facts.row(app)) is not None]

    retry = _retry_due(facts, target)
    if retry:
        del entries[target]
    versions = [
        _version(facts, app, identities[app], weights.get(app, 0), leaving=app in leaving)
        for app in identities
        if app in weights or app in leaving
    ]
    progress = explain.progress(facts, target, holder, weights, leaving, retry=retry)
    return _decision(
        facts,
        weights=weights,
        versions=versions,
        entries=entries,
        route=traffic.route(model.spec, rows),
        progress=progress,
        faults=explain.faults(facts, target, weights),
        retry_in=_retry_in(facts, target),
    )


def _hold(facts: ModelFacts, model: ModelDeployment, problem: ResolutionProblem | None) -> ModelDecision:
    """Without a resolved version nothing is known to be wanted, so everything stays as it was last given.

    While the registry is away, the version that has the requests follows the spec in all that needs no restart. Where
    it did answer, and has no such version, the spec may be meant for another one.
    """
    route, batch = facts.route, model.spec.batching.max_batch_size
    entries = {app: found.observed.entry for app, found in facts.live.items()}
    if problem is not None and problem.unanswered:
        # With the table lost, it may be any of them.
        held = [app for app in facts.live if facts.weight(app) > 0] or list(facts.live)
        entries |= {app: serve_config.refreshed(entries[app], model.spec) for app in held}
        if route is not None:
            rows = [row.model_copy(update={"max_batch_size": batch}) if row.weight else row for row in route.versions]
            limits, transform = traffic.limits(model.spec.limits), traffic.transform(model.spec.transform)
            route = route.model_copy(update={"versions": rows, "limits": limits, "transform": transform})
    holder = facts.holder(None)
    if holder is not None and facts.weight(holder) == 0:
        # The table is lost or names nothing that lives; what runs must still be served.
        found = facts.live[holder]
        row = VersionRoute(app=holder, version=found.version, model_id=found.model_id, weight=100, max_batch_size=batch)
        route = traffic.route(model.spec, [row])
    if route is None:
        route = traffic.waiting(model.spec)
    weights = {row.app: row.weight for row in route.versions}
    faults = explain.faults(facts, None, weights)
    if problem is None:
        progress = conditions.progressing(Reason.RESOLVING, "the registry has not answered yet")
    else:
        kept = ", ".join(f"version {found.version}" for app, found in facts.live.items() if weights.get(app, 0) > 0)
        text = f"{problem.message.rstrip('.')}; {kept} keeps the requests" if kept else problem.message
        faults.append((problem.reason, text))
        progress = conditions.resting(problem.reason, "nothing moves until the wanted version is known")
    return _decision(
        facts,
        weights=weights,
        versions=[
            _version(facts, app, (found.version, found.model_id), weights.get(app, 0), leaving=False)
            for app, found in facts.live.items()
        ],
        entries=entries,
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
) -> ModelDecision:
    ordered = tuple(sorted(versions, key=lambda version: (-version.weight, version.app)))
    serving = any(weight > 0 and facts.routers.reaching(app) > 0 for app, weight in weights.items())
    plan = ModelPlan(
        name=facts.name,
        conditions=(explain.ready(facts, ordered, serving), progress, conditions.degraded(faults)),
        versions=ordered,
        serving=serving,
    )
    requeue_after = REQUEUE_S if progress.status == "True" else retry_in
    if requeue_after is not None:
        # A retry that is due may have to wait for the routers to be known.
        requeue_after = max(requeue_after, REQUEUE_S)
    return ModelDecision(plan, tuple(entries.values()), route, requeue_after)


def _version_facts(facts: ModelFacts, app: str) -> rollout.VersionFacts:
    return rollout.VersionFacts(app=app, weight=facts.weight(app), reachable=facts.reachable(app))


def _version(facts: ModelFacts, app: str, identity: tuple[str, str], weight: int, *, leaving: bool) -> VersionPlan:
    """`identity` is the version and its model id."""
    if app not in facts.live:
        return VersionPlan(*identity, app, weight, WAITING)
    found = facts.live[app]
    return VersionPlan(
        *identity,
        app,
        weight,
        DRAINING if leaving else found.status,
        "" if found.status == RUNNING else cause(found.observed.message),
        found.observed.replicas_running,
        found.observed.replicas_target,
    )


def _retry_due(facts: ModelFacts, target: str) -> bool:
    retry_in = _retry_in(facts, target)
    # Serve may call an application failed whose older replicas still answer; those are left alone.
    return retry_in == 0 and facts.routers.complete and facts.routers.reaching(target) == 0


def _retry_in(facts: ModelFacts, target: str) -> float | None:
    """Seconds until a failed version is given to Serve afresh; None where it did not fail."""
    found = facts.live.get(target)
    if found is None or found.status != DEPLOY_FAILED or found.observed.deployed_at is None:
        return None
    return max(0.0, (found.observed.deployed_at + RETRY_FAILED_AFTER - facts.now).total_seconds())
