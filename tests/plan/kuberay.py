"""A stand-in for KubeRay and the clusters that it builds, in memory; in each cluster a stand-in for Serve.

It does what KubeRay 1.6 does about a RayService: a change of the pods makes a new pending cluster, which alone is given
the config from then on; it is asked for its applications before it is given any, and is made KubeRay's own as soon as
all of them are RUNNING; a cluster that is neither its own nor pending is deleted some time later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from rayfleet_operator.api.fleet import ModelFleet
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import deployment, events, serve_config, status
from rayfleet_operator.plan.deployment import Deployment
from rayfleet_operator.plan.observed import ObservedFleet, Resolution
from rayfleet_operator.plan.switch import Clusters, ObservedCluster
from rayfleet_operator.reconcile import observe
from rayfleet_serving.config import ROUTER_APP

from .scenes import NOW, identity, model, table_of
from .world import World

STEP = timedelta(seconds=2)
DELETION_DELAY = timedelta(seconds=60)


@dataclass
class Cluster:
    name: str
    created: datetime
    pods: object
    """What it was built for."""
    serve: World
    starts: int = 3
    """Steps until its head answers."""
    head: bool = False
    workers: int = 0
    given: str = ""
    """The config that KubeRay remembers to have given it."""
    dangling: datetime | None = None

    def lose_everything(self) -> None:
        """The head comes back without memory; its workers go."""
        self.serve.apps.clear()
        self.serve.routers.clear()
        self.workers = 0


@dataclass
class Fleet:
    """One fleet, its operator and KubeRay; `step` lets each of them do one thing."""

    wanted: dict[str, Resolution] = field(default_factory=dict)
    """What the registry says, by model."""
    broken: set[str] = field(default_factory=set)
    """Model ids that never start, in any cluster."""
    pods: object = 0
    """What the fleet's pods should be."""
    now: datetime = NOW
    models: dict[str, ModelDeployment] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    active: str | None = None
    pending: str | None = None
    followed: str | None = None
    config: str = ""
    built_for: object = None
    planned: Deployment | None = None
    changing: bool = False
    stuck: bool = False
    """No new cluster gets any pods."""
    patient: bool = False
    """No cluster is deleted that requests go to."""
    silent: set[str] = field(default_factory=set)
    """Clusters whose dashboard does not answer just now."""
    forgetful: set[str] = field(default_factory=set)
    """Clusters whose dashboard answers just now that there is nothing."""
    quiet: bool = False
    """The routers answered a moment ago."""
    history: list[dict[str, tuple[str, str]]] = field(default_factory=list)
    """After each step, Ready's status and reason by model."""
    told: list[tuple[str, str, str]] = field(default_factory=list)
    """Every event: the model, its type and its reason."""

    def add(self, name: str, version: int) -> None:
        self.models[name] = model(name)
        self.wanted[name] = identity(version, name)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += STEP
            self.operator()
            self.kuberay()
            for each in self.clusters.values():
                self.advance(each)

    def hear(self) -> None:
        """Everything that was silent answers again."""
        self.silent.clear()
        self.forgetful.clear()
        for each in self.clusters.values():
            each.serve.silent = False

    def observed(self) -> Clusters:
        return Clusters(
            by_name={
                each.name: ObservedCluster(
                    name=each.name,
                    created=each.created,
                    observed=self._said(each),
                    ready_workers=each.workers,
                )
                for each in self.clusters.values()
            },
            followed=self.followed,
            active=self.active,
            pending=self.pending,
            reached=self.followed in self.clusters and self.clusters[self.followed].workers > 0,
        )

    def _said(self, each: Cluster) -> ObservedFleet | None:
        if not each.head or each.name in self.silent:
            return None
        return ObservedFleet() if each.name in self.forgetful else each.serve.observe(self.now)

    def operator(self) -> None:
        ray_service: Mapping[str, Any] = {"spec": {"serveConfigV2": self.config}}
        self.planned = deployment.plan_fleet(
            fleet=ModelFleet.model_validate({"metadata": {"name": "shared"}}),
            models=list(self.models.values()),
            resolutions=self.wanted,
            clusters=self.observed(),
            given=observe.given(dict(ray_service)),
            now=self.now,
            changing=self.changing,
        )
        self.config = serve_config.canonical(self.planned.config).decode()
        self.followed = self.planned.follow or self.followed
        self.built_for = self.pods
        said = {}
        for plan in self.planned.models:
            if plan.name not in self.models:
                continue
            before = self.models[plan.name]
            after = status.model_status(
                before,
                plan,
                url="",
                resolution=self.wanted.get(plan.name),
                troubles=(),
                shortage=None,
                quiet=self.quiet,
                now=self.now,
            )
            notes = events.events(before.status.conditions, after.conditions)
            self.told += [(plan.name, note.type, note.reason) for note in notes]
            self.models[plan.name] = before.model_copy(update={"status": after})
            said[plan.name] = (after.conditions[0].status, after.conditions[0].reason)
        self.history.append(said)

    def kuberay(self) -> None:
        for each in list(self.clusters.values()):
            if each.name in (self.active, self.pending) or (self.patient and each.name == self.followed):
                continue
            each.dangling = each.dangling or self.now
            if self.now - each.dangling > DELETION_DELAY:
                del self.clusters[each.name]
        newest = self.clusters.get(self.pending or self.active or "")
        if newest is None or newest.pods != self.built_for:
            name = f"c{len(self.history)}"
            world = World()
            world.broken = self.broken
            self.clusters[name] = Cluster(name, self.now, self.built_for, world)
            self.pending = name
            return
        target = self.clusters.get(self.pending or "") or newest
        if not target.head:
            return
        ready = bool(target.serve.apps) and all(app.status == "RUNNING" for app in target.serve.apps.values())
        if target.given != self.config or not target.serve.apps:
            target.serve.put(json.loads(self.config))
            target.given = self.config
        if ready and self.pending is not None:
            self.active, self.pending = self.pending, None

    def advance(self, each: Cluster) -> None:
        if self.stuck and not each.head:
            return
        each.starts -= 1
        if each.starts > 0:
            return
        each.head = True
        for name in list(each.serve.apps):
            each.serve.advance_app(name)
        for router in each.serve.routers:
            each.serve.advance_router(router)
        each.workers = min(len(each.serve.routers), 2)

    @property
    def serving(self) -> Cluster:
        assert self.followed is not None
        return self.clusters[self.followed]

    def answers(self, name: str) -> bool:
        """Whether a request that a user sends now is answered, whichever worker it gets to."""
        if self.followed not in self.clusters or not self.serving.workers:
            return False
        world = self.serving.serve
        return bool(world.routers) and all(self._answered(world, router, name) for router in world.routers)

    @staticmethod
    def _answered(world: World, router: Any, name: str) -> bool:
        route = router.table.models.get(name)
        rows = [row for row in route.versions if row.weight > 0] if route is not None else []
        running = {
            app
            for app, found in world.apps.items()
            if found.status in ("RUNNING", "DEPLOYING") and found.outcome == "RUNNING"
        }
        return bool(rows) and all(row.app in router.knows and row.app in running for row in rows)

    def condition(self, name: str, kind: str) -> tuple[str, str, str]:
        (found,) = (each for each in self.models[name].status.conditions if each.type == kind)
        return found.status, found.reason, found.message

    def states(self, name: str) -> list[str]:
        """Of the model's versions, as its status has them."""
        return [each.state for each in self.models[name].status.versions]

    def given(self) -> set[str]:
        """Versions that KubeRay was given last, as model/version."""
        applications = json.loads(self.config)["applications"]
        return {
            f"{app['args']['name']}/{app['args']['identity']['version']}"
            for app in applications
            if app["name"] != ROUTER_APP
        }

    def weights(self, name: str) -> dict[str, int]:
        route = table_of(json.loads(self.config)).models.get(name)
        return {row.version: row.weight for row in route.versions} if route is not None else {}
