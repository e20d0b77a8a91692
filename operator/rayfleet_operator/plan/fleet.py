"""From a fleet's models, their resolved versions and what is observed to one Serve config.

Pure: no clock, no network, no memory. Each model is decided alone, so one bad model never touches its neighbours; only
the traffic table is shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from rayfleet_operator.api.fleet import GpuSharing, ModelFleet, ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import demand, named, rollback, serve_config
from rayfleet_operator.plan.admission import Admission, admit
from rayfleet_operator.plan.demand import Ask
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.live import DELETING, LiveApp, RouterView, live_apps
from rayfleet_operator.plan.measured import Answer, Question
from rayfleet_operator.plan.model import REQUEUE_S, ModelDecision, ModelPlan, decide
from rayfleet_operator.plan.observed import ObservedFleet, Resolution, ResolutionProblem, named_key
from rayfleet_operator.plan.room import Room
from rayfleet_operator.plan.serve_config import ServeOptions
from rayfleet_serving.config import ROUTER_APP, ModelRoute, TrafficTable

MOST_TRIED = 4
"""Refused versions that one pass tries again because there seems to be room for them in the end."""


@dataclass(frozen=True)
class FleetPlan:
    """What the fleet should be now."""

    config: dict[str, Any]
    """The whole Serve config; `serve_config.canonical` gives its bytes."""
    models: tuple[ModelPlan, ...]
    """One for each model, sorted by name; a deleted model is listed until its last version is gone."""
    changed: bool
    """Whether `config` asks for any application that the observed fleet was not already given, or drops one.

    Only a changed config should be put: Serve starts an application's build anew when it gets the same entry twice
    while the first build is still running.
    """
    requeue_after: float | None
    """Seconds after which to observe and plan again because something is under way; None when all is settled."""
    admission: Admission | None = None
    """Which replica has a place where; None where nobody knows what room there is."""


def plan(
    *,
    fleet: ModelFleet | None,
    models: Sequence[ModelDeployment],
    resolutions: Mapping[str, Resolution],
    observed: ObservedFleet,
    serve_options: ServeOptions,
    now: datetime,
    written: Mapping[str, ModelRoute] | None = None,
    frozen: bool = False,
    measured: Mapping[Question, Answer] | None = None,
    room: Room | None = None,
) -> FleetPlan:
    """Plan one fleet.

    `fleet` None stands for a fleet with every default. `models` are all of the fleet's models, in any order.
    `written` are the rows of the table written last, where the observed routers may not have got it; `frozen` says that
    another cluster gets it. `measured` are answers to `measured.questions`. `resolutions` are by model name, those of
    versions that `spec.traffic` names by `named_key`; a model without one stays as it is deployed. Applications that
    are neither a model nor the router are kept as they are. `room` is what the fleet may grow to: a version that is new
    and for which it has no place is not given to Serve, and until there is one its model goes on with what it has;
    nor is Serve told of more replicas than have a place. Without `room`, everything is given.
    Raises ValueError when two models have one name.
    """
    twice = [name for name, count in Counter(model.metadata.name for model in models).items() if count > 1]
    if twice:
        raise ValueError(f"two models of one fleet are named {', '.join(sorted(twice))}")

    models, resolutions = rollback.applied(models, resolutions)
    by_name = {model.metadata.name: model for model in models}
    spec = fleet.spec if fleet is not None else ModelFleetSpec()
    own = live_apps(observed)
    given = {name: app.entry for name, app in observed.apps.items() if app.entry and app.status != DELETING}
    others = [entry for name, entry in given.items() if name not in own and name != ROUTER_APP]
    each = _Decided(by_name, resolutions, observed, now, written or {}, frozen, measured or {}, spec.gpu_sharing)

    def config_of(decisions: Mapping[str, ModelDecision]) -> tuple[TrafficTable, dict[str, Any]]:
        routes = {name: decision.route for name, decision in sorted(decisions.items()) if decision.route is not None}
        table = TrafficTable(models=routes, routers=spec.routers.replicas)
        entries = others + [entry for decision in decisions.values() for entry in decision.entries]
        entries.append(serve_config.router_app(spec, table, None if frozen else given.get(ROUTER_APP)))
        return table, serve_config.serve_config(entries, serve_options)

    def admitted(room: Room, out: Sequence[Ask], refused: Mapping[str, ResolutionProblem]) -> Admission:
        """Without `out`, which are `refused`. Who is refused goes on with what it has, and asks for no more than it did
        before: so each turn refuses at least one more, or is the last."""
        while True:
            decisions = each.decisions(refused)
            table, config = config_of(decisions)
            asks = demand.of_config(
                config["applications"],
                table.models,
                by_name,
                observed,
                written or {},
                by_name.keys() - resolutions.keys() - refused.keys(),
                {decision.candidate for decision in decisions.values() if decision.candidate is not None},
                {app for decision in decisions.values() for app in decision.leaving},
            )
            admission = admit(room, asks, out)
            if admission.refused.keys() == refused.keys():
                return admission
            refused, out = admission.refused, admission.out

    admission = None
    if room is not None:
        admission = admitted(room, (), {})
        # What others give up because they are refused as well may be what one of them needs.
        for ask in [ask for ask in admission.out if admission.fits(ask)][:MOST_TRIED]:
            others_out = [other for other in admission.out if other.key != ask.key]
            less = admitted(room, others_out, {other.key: admission.refused[other.key] for other in others_out})
            if less.refused.keys() < admission.refused.keys():
                admission = less
    decisions = each.decisions(admission.refused, admission.places) if admission is not None else each.decisions({})
    _, config = config_of(decisions)

    changed = {app["name"]: app for app in config["applications"]} != given
    due = [decision.requeue_after for decision in decisions.values() if decision.requeue_after is not None]
    if changed:
        due.append(REQUEUE_S)
    return FleetPlan(
        config=config,
        models=tuple(decision.plan for _, decision in sorted(decisions.items())),
        changed=changed,
        requeue_after=min(due, default=None),
        admission=admission,
    )


class _Decided:
    """Each model's decision, made once for what it is refused and given."""

    def __init__(
        self,
        models: Mapping[str, ModelDeployment],
        resolutions: Mapping[str, Resolution],
        observed: ObservedFleet,
        now: datetime,
        written: Mapping[str, ModelRoute],
        frozen: bool,
        measured: Mapping[Question, Answer],
        gpu_sharing: GpuSharing,
    ) -> None:
        routers = RouterView.of(observed)
        live = live_apps(observed)
        routes = observed.table.models if observed.table is not None else {}
        found: dict[str, dict[str, LiveApp]] = {}
        for app, each in sorted(live.items()):
            found.setdefault(each.model, {})[app] = each
        self._facts = {
            name: ModelFacts(
                name=name,
                model=models.get(name),
                resolution=resolutions.get(name),
                live=found.get(name, {}),
                route=routes.get(name),
                routers=routers,
                now=now,
                given=written.get(name),
                frozen=frozen,
                named=named.known(models.get(name), resolutions),
                measured=measured,
                gpu_sharing=gpu_sharing,
            )
            for name in {*models, *routes, *found}
        }
        self._made: dict[object, ModelDecision] = {}

    def decisions(
        self, refused: Mapping[str, ResolutionProblem], places: Mapping[str, Mapping[str, int]] = MappingProxyType({})
    ) -> dict[str, ModelDecision]:
        """
        Args:
            refused: versions that have no room, as resolutions are kept.
            places: replicas that have a place, by model and application, where some have none.
        """
        return {name: self._decision(name, refused, places.get(name, {})) for name in self._facts}

    def _decision(
        self, name: str, refused: Mapping[str, ResolutionProblem], places: Mapping[str, int]
    ) -> ModelDecision:
        facts = self._facts[name]
        by_name = {key: problem for key in facts.named if (problem := refused.get(named_key(name, key))) is not None}
        what = (name, refused.get(name), tuple(by_name.items()), tuple(places.items()))
        made = self._made.get(what)
        if made is None:
            of = replace(facts, refused=refused.get(name), named={**facts.named, **by_name}, places=places)
            made = self._made[what] = decide(of)
        return made
