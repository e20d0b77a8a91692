"""Fleets whose replicas are to be counted: from files, or from what an API server has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from rayfleet_operator.api.documents import Loaded
from rayfleet_operator.api.fleet import ModelFleet, ModelFleetSpec
from rayfleet_operator.api.problems import described
from rayfleet_operator.api.types import GROUP, ModelDeployment
from rayfleet_operator.cli.kubectl import Kubectl
from rayfleet_operator.kube.keys import model_fleet
from rayfleet_operator.plan import conditions, demand, serve_config, size
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY, ConditionType
from rayfleet_operator.plan.demand import Ask
from rayfleet_operator.plan.observed import ObservedFleet
from rayfleet_operator.plan.room import Room
from rayfleet_operator.reconcile import observe, wanted
from rayfleet_operator.render import standing
from rayfleet_operator.render.names import FLEET_LABEL
from rayfleet_serving.config import TrafficTable

Json = dict[str, Any]

NO_GROUPS = (
    "its workers are those of the operator's administrator: write spec.workerGroups out, or ask a cluster with --live"
)


@dataclass(frozen=True)
class Counted:
    """One fleet."""

    name: str
    namespace: str
    room: Room | None
    """None where nobody says what workers it has."""
    asks: Sequence[Ask] = ()
    troubles: Sequence[str] = ()
    """What does not fit by what the operator says, or is not known."""


def of_files(loaded: Loaded) -> list[Counted]:
    """Each ModelFleet with the models that name it; and for each model that names none that is there, a line."""
    found = []
    models = list(loaded.models)
    for fleet in loaded.fleets:
        own = [model for model in models if _names(model, fleet)]
        found.append(_of_file(fleet, own))
        models = [model for model in models if model not in own]
    for model in models:
        metadata = model.metadata
        why = (
            f"the files have no ModelFleet {model.spec.fleet} in namespace {metadata.namespace}"
            if model.spec.fleet is not None
            else NO_GROUPS
        )
        name = model.spec.fleet or metadata.name
        found.append(Counted(name, metadata.namespace, None, troubles=[f"{metadata.name}: {why}"]))
    return found


def _names(model: ModelDeployment, fleet: ModelFleet) -> bool:
    there = fleet.metadata.name, fleet.metadata.namespace
    return (model.spec.fleet or model.metadata.name, model.metadata.namespace) == there


def _of_file(fleet: ModelFleet, models: Sequence[ModelDeployment]) -> Counted:
    name, namespace, spec = fleet.metadata.name, fleet.metadata.namespace, fleet.spec
    if not spec.worker_groups:
        return Counted(name, namespace, None, troubles=[f"ModelFleet {name}: {NO_GROUPS}"])
    asks = routers(spec) + [ask for model in models for ask in demand.of_spec(model)]
    return Counted(name, namespace, Room.of(spec), asks)


def routers(spec: ModelFleetSpec) -> list[Ask]:
    """What they ask for, at the least."""
    return demand.of_config([serve_config.router_app(spec, TrafficTable())], {}, {}, ObservedFleet(), {})


def of_cluster(kubectl: Kubectl, namespace: str | None) -> list[Counted]:
    """Every fleet of a namespace as its objects say: what was given to Ray lies there, candidates and versions that
    drain among them; models of which nothing was given come after. Raises click.ClickException."""
    fleets = _by_name(kubectl.get(f"modelfleets.{GROUP}", namespace=namespace))
    models = _by_name(kubectl.get(f"modeldeployments.{GROUP}", namespace=namespace))
    services = _by_name(kubectl.get("rayservices.ray.io", namespace=namespace, labels=FLEET_LABEL))
    by_fleet: dict[str, dict[str, Json]] = {name: {} for name in fleets}
    for name, obj in sorted(models.items()):
        by_fleet.setdefault(model_fleet(obj), {})[name] = obj
    return [_of_objects(name, fleets.get(name), own, services.get(name)) for name, own in sorted(by_fleet.items())]


def _by_name(objects: Sequence[Json]) -> dict[str, Json]:
    return {obj["metadata"]["name"]: obj for obj in objects}


def _of_objects(name: str, fleet: Json | None, objects: Mapping[str, Json], service: Json | None) -> Counted:
    first: Json = fleet or service or next(iter(objects.values()), {"metadata": {}})
    namespace = str(first["metadata"].get("namespace") or "default")
    models, problems = wanted.parsed(objects)
    troubles = [f"{each}: {problem.message}" for each, problem in sorted(problems.items())]
    try:
        written = wanted.known_fields((fleet or {}).get("spec") or {})
        spec = wanted.fleet_spec(written, {})
    except ValidationError as error:
        return Counted(name, namespace, None, troubles=[f"ModelFleet {name}: {described(error)}"])
    if service is not None:
        spec = standing.meant(spec, service["spec"]["rayClusterConfig"], wanted.said(written))
    if not spec.worker_groups:
        return Counted(name, namespace, None, troubles=[*troubles, f"{name}: there is no RayService yet; {NO_GROUPS}"])
    given = _with_replicas(observe.given(service), models)
    rows = given.table.models if given.table is not None else {}
    apps = [app.entry for app in given.apps.values()]
    by_name = {model.metadata.name: model for model in models}
    asks = demand.of_config(apps, rows, by_name, given, rows) if apps else routers(spec)
    served = {ask.model for ask in asks}
    readable = [model for model in models if model.metadata.name not in problems]
    asks += [ask for model in readable if model.metadata.name not in served for ask in demand.of_spec(model)]
    troubles += [text for model in readable if model.metadata.name in served for text in _told(model)]
    return Counted(name, namespace, Room.of(spec), asks, troubles)


def _with_replicas(given: ObservedFleet, models: Sequence[ModelDeployment]) -> ObservedFleet:
    """What was given to Ray, with the replicas that the models' statuses say there are: their number follows the load,
    and what was given has only its bounds."""
    counts = {app: count for model in models for app, count in _replicas(model, given).items()}
    apps = {
        name: replace(app, replicas_running=counts[name][0], replicas_target=counts[name][1]) if name in counts else app
        for name, app in given.apps.items()
    }
    return replace(given, apps=apps)


def _replicas(model: ModelDeployment, given: ObservedFleet) -> dict[str, tuple[int, int]]:
    """Replicas that run, and those that there are to be, by application. A status tells them of the version that has
    the requests, and the sum of all: what is left is the others', beyond what each has at least."""
    told = [each.app for each in model.status.versions if each.app in given.apps]
    if not told:
        return {}
    status, first = model.status, told[0]
    least = {app: size.given(given.apps[app].entry).least for app in told}
    others = sum(least[app] for app in told[1:])
    running = status.scaling.running if status.scaling is not None else max(0, status.replicas - others)
    wanted = status.scaling.wanted if status.scaling is not None else running
    found = {app: (least[app], least[app]) for app in told[1:]}
    if more := max(0, status.replicas - running - others) if len(told) > 1 else 0:
        found[told[1]] = (least[told[1]] + more,) * 2
    return {first: (running, wanted), **found}


def _told(model: ModelDeployment) -> list[str]:
    """What the operator says of a model that serves, and of which something finds no room."""
    degraded = conditions.find(model.status.conditions, ConditionType.DEGRADED)
    if degraded is None or degraded.status != "True" or degraded.reason != INSUFFICIENT_CAPACITY:
        return []
    return [f"{model.metadata.name}: {degraded.message}"]
