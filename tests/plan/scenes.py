"""Small builders for one model named "digits": its spec, its versions, and what may be observed of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from rayfleet_operator.api.fleet import ModelFleet, ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import serve_config, traffic
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet, Resolution, ResolutionProblem
from rayfleet_operator.plan.room import Room
from rayfleet_operator.plan.serve_config import ServeOptions
from rayfleet_serving.config import (
    ROUTER_APP,
    ModelIdentity,
    RouterState,
    RouterVersionState,
    TrafficTable,
    VersionRoute,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OPTIONS = ServeOptions(host="127.0.0.1", port=8123, proxy_location="HeadOnly")
DOWN = ResolutionProblem("RegistryUnreachable", "http://mlflow.ml:5000 does not answer")


def model(name: str = "digits", **spec: Any) -> ModelDeployment:
    """A ModelDeployment; `spec` in the camelCase of a file."""
    return ModelDeployment.model_validate(
        {"metadata": {"name": name}, "spec": {"model": {"uri": f"models:/{name}@live"}, **spec}}
    )


def fleet(**routers: Any) -> ModelFleet:
    return ModelFleet.model_validate({"metadata": {"name": "shared"}, "spec": {"routers": routers}})


def identity(version: int, name: str = "digits") -> ModelIdentity:
    return ModelIdentity(
        version=str(version),
        model_id=f"m-{version:032x}",
        artifact_uri=f"mlflow-artifacts:/1/models/{name}-{version}/artifacts",
    )


def app_name(version: int, of: ModelDeployment | None = None) -> str:
    of = of or model()
    return str(serve_config.model_app(of, identity(version, of.metadata.name))["name"])


def observe(
    versions: Mapping[int, tuple[str, int | None]],
    *,
    of: ModelDeployment | None = None,
    routers: int = 2,
    expected: int = 2,
    ready: Mapping[int, int] | None = None,
    busy: Mapping[int, int] | None = None,
    stale: int = 0,
    message: str = "",
    failed_since: datetime | None = NOW,
    replicas: Mapping[int, int] | None = None,
    leaving: Collection[int] = (),
) -> ObservedFleet:
    """Versions of one model by number: (Serve's status, weight; None for no row in the table).

    `ready` and `busy`: how many routers report the version ready, or a request for it; by default every router is
    ready for a RUNNING version and none is busy. `stale`: how many routers hold an older table. `replicas`: how many
    run of a version. `leaving`: versions whose rows say so.
    """
    of = of or model()
    name = of.metadata.name
    entries = {version: serve_config.model_app(of, identity(version, name)) for version in versions}
    rows = [
        VersionRoute(
            app=entries[version]["name"],
            version=str(version),
            model_id=identity(version).model_id,
            weight=weight,
            max_batch_size=of.spec.batching.max_batch_size,
            transform=traffic.transform(of.spec.transform),
            leaving=version in leaving,
        )
        for version, (_, weight) in versions.items()
        if weight is not None
    ]
    table = TrafficTable(models={name: traffic.route(of.spec, rows)} if rows else {}, routers=expected)
    apps = {
        entry["name"]: ObservedApp(
            name=entry["name"],
            status=versions[version][0],
            message=message if versions[version][0] != "RUNNING" else "",
            entry=entry,
            replicas_running=(replicas or {}).get(version),
            failed_since=failed_since if versions[version][0] == "DEPLOY_FAILED" else None,
        )
        for version, entry in entries.items()
    }
    router = serve_config.router_app(ModelFleetSpec.model_validate({"routers": {"replicas": expected}}), table)
    apps[ROUTER_APP] = ObservedApp(name=ROUTER_APP, status="RUNNING", entry=router)
    states = []
    for number in range(routers):
        reports = {}
        for version, (status, _) in versions.items():
            sees = (ready or {}).get(version, routers if status == "RUNNING" else 0)
            holds = (busy or {}).get(version, 0)
            reports[entries[version]["name"]] = RouterVersionState(
                ready=number < sees, ongoing=1 if number < holds else 0, queued=0
            )
        held = "0" * 16 if number < stale else table.digest()
        rows_held = {} if number < stale else {name: route.digest() for name, route in table.models.items()}
        states.append(RouterState(replica=f"r{number}", table=held, models=rows_held, versions=reports))
    return ObservedFleet(apps=apps, table=table, routers=tuple(states), router_target=expected)


def plan_one(
    observed: ObservedFleet,
    resolution: Resolution,
    *,
    of: ModelDeployment | None = None,
    now: datetime = NOW,
    room: Room | None = None,
) -> FleetPlan:
    of = of or model()
    return plan(
        fleet=None,
        models=[of],
        resolutions={of.metadata.name: resolution},
        observed=observed,
        serve_options=OPTIONS,
        now=now,
        room=room,
    )


def applications(planned: FleetPlan) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in planned.config["applications"]}


def table_of(config: Mapping[str, Any]) -> TrafficTable:
    (router,) = (entry for entry in config["applications"] if entry["name"] == ROUTER_APP)
    return TrafficTable.model_validate(router["deployments"][0]["user_config"])


def weights(planned: FleetPlan, name: str = "digits") -> dict[int, int]:
    """Weight by version number; {} when the model has no row."""
    route = table_of(planned.config).models.get(name)
    return {int(row.version): row.weight for row in route.versions} if route else {}


def deployed(planned: FleetPlan, name: str = "digits") -> set[int]:
    """Version numbers that have an application."""
    return {
        int(entry["args"]["identity"]["version"])
        for app, entry in applications(planned).items()
        if app != ROUTER_APP and entry["args"]["name"] == name
    }


def condition(planned: FleetPlan, kind: ConditionType, name: str = "digits") -> tuple[str, str, str]:
    (found,) = (one for one in planned.models if one.name == name)
    (it,) = (one for one in found.conditions if one.type == kind)
    return it.status, str(it.reason), it.message
