"""observe → plan → apply → status, again and again, until it is cancelled.

A pass is due when the files or the registry changed, when the planner asked for one, and every few seconds to see how
things are. Nothing is decided here: that is `plan`'s. Whatever fails is shown and tried again; what serves goes on.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from rayfleet_operator.api.problems import harmless
from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.api.types import ModelDeployment, ModelDeploymentSpec
from rayfleet_operator.local.commands import Commands
from rayfleet_operator.local.resolutions import Resolutions
from rayfleet_operator.local.sources import Sources, of_any_kind, on_one_machine
from rayfleet_operator.local.state import ShownCondition, ShownModel, ShownVersion, Status
from rayfleet_operator.plan import causes, named, places, scaling, serve_config, status, strategy
from rayfleet_operator.plan.admission import Admission
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.measured import questions
from rayfleet_operator.plan.model import ModelPlan
from rayfleet_operator.plan.observed import ObservedFleet
from rayfleet_operator.plan.places import Places
from rayfleet_operator.plan.room import Room
from rayfleet_operator.plan.serve_config import ServeOptions
from rayfleet_operator.prometheus.client import Prometheus
from rayfleet_operator.prometheus.measuring import Measuring
from rayfleet_operator.ray import observe
from rayfleet_operator.ray.nodes import NodeClient
from rayfleet_operator.ray.routers import RouterClient
from rayfleet_operator.ray.serve import ServeClient, ServeError, ServeRejected
from rayfleet_operator.write_back import noticed

LOOK_S = 2.0
"""Between passes while nothing is under way."""
RETRY_S = 1.0
"""After Ray did not answer."""
NODES_S = 10.0
"""Between two looks at what Ray's nodes offer."""
TRIES = 5
"""How often Ray may fail to tell what its nodes offer before nothing is said of room."""
REFUSED_S = 10.0
"""After Serve refused a config: only another config, or another Serve, will help."""


