"""Small builders for Ray clusters as they may be observed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from rayfleet_operator.plan.live import RUNNING
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet
from rayfleet_operator.plan.pods import Trouble
from rayfleet_operator.plan.switch import Clusters, ObservedCluster
from rayfleet_serving.config import ROUTER_APP, ModelRoute, RouterState, RouterVersionState, TrafficTable, VersionRoute

from .scenes import NOW


def serve(
    apps: Mapping[str, str],
    weights: Mapping[str, int] | None = None,
    *,
    routers: int = 2,
    reached: Collection[str] | None = None,
    replicas: Mapping[str, int] | None = None,
    stale: bool = False,
    table: bool = True,
    router: str = RUNNING,
) -> ObservedFleet:
    """Applications `model.version` by Serve's status.

    `weights`: percent of each in the table, 100 of each model's first one by default. `reached`: what every router
    reaches, by default what is RUNNING. `stale`: the routers hold an older table. `table`: whether it can be read.
    `router`: Serve's status of the router app.
    """
    if weights is None:
        seen: set[str] = set()
        weights = {}
        for app in apps:
            weights[app] = 0 if app.split(".")[0] in seen else 100
            seen.add(app.split(".")[0])
    models: dict[str, list[VersionRoute]] = {}
    for app, weight in weights.items():
        model, version = app.split(".")
        row = VersionRoute(app=app, version=version, model_id=f"m-{version}", weight=weight)
        models.setdefault(model, []).append(row)
    given = TrafficTable(models={name: ModelRoute(versions=rows) for name, rows in models.items()}, routers=2)
    known = set(reached) if reached is not None else {app for app, status in apps.items() if status == RUNNING}
    found = {
        app: ObservedApp(name=app, status=status, replicas_running=(replicas or {}).get(app), entry=entry(app))
        for app, status in apps.items()
    }
    found[ROUTER_APP] = ObservedApp(name=ROUTER_APP, status=router, entry={"name": ROUTER_APP})
    states = tuple(
        RouterState(
            replica=f"r{number}",
            table="0" * 16 if stale else given.digest(),
            models={},
            versions={app: RouterVersionState(ready=app in known, ongoing=0, queued=0) for app in weights},
        )
        for number in range(routers)
    )
    return ObservedFleet(apps=found, table=given if table else None, routers=states, router_target=2)


def entry(app: str) -> dict[str, Any]:
    """A model's application as the planner writes it."""
    model, version = app.split(".")
    return {
        "name": app,
        "route_prefix": None,
        "import_path": "rayfleet_serving.model.app:build",
        "args": {
            "name": model,
            "identity": {"version": version, "model_id": f"m-{version}", "artifact_uri": "s3://b/m"},
        },
        "deployments": [{"name": "model", "ray_actor_options": {"num_cpus": 1.0}}],
    }


def cluster(
    name: str,
    observed: ObservedFleet | None = None,
    *,
    workers: int = 2,
    age: timedelta = timedelta(minutes=1),
    now: datetime = NOW,
    troubles: tuple[Trouble, ...] = (),
) -> ObservedCluster:
    return ObservedCluster(name=name, created=now - age, observed=observed, ready_workers=workers, troubles=troubles)


def clusters(
    *found: ObservedCluster,
    followed: str | None = None,
    active: str | None = None,
    pending: str | None = None,
    reached: bool = True,
) -> Clusters:
    by_name = {each.name: each for each in found}
    return Clusters(by_name=by_name, followed=followed, active=active, pending=pending, reached=reached)
