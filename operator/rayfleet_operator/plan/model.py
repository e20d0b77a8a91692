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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import bounds, conditions, explain, named, retry, rows, scaling, serve_config, size, traffic
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY, Condition, Reason
from rayfleet_operator.plan.division import Division, divide, without
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.observed import Noted, Notice, ResolutionProblem
from rayfleet_operator.plan.rollout import RolloutDecision
from rayfleet_operator.plan.scaling import Scaling
from rayfleet_operator.plan.size import Size
from rayfleet_operator.plan.staying import Staying, numbers_hold, staying
from rayfleet_operator.plan.versions import VersionPlan
from rayfleet_serving.config import ModelIdentity, ModelRoute

REQUEUE_S = 1.0
"""How soon to look again while something is under way: Serve starts a replica in seconds, routers follow in less."""


@dataclass(frozen=True)
class ModelPlan:
    """One model after this plan is applied."""

    name: str
    conditions: tuple[Condition, ...]
    """Ready, Progressing, Degraded: always all three, in this order."""
    versions: tuple[VersionPlan, ...]
    """The model's own first, and of those the one with the most weight."""
    serving: bool
    """Whether some router can reach a version that has weight."""
    rollout: RolloutDecision | None = None
    """Of a rollout by stages, under way or given up."""
    scaling: Scaling | None = None
    """Of the version that has the requests; None where its number of replicas is fixed, or nothing is known of it."""

    @property
    def holder(self) -> VersionPlan | None:
        """The version that has all requests but those that its traffic gives to others by name; None while two of the
        model's own share them."""
        own = [version for version in self.versions if version.weight > 0 and not version.name]
        return own[0] if len(own) == 1 else None


@dataclass(frozen=True)
class ModelDecision:
    plan: ModelPlan
    entries: tuple[Mapping[str, Any], ...]
    """Its applications in the Serve config."""
    route: ModelRoute | None
    """Its row in the traffic table."""
    requeue_after: float | None
    candidate: str | None = None
    """The application of a version that is to take over and has no request yet, whether or not it was given before."""
    leaving: frozenset[str] = frozenset()
    """Applications that are only there until their last requests are answered."""


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
            return _hold(facts, facts.model, problem or facts.refused)


