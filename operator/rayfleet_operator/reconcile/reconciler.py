"""One pass over one fleet: observe → plan → apply → status.

Nothing is remembered between passes but what makes them cheaper, and when an application was first seen to have failed.
Every decision is a pure function of `plan` or `render`; what is read and written is in `wanted`, `observe`, `apply` and
`report`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from rayfleet_operator.api.problems import described
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.controller import Result
from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.errors import Unreachable
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.kube.references import References
from rayfleet_operator.plan import capacity, deployment, fleet_conditions, switch
from rayfleet_operator.plan.observed import Resolution, ResolutionProblem
from rayfleet_operator.plan.switch import Clusters
from rayfleet_operator.reconcile import change, observe, report, wanted
from rayfleet_operator.reconcile.known import Known
from rayfleet_operator.reconcile.memory import BUSY_S, Memory
from rayfleet_operator.reconcile.tokens import TokenKey, operator_key
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.render import revision, standing
from rayfleet_operator.render.names import ENVIRONMENT_ANNOTATION, INPUTS_ANNOTATION, FleetName, annotation
from rayfleet_operator.resolutions import ModelKey, Resolutions
from rayfleet_operator.settings import Settings

logger = logging.getLogger(__name__)

Json = dict[str, Any]

WRITING = 0.6
"""Of the time for a pass, what writing a fleet's objects may take; statuses follow."""
RESOLVE_S = 60.0
"""For all models of one registry together. Nobody waits for it."""
LAST_REQUESTS_S = 30.0
"""Beyond the longest request, for a cluster that was replaced: kept connections move on, too."""
MOVING = "Moving"
"""A reason that no condition has: the model's new fleet tells."""
HELD = "a change of the pods waits until KubeRay has made the first Ray cluster its own"
ELSEWHERE_S = 10.0
"""Between looks at a model that moved to another fleet and does not answer there yet."""


def build(
    settings: Settings, client: KubeClient, references: References[FleetKey], queue: Callable[[FleetKey], None]
) -> FleetReconciler:
    """What the manager runs. `queue` has a fleet looked at again."""
    return FleetReconciler(settings, client, references, queue)


