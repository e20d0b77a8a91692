"""A stand-in for Serve and its routers, in memory: what a config becomes, step by step.

It does what the planner relies on and what it must survive: applications start one step at a time and may fail, the
routers take a new table one by one, a router may be restarted and then knows nothing, requests are sent by the table
that a router holds and end some time later.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rayfleet_operator.plan import size
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet
from rayfleet_operator.ray import observe
from rayfleet_serving.config import ROUTER_APP, RouterState, RouterVersionState, TrafficTable, VersionRoute, WindowCount

from .scenes import table_of


@dataclass
class App:
    entry: dict[str, Any]
    status: str
    outcome: str = ""
    """What became of its start; "" until it is over. Another config changes it only when it needs a restart."""
    replicas: int = 0
    """Those that run: all that it starts with, then one more with each step."""

    @property
    def target(self) -> int:
        return size.given(self.entry).least


@dataclass
class Router:
    name: str
    table: TrafficTable = field(default_factory=TrafficTable)
    seen: bool = False
    """Whether it holds any table yet."""
    knows: set[str] = field(default_factory=set)
    """Applications whose replicas and metadata it has seen."""
    ongoing: Counter[str] = field(default_factory=Counter)
    counts: dict[str, WindowCount] = field(default_factory=dict)
    """What it has answered in the window of now, by application."""

    def take(self, table: TrafficTable) -> None:
        """Hold this table from now on; counts go on where the window is the same."""
        self.table, self.seen = table, True
        windows = {row.app: route.window for route in table.models.values() for row in route.versions if route.window}
        kept = {app: count for app, count in self.counts.items() if windows.get(app) == count.window}
        self.counts = {app: kept.get(app, WindowCount(window=window)) for app, window in windows.items()}

    def count(self, app: str, *, failed: bool = False) -> None:
        """One more answer."""
        if (count := self.counts.get(app)) is not None:
            more = {"requests": count.requests + 1, "failed": count.failed + failed}
            self.counts[app] = count.model_copy(update=more)

    def rows(self) -> dict[str, VersionRoute]:
        """By application, of the table it holds."""
        return {row.app: row for route in self.table.models.values() for row in route.versions}

    def takes(self, app: str) -> bool:
        """Whether a request for this application, chosen by weight or asked for by name, would be sent on."""
        row = self.rows().get(app)
        return row is not None and not row.leaving and app in self.knows


class World:
    def __init__(self) -> None:
        self.apps: dict[str, App] = {}
        self.routers: list[Router] = []
        self.broken: set[str] = set()
        """Model ids that never start."""
        self.failing: set[str] = set()
        """Applications that answer every request with an error."""
        self.silent = False
        """No router's report can be read."""
        self._names = 0
        self._before = ObservedFleet()

    def put(self, config: dict[str, Any]) -> None:
        wanted = {entry["name"]: entry for entry in config["applications"]}
        for name, app in self.apps.items():
            if name not in wanted:
                app.status = "DELETING"
        for name, entry in wanted.items():
            known = self.apps.get(name)
            if known is None or known.status == "DELETING":
                self.apps[name] = App(entry, "DEPLOYING")
            else:
                # Serve calls every application DEPLOYING for a moment; what failed is not started again by that.
                known.entry, known.status = entry, "DEPLOYING"
        for router in self.routers:
            # Routers watch the application, not the planner: what is gone is unknown to them at once.
            router.knows &= {name for name, app in self.apps.items() if app.status != "DELETING"}

    def advance_app(self, name: str) -> None:
        """One application takes its next step."""
        app = self.apps[name]
        if app.status == "DELETING":
            del self.apps[name]
            if name == ROUTER_APP:
                self.routers.clear()
        elif name == ROUTER_APP:
            app.status = "RUNNING"
            self._start_routers()
        elif app.status in ("DEPLOYING", "UNHEALTHY"):
            if not app.outcome or app.status == "UNHEALTHY":
                broken = app.entry["args"]["identity"]["model_id"] in self.broken
                app.outcome = "DEPLOY_FAILED" if broken else "RUNNING"
                app.replicas = 0 if broken else app.target
            app.status = app.outcome
        elif app.status == "RUNNING" and app.replicas != app.target:
            # Serve calls it RUNNING all the while.
            app.replicas = min(app.replicas + 1, app.target)

    def _start_routers(self) -> None:
        target = self.apps[ROUTER_APP].target
        while len(self.routers) < target:
            self._names += 1
            self.routers.append(Router(f"r{self._names}"))
        del self.routers[target:]

    def advance_router(self, router: Router) -> None:
        """One router takes the table last given, if it has not yet; else it looks for replicas."""
        given = table_of({"applications": [self.apps[ROUTER_APP].entry]})
        if not router.seen or router.table != given:
            router.take(given)
            return
        running = {name for name, app in self.apps.items() if app.status == "RUNNING"}
        router.knows |= router.rows().keys() & running

    def restart_router(self, router: Router) -> None:
        """Its requests are lost with it."""
        self._names += 1
        self.routers[self.routers.index(router)] = Router(f"r{self._names}")

    def lose_router(self, router: Router) -> None:
        """It is gone, and nothing has replaced it yet."""
        self.routers.remove(router)

    def send(self, router: Router) -> None:
        """One request for each version that the router can send to: by its weight, or because somebody names it."""
        for app in router.rows():
            if router.takes(app):
                router.ongoing[app] += 1
                router.count(app, failed=app in self.failing)

    def observe(self, now: datetime) -> ObservedFleet:
        apps = {
            name: ObservedApp(
                name=name,
                status=app.status,
                entry={} if app.status == "DELETING" else app.entry,
                replicas_running=app.replicas if name != ROUTER_APP else None,
                replicas_target=app.target if name != ROUTER_APP else None,
            )
            for name, app in self.apps.items()
        }
        routers = [
            RouterState(
                replica=router.name,
                table=router.table.digest() if router.seen else "",
                models={name: route.digest() for name, route in router.table.models.items()},
                versions={
                    app: RouterVersionState(
                        ready=app in router.knows and app in router.rows(),
                        ongoing=router.ongoing[app],
                        queued=0,
                        count=router.counts.get(app),
                    )
                    # A version that left the table is reported until its last request is answered.
                    for app in router.rows().keys() | +router.ongoing
                },
            )
            for router in self.routers
        ]
        self._before = observe.fleet(apps, () if self.silent else routers, self._before, now)
        return self._before
