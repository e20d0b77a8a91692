"""From a fleet's models, their resolved versions and what is observed to one Serve config.

Pure: no clock, no network, no memory. Each model is decided alone, so one bad model never touches its neighbours; only
the traffic table is shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rayfleet_operator.api.fleet import ModelFleet, ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import named, rollback, serve_config
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.live import DELETING, RouterView, live_apps
from rayfleet_operator.plan.measured import Answer, Question
from rayfleet_operator.plan.model import REQUEUE_S, ModelDecision, ModelPlan, decide
from rayfleet_operator.plan.observed import ObservedFleet, Resolution
from rayfleet_operator.plan.serve_config import ServeOptions
from rayfleet_serving.config import ROUTER_APP, ModelRoute, TrafficTable


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
) -> FleetPlan:
    """Plan one fleet.

    `fleet` None stands for a fleet with every default. `models` are all of the fleet's models, in any order.
    `written` are the rows of the table written last, where the observed routers may not have got it; `frozen` says that
    another cluster gets it. `measured` are answers to `measured.questions`. `resolutions` are by model name, those of
    versions that `spec.traffic` names by `named_key`; a model without one stays as it is deployed. Applications that
    are neither a model nor the router are kept as they are.
    Raises ValueError when two models have one name.
    """
    twice = [name for name, count in Counter(model.metadata.name for model in models).items() if count > 1]
    if twice:
        raise ValueError(f"two models of one fleet are named {', '.join(sorted(twice))}")

    models, resolutions = rollback.applied(models, resolutions)
    by_name = {model.metadata.name: model for model in models}
    decisions = _decide_each(by_name, resolutions, observed, now, written or {}, frozen, measured or {})
    spec = fleet.spec if fleet is not None else ModelFleetSpec()
    table = TrafficTable(
        models={name: decision.route for name, decision in sorted(decisions.items()) if decision.route is not None},
        routers=spec.routers.replicas,
    )
    own = live_apps(observed)
    given = {name: app.entry for name, app in observed.apps.items() if app.entry and app.status != DELETING}
    entries = [entry for name, entry in given.items() if name not in own and name != ROUTER_APP]
    entries += [entry for decision in decisions.values() for entry in decision.entries]
    entries.append(serve_config.router_app(spec, table))
    config = serve_config.serve_config(entries, serve_options)

    changed = {app["name"]: app for app in config["applications"]} != given
    due = [decision.requeue_after for decision in decisions.values() if decision.requeue_after is not None]
    if changed:
        due.append(REQUEUE_S)
    return FleetPlan(
        config=config,
        models=tuple(decision.plan for _, decision in sorted(decisions.items())),
        changed=changed,
        requeue_after=min(due, default=None),
    )


def _decide_each(
    models: Mapping[str, ModelDeployment],
    resolutions: Mapping[str, Resolution],
    observed: ObservedFleet,
    now: datetime,
    written: Mapping[str, ModelRoute],
    frozen: bool,
    measured: Mapping[Question, Answer],
) -> dict[str, ModelDecision]:
    routers = RouterView.of(observed)
    live = live_apps(observed)
    routes = observed.table.models if observed.table is not None else {}
    return {
        name: decide(
            ModelFacts(
                name=name,
                model=models.get(name),
                resolution=resolutions.get(name),
                live={app: found for app, found in sorted(live.items()) if found.model == name},
                route=routes.get(name),
                routers=routers,
                now=now,
                given=written.get(name),
                frozen=frozen,
                named=named.known(models.get(name), resolutions),
                measured=measured,
            )
        )
        for name in {*models, *routes, *(found.model for found in live.values())}
    }