def _roll_out(
    facts: ModelFacts,
    model: ModelDeployment,
    identity: ModelIdentity,
    problem: ResolutionProblem | None,
    notices: tuple[Notice, ...] = (),
) -> ModelDecision:
    """With a `problem`, `identity` is what the registry said last. `notices` are only told. Where there is no room for
    the wanted version, the model goes on without it, and everything else of the spec holds."""
    target = str(serve_config.model_app(model, identity, gpu_sharing=facts.gpu_sharing)["name"])
    every = facts
    apart = named.applications(every, model, target)
    facts = every.without(apart)
    divided = without(facts, target) if facts.refused is not None else divide(facts, model, target)
    holder, weights = divided.holder, divided.weights
    given_up = divided.decision is not None and divided.mark is not None and bool(divided.mark.ended)
    # One that its traffic names as well goes on with the share it has under its name until it gets one as its own.
    shared = {app: share for app, share in weights.items() if share or app != target or given_up}
    beside = named.others(every, apart, named.beside(every, model, shared.keys()))
    if not weights:
        beside = beside.without_shares()
    sizes = _sizes(facts, model, target, divided)
    entries: dict[str, Mapping[str, Any]] = {}
    if target in weights:
        entries[target] = serve_config.model_app(model, identity, sizes[target], gpu_sharing=facts.gpu_sharing)
        if (found := every.live.get(target)) is not None and named.stays_fixed(every, found):
            entries[target] = serve_config.refreshed(found.observed.entry, model.spec, sizes[target])
    if holder is not None and holder != target:
        entries[holder] = serve_config.refreshed(facts.live[holder].observed.entry, model.spec, sizes[holder])
    facts = facts.without(beside.apps - {target})
    leaving = {
        app: found
        for app, found in facts.live.items()
        if app not in weights and app not in beside.apps and not facts.retired(app)
    }
    entries |= {app: found.observed.entry for app, found in leaving.items()}

    identities = {app: (found.version, found.model_id) for app, found in every.live.items()}
    identities[target] = (identity.version, identity.model_id)
    # The spec's transform is made for the wanted version; another one's labels or image size may be others.
    given = {app: row.transform for app in weights if app != target and (row := facts.row(app)) is not None}
    own = {app: share for app, share in weights.items() if app not in beside.apps}
    shares = rows.shared_out(own, 100 - beside.weight)
    table = [
        rows.row(model, app, identities[app], share, given.get(app), sleeps=_sleeps(facts, app, entries.get(app)))
        for app, share in shares.items()
    ]
    gone = [*leaving, *beside.leaving]
    table = [*beside.table(table), *rows.left(facts, gone)]
    route = traffic.route(model.spec, table, divided.mark) if weights else traffic.waiting(model.spec, table)

    # The one that has the requests is not tried again so: where it came from is known to nobody once its entry is gone.
    again = target in weights and retry.due(facts, target)
    if again:
        del entries[target]
    versions = [
        rows.told(every, row.app, (row.version, row.model_id), row.weight, leaving=row.leaving, row=row)
        for row in table
    ]
    shown = {row.app for row in table}
    versions += [rows.told(every, app, identities[app], 0, leaving=True) for app in gone if app not in shown]
    asked = sizes[target].least if target in sizes else 0
    if facts.refused is not None:
        progress = explain.without_room(facts, holder, weights, leaving, entries, route, facts.refused)
    elif divided.mark is not None and given_up:
        progress = explain.given_up(divided.mark, identity.version, leaving)
    else:
        progress = explain.progress(facts, target, holder, weights, leaving, entries, route, retry=again, asked=asked)
        if divided.decision is not None and divided.mark is not None and divided.mark.stage >= 0:
            text = f"version {identity.version}, {divided.decision.message}"
            progress = conditions.progressing(divided.decision.reason, text)
    if progress.reason == Reason.SETTLED:
        progress = beside.progress or explain.divided(progress, table)
    elif facts.refused is not None and progress.status == "False":
        progress = beside.progress or progress
    faults = _faults(facts, target, identity, divided, problem) + beside.faults
    faults += [(notice.reason, notice.message) for notice in notices] + beside.notices
    return _decision(
        facts,
        weights=weights,
        versions=versions,
        entries=beside.entries | entries,
        route=route,
        progress=progress,
        faults=faults,
        retry_in=retry.sooner(
            retry.due_in(facts, target) if target in weights else None,
            divided.decision.again_in if divided.decision is not None else None,
            beside.look_in,
            bounds.look_in(model.spec, facts.now),
        ),
        decision=divided.decision,
        sizes=sizes,
        candidate=target if weights.get(target) == 0 and holder is not None and not given_up else None,
        leaving=gone,
    )


def _sizes(facts: ModelFacts, model: ModelDeployment, target: str, divided: Division) -> dict[str, Size]:
    """Of the model's own versions that go on running."""
    if facts.refused is not None:
        sizes = {app: bounds.of_one(facts, model.spec, app) for app in divided.weights}
    elif divided.holder is None or divided.holder == target:
        sizes = {target: bounds.of_one(facts, model.spec, target)}
    else:
        sizes = bounds.of_two(facts, model.spec, target, divided.holder, divided.mark)
    return {app: facts.placed(app, size) for app, size in sizes.items()}


def _sleeps(facts: ModelFacts, app: str, entry: Mapping[str, Any] | None) -> bool:
    return entry is not None and rows.sleeps(facts, app, size.given(entry).least)


def _faults(
    facts: ModelFacts, target: str, identity: ModelIdentity, divided: Division, problem: ResolutionProblem | None
) -> list[tuple[str, str]]:
    """What needs a person, of the model's own versions: what runs, then the registry, then a candidate."""
    faults = explain.faults(facts, target, divided.weights)
    if facts.refused is not None:
        faults = explain.beside_refusal(facts, divided.weights, facts.refused, faults)
    if problem is not None:
        kept = f"version {identity.version} stays the wanted one"
        faults.append((problem.reason, f"{problem.message.rstrip('.')}; {kept}"))
    if divided.decision is not None and divided.mark is not None:
        faults += explain.candidate(divided.mark, identity.version)
    return faults


