"""A random walk of edits, moved aliases, failures, restarts and outages, planned and applied at every turn.

After every plan: no weight on a version that routers can not reach when there is a better one, nothing dropped that a
router still sends to. When the walk ends, everything comes to what is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import strategy
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.live import live_apps
from rayfleet_operator.plan.observed import ObservedFleet, Resolution, ResolutionProblem
from rayfleet_operator.plan.retry import RETRY_FAILED_AFTER
from rayfleet_operator.plan.rollout import RETRY_ANNOTATION
from rayfleet_operator.plan.room import Room
from rayfleet_serving.config import ROUTER_APP, ModelIdentity, ModelRoute

from .scenes import NOW, OPTIONS, app_name, fleet, identity, model, table_of
from .world import Router, World

NAMES = ("digits", "faces")
SPECS: tuple[dict[str, Any], ...] = (
    {},
    {"replicas": 2},
    {"batching": {"maxBatchSize": 8}},
    {"resources": {"cpu": "2"}},
    {"resources": {"cpu": "2"}, "replicas": 3, "limits": {"requestTimeout": "2s"}},
    {"rollout": {"strategy": "Canary", "steps": [{"weight": 60, "hold": "1m"}, {"weight": 80, "hold": "1m"}]}},
    {"rollout": {"strategy": "BlueGreen", "previewHold": "1m"}, "replicas": 2},
    {
        "rollout": {
            "strategy": "Canary",
            "steps": [{"weight": 20, "hold": "1m"}],
            "analysis": {"errorRate": {"max": "1%"}, "minRequests": 2},
        }
    },
)
AT_REST_S = 61
"""Between looks while everything works: longer than any step of the specs above holds."""


def _reach(observed: ObservedFleet, app: str) -> int:
    """How many routers that answer can send to it."""
    return sum(1 for state in observed.routers if app in state.versions and state.versions[app].ready)


class Walk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.now = NOW
        self.routers = 2
        self.models: dict[str, ModelDeployment] = {}
        self.alias: dict[str, int] = {}
        self.registry_up = True
        self.cpus: int | None = None
        self.resolved: dict[str, ModelIdentity] = {}
        """What the registry said last."""
        self.away = False

    @initialize()
    def start(self) -> None:
        self.edit("digits", SPECS[0])
        self.move_alias("digits", 1)
        self.come_to_rest()

    # What people and registries do

    @rule(name=st.sampled_from(NAMES), spec=st.sampled_from(SPECS))
    def edit(self, name: str, spec: dict[str, Any]) -> None:
        self.models[name] = model(name, **spec)
        self.alias.setdefault(name, 1)

    @rule(name=st.sampled_from(NAMES), version=st.integers(1, 4))
    def move_alias(self, name: str, version: int) -> None:
        self.alias[name] = version

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        self.models.pop(name, None)
        self.resolved.pop(name, None)

    @rule(count=st.integers(2, 3))
    def scale_routers(self, count: int) -> None:
        self.routers = count

    @rule(cpus=st.sampled_from([None, 3, 5, 8]))
    def workers_come_or_go(self, cpus: int | None) -> None:
        self.cpus = cpus

    @rule()
    def registry_goes_or_comes(self) -> None:
        self.registry_up = not self.registry_up

    # What the machines do

    @rule(version=st.integers(1, 4))
    def version_breaks_or_is_mended(self, version: int) -> None:
        self.world.broken ^= {identity(version).model_id}

    @rule(data=st.data())
    def version_answers_badly_or_well(self, data: st.DataObject) -> None:
        if self.world.apps:
            self.world.failing ^= {data.draw(st.sampled_from(sorted(self.world.apps)))}

    @rule()
    def apps_advance(self) -> None:
        for name in sorted(self.world.apps):
            self.world.advance_app(name)

    @rule()
    def all_advance(self) -> None:
        self.apps_advance()
        for router in self.world.routers:
            self.world.advance_router(router)
            self.world.advance_router(router)

    @rule(data=st.data())
    def app_turns_unhealthy(self, data: st.DataObject) -> None:
        running = sorted(n for n, a in self.world.apps.items() if a.status == "RUNNING" and n != ROUTER_APP)
        if running:
            name = data.draw(st.sampled_from(running))
            self.world.apps[name].status = "UNHEALTHY"
            for router in self.world.routers:
                router.knows.discard(name)

    @rule()
    def serve_is_wiped(self) -> None:
        """Ray itself was restarted: nothing is deployed any more."""
        self.world.apps.clear()
        self.world.routers.clear()

    @precondition(lambda self: self.world.routers)
    @rule(data=st.data(), what=st.sampled_from(["table", "send", "answer", "restart", "lose"]))
    def router_does(self, data: st.DataObject, what: str) -> None:
        router: Router = data.draw(st.sampled_from(self.world.routers))
        match what:
            case "table":
                self.world.advance_router(router)
            case "send":
                self.world.send(router)
            case "answer":
                router.ongoing.clear()
            case "restart":
                self.world.restart_router(router)
            case "lose":
                self.world.lose_router(router)

    @rule()
    def reports_are_lost_or_found(self) -> None:
        self.world.silent = not self.world.silent

    @rule(passed=st.sampled_from([timedelta(seconds=1), RETRY_FAILED_AFTER]))
    def time_passes(self, passed: timedelta) -> None:
        self.now += passed

    # What the control path does

    @rule()
    def control_path_stops_or_starts(self) -> None:
        self.away = not self.away

    @invariant()
    def after_every_step(self) -> None:
        if not self.away:
            self.reconcile()

    def reconcile(self) -> None:
        observed = self.world.observe(self.now)
        planned = self.plan(observed)
        self.check(observed, planned)
        if planned.changed:
            self.world.put(planned.config)

    def plan(self, observed: ObservedFleet) -> FleetPlan:
        if self.registry_up:
            self.resolved = {name: identity(self.alias[name], name) for name in self.models}
        resolutions: dict[str, Resolution] = {
            name: self.resolved[name]
            if self.registry_up
            else ResolutionProblem("RegistryUnreachable", "silence", self.resolved.get(name))
            for name in self.models
        }
        return plan(
            fleet=fleet(replicas=self.routers),
            models=list(self.models.values()),
            resolutions=resolutions,
            observed=observed,
            serve_options=OPTIONS,
            now=self.now,
            room=self.room(),
        )

    def room(self) -> Room | None:
        """None: everything has room."""
        if self.cpus is None:
            return None
        group = {"name": "cpu", "cpu": str(self.cpus)}
        return Room.of(ModelFleetSpec.model_validate({"workerGroups": [group]}))

    def check(self, observed: ObservedFleet, planned: FleetPlan) -> None:
        new = table_of(planned.config).models
        kept = {entry["name"] for entry in planned.config["applications"]}
        running = {name for name, app in self.world.apps.items() if app.status == "RUNNING"}
        everywhere = {
            name
            for name in running
            if len(self.world.routers) >= observed.router_target and all(name in r.knows for r in self.world.routers)
        }
        heard = {name for name in running if 0 < len(observed.routers) == _reach(observed, name)}
        old = observed.table.models if observed.table else {}

        for name, route in new.items():
            if not route.versions:
                ours = {app for app, found in live_apps(observed).items() if found.model == name}
                assert not ours & running, f"{name} runs and is not served"
                continue
            if all(row.leaving for row in route.versions):
                # One that Serve has given up on makes room for the next.
                assert not {row.app for row in route.versions} & running, f"{name} runs and is not served"
                continue
            assert sum(row.weight for row in route.versions) == 100
            before = {row.app for row in old[name].versions if row.weight} if name in old else set()
            after = {row.app for row in route.versions if row.weight}
            no_room = planned.admission is not None and name in planned.admission.refused
            # Where the wanted version has to wait for room, what Serve has given up on is left for anything that runs.
            spent = {
                a for a, found in self.world.apps.items() if found.status == "DEPLOY_FAILED" and not found.replicas
            }
            gone = {app for app, found in self.world.apps.items() if found.status == "DELETING"}
            alive = before & self.world.apps.keys() - gone - (spent if no_room else set())
            # Weight leaves a living version only for one that every router can reach; where none can reach the living
            # one, the routers that there are must do.
            better = everywhere if any(_reach(observed, app) for app in before) else heard
            mark = route.rollout
            # But for a rollback: nothing is better than the version before, whatever ails it.
            back = {mark.stable} if mark is not None else set()
            assert after - back <= before | better or not alive, (name, before, after)
            self.check_stages(name, observed, old, route, no_room=no_room)
            # Nor does it wait: a wanted version that every router can reach, and that has all its replicas, has it.
            immediate = name in self.models and self.models[name].spec.rollout.strategy == "Immediate"
            if self.registry_up and not self.world.silent and immediate:
                wanted = self.wanted(name)
                in_table = name in old and any(row.app == wanted for row in old[name].versions)
                grown = wanted in everywhere and self.world.apps[wanted].replicas >= self.models[name].spec.replicas
                assert after == {wanted} or not grown or not in_table

        for name in observed.apps.keys() - kept:
            for router in self.world.routers:
                sends = router.takes(name) or (router.ongoing[name] > 0 and name in router.knows)
                assert not sends, f"{router.name} still sends to {name}"

    def check_stages(
        self,
        name: str,
        observed: ObservedFleet,
        old: Mapping[str, ModelRoute],
        route: ModelRoute,
        *,
        no_room: bool,
    ) -> None:
        """A rollout comes to its end only from its last stage, and weight comes only stage by stage. A candidate that
        has no requests, and no longer has room, waits anew."""
        mark = old[name].rollout if name in old else None
        if mark is None or name not in self.models or not self.registry_up:
            return
        rollout = self.models[name].spec.rollout
        there = {mark.stable, mark.candidate} <= live_apps(observed).keys()
        if rollout.strategy == "Immediate" or mark.candidate != self.wanted(name) or not there or mark.ended:
            return
        had = sum(row.weight for row in old[name].versions if row.app == mark.candidate)
        has = sum(row.weight for row in route.versions if row.app == mark.candidate)
        if no_room and not had:
            return
        assert route.rollout is not None or had == 100, (name, mark)
        hopeless = mark.stage < 0 and self.world.apps[mark.stable].status != "RUNNING"
        between = [stage for stage in strategy.stages(rollout) if had < stage.weight < has]
        assert hopeless or not between, (name, had, has)

    def two_versions(self) -> int:
        """CPUs for the routers, and for two versions of each model: of the one that serves, and of the wanted one."""
        cpus = self.routers * fleet().spec.routers.cpu_count
        apps = live_apps(self.world.observe(self.now))
        for name, found in self.models.items():
            asked = [found.spec.resources.cpu_count]
            for app in apps.values():
                if app.model == name:
                    (deployment,) = app.observed.entry["deployments"]
                    asked.append(deployment["ray_actor_options"]["num_cpus"])
            cpus += found.spec.replicas * (found.spec.resources.cpu_count + max(asked))
        return math.ceil(cpus)

    def wanted(self, name: str) -> str:
        return app_name(self.alias[name], self.models[name])

    def come_to_rest(self) -> None:
        """Everything works from now on, with room for two versions of each model, long enough for all to be done."""
        self.registry_up, self.world.silent, self.cpus = True, False, self.two_versions()
        self.world.failing.clear()
        for _ in range(30):
            self.reconcile()
            self.now += timedelta(seconds=AT_REST_S)
            for name in sorted(self.world.apps):
                self.world.advance_app(name)
            for router in self.world.routers:
                router.ongoing.clear()
                self.world.advance_router(router)
                self.world.advance_router(router)
                self.world.send(router)
                router.ongoing.clear()

    def teardown(self) -> None:
        # Versions that are broken, or failed while they were, must change nothing but their own candidacy.
        self.come_to_rest()
        broken = {identity(number).model_id for number in range(1, 5)} & self.world.broken
        observed = self.world.observe(self.now)
        assert observed.table is not None
        assert observed.table.models.keys() == self.models.keys()
        for name in self.models:
            app = self.world.apps.get(self.wanted(name))
            failed = app is not None and app.status == "DEPLOY_FAILED"
            mark = observed.table.models[name].rollout
            failed = failed or (mark is not None and bool(mark.ended))
            if identity(self.alias[name]).model_id not in broken and not failed:
                assert {row.app: row.weight for row in observed.table.models[name].versions} == {self.wanted(name): 100}

        # And once they are mended, and tried again, there is nothing but what is wanted.
        self.world.broken.clear()
        self.now += RETRY_FAILED_AFTER
        for name, found in self.models.items():
            metadata = found.metadata.model_copy(update={"annotations": {RETRY_ANNOTATION: "now"}})
            self.models[name] = found.model_copy(update={"metadata": metadata})
        self.come_to_rest()
        assert self.world.apps.keys() == {ROUTER_APP, *map(self.wanted, self.models)}
        last = self.plan(self.world.observe(self.now))
        assert not last.changed
        assert last.requeue_after is None
        for planned in last.models:
            assert [one.status for one in planned.conditions] == ["True", "False", "False"], planned


def test_walk() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Walk,
        settings=settings(
            max_examples=150,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