class FleetReconciler:
    """Reconciles any fleet; keep one for as long as the process runs. Made inside the event loop."""

    def __init__(
        self,
        settings: Settings,
        client: KubeClient,
        references: References[FleetKey],
        queue: Callable[[FleetKey], None],
    ) -> None:
        self._settings = settings
        self._client = client
        self._references = references
        self._queue = queue
        # Paths mean the pods' disks, which nobody can see from here; and no server gets to see credentials but its own.
        resolver = Resolver.from_environment(all_s=RESOLVE_S, local_files=False, share_credentials=False)
        self._resolutions = Resolutions(resolver, self._resolved)
        self._resolving = asyncio.create_task(self._resolutions.run(), name="resolutions")
        self._key: TokenKey | None = None
        self._memory: dict[FleetKey, Memory] = {}
        self._fleets: dict[tuple[str, str], FleetKey] = {}
        """Which fleet each model was followed for last, by namespace and name."""

    async def close(self) -> None:
        """Close every connection."""
        self._resolving.cancel()
        await asyncio.wait([self._resolving])
        for memory in self._memory.values():
            await memory.connections.close()

    def _resolved(self, model: ModelKey) -> None:
        if (fleet := self._fleets.get(model)) is not None:
            self._queue(fleet)

    async def reconcile(self, key: FleetKey) -> Result:
        """Raises KubeError, or a group of them; the caller tries again."""
        if self._resolving.done():
            # Without it no model would ever change, and nobody would notice.
            raise SystemExit(f"the registry is no longer asked: {self._resolving.exception()!r}")
        if self._key is None:
            self._key = await operator_key(self._client, self._settings.operator_namespace)
        asked = await wanted.read(self._client, FleetName(*key))
        if not asked.exists:
            return await self._without_fleet(key, asked)
        memory = self._memory.setdefault(key, Memory())
        found = await observe.children(self._client, asked.name, asked.owners)
        token, made_with = self._key.token(asked.name, found.auth_secret)
        now = datetime.now(UTC)
        clusters = await observe.clusters(found, memory.connections, token=token, before=memory.before, now=now)
        await memory.looked(clusters, now)
        outcome = change.Outcome()
        follow = switch.follow(clusters)
        begun = asyncio.get_running_loop().time()
        async with self._in_time(begun, outcome):
            await change.point(self._client, asked, found, follow, outcome)
        unheard = now - memory.heard if memory.heard is not None else None
        try:
            written = wanted.known_fields(asked.written)
            spec = wanted.fleet_spec(written, self._settings.fleet_defaults)
            inputs = revision.inputs_digest(written, asked.restart)
            fleet = wanted.as_fleet(asked.name, asked.fleet)
        except ValidationError as error:
            quiet = report.is_quiet(unheard)
            ready = fleet_conditions.readiness(clusters)
            await report.invalid_fleet(self._client, asked, described(error), None if quiet else ready, now)
            await report.fleet_missing(self._client, asked.name, asked.strangers, now)
            outcome.end()
            busy = quiet or clusters.next is not None
            return Result(requeue_after=BUSY_S if busy else None)
        kept = revision.rendered(found.revisions, found.taken, inputs)
        if kept is not None:
            spec = standing.meant(spec, kept, wanted.said(written))

        given = observe.given(found.ray_service)
        moving = await wanted.moving(self._client, asked, given.table.models if given.table is not None else ())
        models, invalid = wanted.parsed(asked.models)
        models = [wanted.with_server(model, self._resolutions.tracking_uri(model)) for model in models]
        # Moved to another fleet, and not yet answering there: they keep what they have here.
        leaving, _ = wanted.parsed(moving)
        known = Known.follow(
            self._references,
            key,
            [*models, *leaving],
            spec,
            before=observe.decoded(found.credentials_secret),
            unreadable={*invalid, *moving},
            serving=observe.with_credentials(given),
            digest=self._key.digest,
        )
        resolutions = self._resolved_models(key, models, known, invalid) | capacity.misfits(models, spec) | invalid
        resolutions |= {name: ResolutionProblem(MOVING, "it is served by another fleet soon") for name in moving}

        live_inputs = annotation(found.ray_service, INPUTS_ANNOTATION)
        deadline = timedelta(seconds=spec.progress_deadline_seconds)
        held = live_inputs not in ("", inputs) and switch.fragile(clusters, deadline, now)
        planned = deployment.plan_fleet(
            fleet=fleet.model_copy(update={"spec": spec}),
            models=[*models, *leaving],
            resolutions=resolutions,
            clusters=clusters,
            given=given,
            now=now,
            changing=held,
        )
        longest = max((model.spec.limits.request_timeout_seconds for model in [*models, *leaving]), default=0.0)
        to_change = change.Change(
            asked=asked,
            spec=spec,
            found=found,
            known=known,
            config=planned.config,
            longest_request_s=longest,
            token=token,
            made_with=made_with,
            inputs=inputs,
            kept=kept,
            held=held,
            network_policy=self._settings.network_policy,
            dashboard_clients=self._settings.dashboard_clients,
        )
        async with self._in_time(begun, outcome):
            await change.make(self._client, to_change, outcome)
        for name in memory.idle.over(clusters, follow, timedelta(seconds=longest + LAST_REQUESTS_S), now):
            uid = found.ray_clusters[name]["metadata"]["uid"]
            await outcome.of(self._client.delete(kinds.RAY_CLUSTER, key.namespace, name, uid=uid))

        refused = observe.refused_by_kuberay(found.ray_service)
        settled = await report.write(
            self._client,
            report.Facts(
                asked=asked,
                spec=spec,
                models=models,
                resolutions=resolutions,
                planned=planned,
                # Sorted: which of several writes ends first is chance, and must not look like news.
                refused=[*sorted(outcome.refused), *([refused] if refused is not None else [])],
                failed=sorted(str(error) for error in outcome.failed),
                address_taken=outcome.no_address,
                waits=HELD if held else None,
                stale_environment=known.stale(_environment(found, clusters)),
                unheard=unheard,
                now=now,
            ),
        )
        await report.fleet_missing(self._client, asked.name, asked.strangers, now)
        outcome.end()
        if settled and planned.requeue_after is None and not moving and len(clusters.by_name) == 1:
            return Result()
        return Result(requeue_after=memory.pause((planned.config, planned.models, planned.follow)))

    @asynccontextmanager
    async def _in_time(self, begun: float, outcome: change.Outcome) -> AsyncIterator[None]:
        """Bound what is written from `begun` on, so that statuses are told whatever hangs: an admission webhook may
        take half a minute for each object."""
        seconds = WRITING * self._settings.reconcile_deadline_s
        try:
            async with asyncio.timeout_at(begun + seconds) as deadline:
                yield
        except TimeoutError as error:
            if not deadline.expired():
                raise
            text = f"the API server, or a webhook that it asks, takes longer than {seconds:g} s"
            outcome.failed.append(Unreachable(f"cannot write the fleet's objects: {text}"))
            logger.debug("Given up", exc_info=error)

    def _resolved_models(
        self, key: FleetKey, models: list[ModelDeployment], known: Known, invalid: Mapping[str, object]
    ) -> dict[str, Resolution]:
        """What the registry says of each model that it is asked for."""
        others = {model: fleet for model, fleet in self._fleets.items() if fleet != key}
        self._fleets = others | {(key.namespace, model.metadata.name): key for model in models}
        self._resolutions.follow(key, [model for model in models if model.metadata.name not in invalid], known.access)
        resolutions: dict[str, Resolution] = {}
        for model in models:
            name = (key.namespace, model.metadata.name)
            # After a restart the registry has not been asked yet, and what it said to the process before still holds.
            if (resolution := self._resolutions.known(name) or self._resolutions.last(name)) is not None:
                resolutions[model.metadata.name] = resolution
        return resolutions

    async def _without_fleet(self, key: FleetKey, asked: wanted.Wanted) -> Result:
        """Nobody asks for this fleet. What it had goes with its owners; models that name it are told."""
        self._references.follow(key, frozenset())
        self._resolutions.forget(key)
        self._fleets = {model: fleet for model, fleet in self._fleets.items() if fleet != key}
        memory = self._memory.pop(key, None)
        if memory is not None:
            await memory.connections.close()
        await report.fleet_missing(self._client, asked.name, asked.models, datetime.now(UTC))
        if asked.elsewhere is None:
            return Result()
        # The model that had this fleet for its own names another one, and owns what is here as long as it lives.
        own = await observe.owned_only_by(self._client, asked.name, asked.elsewhere)
        if not own:
            return Result()
        if not wanted.answers(asked.elsewhere):
            return Result(requeue_after=ELSEWHERE_S)
        # What a Ray cluster needs to end comes last, once the cluster is gone and no longer among its owners.
        unneeded = [(kind, obj) for kind, obj in own if len(obj["metadata"]["ownerReferences"]) == 1]
        for kind, obj in unneeded:
            await self._client.delete(kind, key.namespace, obj["metadata"]["name"], uid=obj["metadata"]["uid"])
        return Result() if len(unneeded) == len(own) else Result(requeue_after=ELSEWHERE_S)


def _environment(found: observe.Children, clusters: Clusters) -> str | None:
    """What the pods that serve read when their cluster was made; None where that is not known."""
    serving = clusters.serving
    return annotation(found.ray_clusters[serving.name], ENVIRONMENT_ANNOTATION) if serving is not None else None