def _hold(facts: ModelFacts, model: ModelDeployment, problem: ResolutionProblem | None) -> ModelDecision:
    """Without a resolved version nothing is known to be wanted, so everything stays as it was last given.

    Edits of the spec wait, too: they may be meant for a version that is not known yet; but how many replicas there are
    to be is no matter of versions, and schedules begin and end. A rollout that is under way goes
    no further, but its candidate is judged as before, and given up if it fails or somebody aborts it. Versions that
    `spec.traffic` names are others, and wait for nothing unless all is held, but have a share only beside one that is
    the model's own.
    """
    kept = staying(facts, model, problem)
    spec = model.spec if numbers_hold(problem) else None
    weights = kept.weights
    mark, decision = (kept.division.mark, kept.division.decision) if kept.division is not None else (None, None)
    by_name = [row for row in kept.route.versions if row.name]
    versions = [
        rows.told(facts, app, (found.version, found.model_id), weights.get(app, 0), leaving=app in kept.gone)
        for app, found in kept.live.items()
        if app not in {row.app for row in by_name}
    ]
    versions += [
        rows.told(facts, row.app, (row.version, row.model_id), row.weight, leaving=row.leaving, row=row)
        for row in by_name
    ]
    sizes = {app: facts.placed(app, bounds.held(facts, spec, app, mark)) for app in kept.live}
    own = {
        app: found.observed.entry if app in kept.gone else serve_config.resized(found.observed.entry, sizes[app])
        for app, found in kept.live.items()
    }
    progress, faults = _unknown(facts, kept, problem)
    if mark is not None and mark.candidate in facts.live:
        faults += explain.candidate(mark, facts.live[mark.candidate].version)
    return _decision(
        facts,
        weights=weights,
        versions=versions,
        entries=kept.beside.entries | own,
        route=kept.route,
        progress=progress,
        faults=[*faults, *kept.beside.faults, *kept.beside.notices],
        retry_in=retry.sooner(
            0.0 if kept.gone else decision.again_in if decision is not None else None,
            kept.beside.look_in,
            bounds.look_in(spec, facts.now) if spec is not None else None,
        ),
        decision=decision,
        sizes=sizes,
        leaving=kept.gone,
    )


def _unknown(
    facts: ModelFacts, kept: Staying, problem: ResolutionProblem | None
) -> tuple[Condition, list[tuple[str, str]]]:
    """What is told of a wanted version that nobody knows, with the faults of what runs."""
    weights = kept.weights
    faults = explain.faults(facts, None, weights)
    if problem is None:
        return conditions.progressing(Reason.RESOLVING, "the registry has not answered yet"), faults
    until = "there is room" if problem.reason == INSUFFICIENT_CAPACITY else "the wanted version is known"
    faults = explain.beside_refusal(facts, weights, problem, faults)
    return conditions.resting(problem.reason, f"nothing moves until {until}"), faults


def _remove(facts: ModelFacts) -> ModelDecision:
    """The row goes first; each application follows once no router holds the row or has a request for it left."""
    leaving = {app: found for app, found in facts.live.items() if not facts.retired(app)}
    return _decision(
        facts,
        weights={},
        versions=[
            rows.told(facts, app, (found.version, found.model_id), 0, leaving=True) for app, found in leaving.items()
        ],
        entries={app: found.observed.entry for app, found in leaving.items()},
        route=None,
        progress=conditions.progressing(Reason.REMOVING, "the model was deleted; its last requests are being answered"),
        faults=[],
        retry_in=None,
        leaving=leaving,
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
    sizes: Mapping[str, Size] | None = None,
    candidate: str | None = None,
    leaving: Iterable[str] = (),
) -> ModelDecision:
    ordered = tuple(sorted(versions, key=lambda version: (bool(version.name), -version.weight, version.app)))
    serving = any(weight > 0 and facts.routers.reaching(app) > 0 for app, weight in weights.items())
    plan = ModelPlan(
        name=facts.name,
        conditions=(explain.ready(facts, ordered, serving), progress, conditions.degraded(faults)),
        versions=ordered,
        serving=serving,
        rollout=decision,
        scaling=scaling.of(facts, ordered, sizes or {}),
    )
    requeue_after = REQUEUE_S if progress.status == "True" else retry_in
    if requeue_after is not None:
        # A retry that is due may have to wait for the routers to be known.
        requeue_after = max(requeue_after, REQUEUE_S)
    return ModelDecision(plan, tuple(entries.values()), route, requeue_after, candidate, frozenset(leaving))
