"""Model apps found in what is deployed, and what the routers say about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet
from rayfleet_serving.config import (
    MODEL_DEPLOYMENT,
    MODEL_IMPORT_PATH,
    ModelRoute,
    RouterState,
    VersionTrouble,
    Wanted,
    WindowCount,
)

RUNNING = "RUNNING"
DEPLOY_FAILED = "DEPLOY_FAILED"
UNHEALTHY = "UNHEALTHY"
DELETING = "DELETING"


@dataclass(frozen=True)
class LiveApp:
    """One model app that Serve was given and still has to run."""

    observed: ObservedApp
    model: str
    version: str
    model_id: str

    @property
    def name(self) -> str:
        return self.observed.name

    @property
    def status(self) -> str:
        return self.observed.status


def live_apps(observed: ObservedFleet) -> dict[str, LiveApp]:
    """Model apps by name; those that Serve deletes already are gone as far as the plan is concerned."""
    found = {}
    for name, app in observed.apps.items():
        match app.entry:
            case {
                "import_path": str(path),
                "args": {"name": str(model), "identity": {"version": str(version), "model_id": str(model_id)}},
                "deployments": [{"name": str(deployment), "ray_actor_options": Mapping()}],
            } if path == MODEL_IMPORT_PATH and deployment == MODEL_DEPLOYMENT and app.status != DELETING:
                found[name] = LiveApp(app, model, version, model_id)
    return found


@dataclass(frozen=True)
class RouterView:
    """What may be concluded from the routers' reports. With a report missing, nothing may: every answer is False."""

    routers: tuple[RouterState, ...]
    expected: int
    """Router replicas that there should be."""
    table: str | None
    """Digest of the table they were last given."""

    @classmethod
    def of(cls, observed: ObservedFleet) -> RouterView:
        return cls(observed.routers, observed.router_target, observed.table.digest() if observed.table else None)

    @property
    def complete(self) -> bool:
        """Every router that there should be has answered."""
        return 0 < self.expected <= len(self.routers)

    @property
    def settled(self) -> bool:
        """And every one holds the table last given."""
        return self.complete and all(router.table == self.table for router in self.routers)

    def holding(self, name: str, route: ModelRoute) -> int:
        """How many routers hold this row for the model `name`."""
        digest = route.digest()
        return sum(1 for router in self.routers if router.models.get(name) == digest)

    def reaching(self, app: str) -> int:
        """How many routers see running replicas of `app` and know its metadata."""
        return sum(1 for router in self.routers if app in router.versions and router.versions[app].ready)

    def troubles(self, app: str) -> list[VersionTrouble]:
        """What the replicas of `app` said of themselves to any router, the newest first as the first router has it; of
        each reason one, and always the same."""
        reports = [router.versions[app] for router in self.routers if app in router.versions]
        found: dict[str, VersionTrouble] = {}
        for trouble in (trouble for report in reports for trouble in report.troubles):
            known = found.setdefault(trouble.reason, trouble)
            found[trouble.reason] = min(known, trouble, key=lambda each: each.message)
        return list(found.values())

    def wanted(self, app: str) -> Wanted | None:
        """How many replicas those of `app` say there must be: the largest number that a router was told."""
        told = [router.versions[app].wanted for router in self.routers if app in router.versions]
        return max((each for each in told if each is not None), key=lambda each: each.replicas, default=None)

    def counts(self, app: str, window: str) -> list[WindowCount]:
        """What each router that counts in this window has counted of `app`."""
        found = [router.versions[app].count for router in self.routers if app in router.versions]
        return [count for count in found if count is not None and window and count.window == window]

    def answering_reach(self, app: str) -> bool:
        """Whether every router that answered reaches `app`, and one did."""
        return 0 < len(self.routers) == self.reaching(app)

    def all_reach(self, app: str) -> bool:
        """Whether every router that there should be answered, and reaches `app`."""
        return self.complete and self.answering_reach(app)

    def all_idle(self, app: str) -> bool:
        """No router has a request for `app`, and none will get one unless the table last given sends it there."""
        reports = [router.versions[app] for router in self.routers if app in router.versions]
        return self.settled and all(report.ongoing + report.queued == 0 for report in reports)