class Loop:
    """`publish` is called with every new status."""

    def __init__(
        self,
        *,
        sources: Sources,
        resolutions: Resolutions,
        serve: ServeClient,
        routers: RouterClient,
        prometheus: Prometheus,
        options: ServeOptions,
        publish: Callable[[Status], None],
        commands: Commands,
        url: str,
        nodes: NodeClient,
    ) -> None:
        self._sources = sources
        self._resolutions = resolutions
        self._serve = serve
        self._routers = routers
        self._prometheus = prometheus
        self._measuring = Measuring()
        self._options = options
        self._publish = publish
        self._commands = commands
        self._url = url
        self._nodes = Nodes(nodes)
        self._places: Places | None = None
        self._statuses: dict[str, ModelDeploymentStatus] = {}
        self._models: tuple[ShownModel, ...] = ()
        self._observed = ObservedFleet()
        self._looked_at = datetime.now(UTC)

    async def run(self) -> None:
        """Runs until cancelled."""
        self._resolutions.follow(self._sources.wanted.models)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sources.follow())
                tasks.create_task(self._resolutions.run())
                while True:
                    wait = await self._pass()
                    await self._until_due(wait)
        finally:
            await self._measuring.close()

    async def _pass(self) -> float:
        """One pass; returns the seconds until the next is due by itself."""
        try:
            wait = await self._reconcile()
        except ServeError as error:
            self._show(harmless(f"Ray: {error}"))
            wait = REFUSED_S if isinstance(error, ServeRejected) else RETRY_S
        except Exception as error:
            # Ending here would end every model; the next edit or answer may be one that works.
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"rayfleet failed: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            self._show(harmless(what))
            wait = REFUSED_S
        return wait

    async def _reconcile(self) -> float:
        wanted = self._sources.wanted
        applications, routers, room = await asyncio.gather(
            self._serve.applications(), self._routers.states(), self._nodes.room()
        )
        now = datetime.now(UTC)
        asked_for = map(of_any_kind, self._commands.applied(wanted.models))
        models, notices = self._resolutions.write_back(map(self._with_status, asked_for))
        self._observed = observe.fleet(applications, routers, self._observed, now)
        table = self._observed.table
        asked = questions(models, table.models if table is not None else {}, now)
        measured = await self._measuring.measured(self._prometheus, asked)
        decided = plan(
            fleet=on_one_machine(wanted.fleet),
            models=models,
            resolutions=self._resolutions.known,
            observed=self._observed,
            serve_options=self._options,
            now=now,
            measured=measured,
            room=room,
        )
        if decided.changed:
            await self._serve.put(serve_config.canonical(decided.config))
        decided = replace(decided, models=short(noticed(decided.models, notices), decided.admission))
        # Only now is it what serves: what Serve did not take must not be shown as if it had.
        self._models, self._looked_at = self._shown(decided), now
        self._places = places.of(decided.admission) if decided.admission is not None else None
        self._statuses = self._told(models, decided, now)
        self._show()
        return LOOK_S if decided.requeue_after is None else min(decided.requeue_after, LOOK_S)

    async def _until_due(self, wait: float) -> None:
        events = (self._sources.changed, self._resolutions.changed)
        tasks = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(tasks, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if self._sources.changed.is_set():
            self._resolutions.follow(self._sources.wanted.models)
        for event in events:
            event.clear()

    def _show(self, problem: str | None = None) -> None:
        problems = (*([problem] if problem else []), *self._sources.wanted.problems)
        read = self._sources.read_at
        self._publish(
            Status(
                models=self._models,
                problems=problems,
                files_read=read,
                statuses=self._statuses,
                updated=self._looked_at,
                places=self._places,
            )
        )

    def _told(
        self, models: Sequence[ModelDeployment], decided: FleetPlan, now: datetime
    ) -> dict[str, ModelDeploymentStatus]:
        planned = {each.name: each for each in decided.models}
        return {
            (name := model.metadata.name): status.model_status(
                model,
                planned[name],
                url=f"{self._url}/{name}",
                resolution=self._resolutions.known.get(name),
                named=named.known(model, self._resolutions.known),
                troubles=(),
                shortage=None,
                quiet=False,
                now=now,
            )
            for model in models
        }

    def _with_status(self, model: ModelDeployment) -> ModelDeployment:
        """The model with what was told of it last."""
        told = self._statuses.get(model.metadata.name, ModelDeploymentStatus())
        return model.model_copy(update={"status": told})

    def _shown(self, decided: FleetPlan) -> tuple[ShownModel, ...]:
        specs = {model.metadata.name: model.spec for model in self._sources.wanted.models}
        before = {model.name: model for model in self._models}
        return tuple(_shown_model(model, specs.get(model.name), before.get(model.name)) for model in decided.models)


class Nodes:
    """What Ray's nodes offer, asked for now and then: a Ray of our own never changes, one that was joined may."""

    def __init__(self, client: NodeClient) -> None:
        self._client = client
        self._known: Room | None = None
        self._asked = float("-inf")
        self._failures = 0

    async def room(self) -> Room | None:
        """None where this Ray does not tell. Raises ServeError where it may tell another time: before it was asked
        once, nobody should be let in."""
        if time.monotonic() - self._asked < NODES_S:
            return self._known
        try:
            self._known = await self._client.room()
        except ServeError:
            self._failures += 1
            if self._known is None and self._failures < TRIES:
                raise
        self._asked = time.monotonic()
        return self._known


def short(models: Sequence[ModelPlan], admission: Admission | None) -> tuple[ModelPlan, ...]:
    """The models, told of replicas for which there is no room."""
    found = []
    for model in models:
        lacking = admission.shortage(model.name) if admission is not None else None
        if lacking is not None:
            ready, progressing, _ = model.conditions
            *_, degraded = causes.explain(model, (), lacking)
            model = replace(model, conditions=(ready, progressing, degraded))
        found.append(model)
    return tuple(found)


def _shown_model(model: ModelPlan, spec: ModelDeploymentSpec | None, before: ShownModel | None) -> ShownModel:
    """`spec` None: the model is deleted, and only its last requests are left."""
    conditions = tuple(
        ShownCondition(type=each.type, status=each.status, reason=each.reason, message=each.message)
        for each in model.conditions
    )
    same = before is not None and [(each.status, each.reason) for each in before.conditions] == [
        (each.status, each.reason) for each in conditions
    ]
    return ShownModel(
        name=model.name,
        uri=spec.model.uri if spec is not None else "",
        stages=strategy.stages(spec.rollout) if spec is not None else (),
        conditions=conditions,
        versions=tuple(
            ShownVersion(
                version=each.version,
                model_id=each.model_id,
                weight=each.weight,
                state=each.state,
                message=each.message,
                replicas_running=each.replicas_running,
                replicas_target=each.replicas_target,
                name=each.name,
                mirror=each.mirror,
            )
            for each in model.versions
        ),
        scaling=scaling.line(model.scaling),
        since=before.since if same and before is not None else datetime.now(UTC),
    )
