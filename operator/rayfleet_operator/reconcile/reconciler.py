"""One pass over one fleet: observe → plan → apply → status.

Nothing is remembered between passes but what makes them cheaper, and when an application was first seen to have failed.
Every decision is a pure function of `plan` or `render`; what is read and written is in `wanted`, `observe`, `apply` and
`report`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from rayfleet_operator.api.problems import described
from rayfleet_operator.controller import Result
from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.errors import Unreachable
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.kube.references import References
from rayfleet_operator.plan import capacity, deployment, fleet_conditions, switch
from rayfleet_operator.plan.measured import Question, questions
from rayfleet_operator.plan.observed import ObservedFleet, ResolutionProblem
from rayfleet_operator.prometheus.client import Prometheus
from rayfleet_operator.reconcile import change, observe, report, waiting, wanted
from rayfleet_operator.reconcile.announcement import announcement
from rayfleet_operator.reconcile.decision import Decision, Meant, Seen
from rayfleet_operator.reconcile.followed import FollowedModels
from rayfleet_operator.reconcile.known import Known
from rayfleet_operator.reconcile.memory import BUSY_S, Memory
from rayfleet_operator.reconcile.tokens import TokenKey, operator_key
from rayfleet_operator.render.names import INPUTS_ANNOTATION, FleetName, annotation
from rayfleet_operator.settings import Settings
from rayfleet_operator.write_back import noticed

logger = logging.getLogger(__name__)

WRITING = 0.6
"""Of the time for a pass, what writing a fleet's objects may take; statuses follow."""
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
        self._prometheus = Prometheus(settings.prometheus.url, settings.prometheus.token_file)
        self._followed = FollowedModels(queue)
        self._key: TokenKey | None = None
        self._memory: dict[FleetKey, Memory] = {}

    async def close(self) -> None:
        """Close every connection."""
        await self._followed.close()
        for memory in self._memory.values():
            await memory.close()
        await self._prometheus.close()

    def wake(self, registered_model: str) -> None:
        """Ask the registry soon for the models whose URI names this registered model."""
        self._followed.wake(registered_model)

    async def reconcile(self, key: FleetKey) -> Result:
        """Raises KubeError, or a group of them; the caller tries again."""
        self._followed.check()
        asked = await wanted.read(self._client, FleetName(*key))
        if not asked.exists:
            return await self._without_fleet(key, asked)
        memory = self._memory.setdefault(key, Memory())
        seen = await self._observe(asked, memory)
        outcome, follow = change.Outcome(), switch.follow(seen.clusters)
        begun = asyncio.get_running_loop().time()
        async with self._in_time(begun, outcome):
            await change.point(self._client, asked, seen.found, follow, outcome)
        try:
            meant = Meant.of(asked, seen.found, self._settings.fleet_defaults)
        except ValidationError as error:
            pause = await self._tell_invalid(asked, seen, described(error))
            outcome.end()
            return Result(requeue_after=pause)

        decision = await self._decide(key, asked, seen, meant)
        wants = self._change(asked, seen, meant, decision)
        told, memory.said = announcement(wants, seen.clusters, self._settings.fleet_defaults, memory.said)
        if told is not None and told.first:
            wants = replace(wants, announced=True)
        async with self._in_time(begun, outcome):
            await change.make(self._client, wants, outcome)
        unused = timedelta(seconds=decision.longest_request_s + LAST_REQUESTS_S)
        for name in memory.idle.over(seen.clusters, follow, unused, seen.now):
            uid = seen.found.ray_clusters[name]["metadata"]["uid"]
            await outcome.of(self._client.delete(kinds.RAY_CLUSTER, key.namespace, name, uid=uid))

        settled = await self._report(asked, seen, meant, decision, outcome, told.text if told is not None else None)
        outcome.end()
        return waiting.result(memory, decision, told, settled=settled)

    async def _observe(self, asked: wanted.Wanted, memory: Memory) -> Seen:
        if self._key is None:
            self._key = await operator_key(self._client, self._settings.operator_namespace)
        found = await observe.children(self._client, asked.name, asked.owners)
        token, made_with = self._key.token(asked.name, found.auth_secret)
        given, now = observe.given(found.ray_service), datetime.now(UTC)
        # At once: what a Prometheus that is down takes is then no more than what a Ray that is down takes.
        clusters, measured = await asyncio.gather(
            observe.clusters(
                found,
                memory.connections,
                token=token,
                before=memory.before,
                was_ready=asked.ready,
                now=now,
            ),
            memory.measuring.measured(self._prometheus, _asked(asked, given, now)),
        )
        await memory.looked(clusters, now)
        return Seen(
            found=found,
            clusters=clusters,
            given=given,
            measured=measured,
            unheard=now - memory.silent if memory.silent is not None else None,
            token=token,
            made_with=made_with,
            digest=self._key.digest,
            now=now,
        )

    async def _decide(self, key: FleetKey, asked: wanted.Wanted, seen: Seen, meant: Meant) -> Decision:
        """What the fleet should be, from what is known of it and of its models."""
        given = seen.given
        moving = await wanted.moving(self._client, asked, given.table.models if given.table is not None else ())
        models, invalid = wanted.parsed(asked.models)
        models = self._followed.with_servers(models)
        # Moved to another fleet, and not yet answering there: they keep what they have here.
        leaving, _ = wanted.parsed(moving)
        known = Known.follow(
            self._references,
            key,
            [*models, *leaving],
            meant.spec,
            before=observe.decoded(seen.found.credentials_secret),
            unreadable={*invalid, *moving},
            serving=observe.with_credentials(given),
            digest=seen.digest,
        )
        resolutions = self._followed.follow(key, models, known.access, but=invalid.keys())
        models, notices = self._followed.write_back(key, models, known.access, but=invalid.keys())
        resolutions |= capacity.misfits(models, meant.spec) | invalid
        elsewhere = ResolutionProblem(MOVING, "it is served by another fleet soon", held=True)
        resolutions |= dict.fromkeys(moving, elsewhere)
        live_inputs = annotation(seen.found.ray_service, INPUTS_ANNOTATION)
        deadline = timedelta(seconds=meant.spec.progress_deadline_seconds)
        held = live_inputs not in ("", meant.inputs) and switch.fragile(seen.clusters, deadline, seen.now)
        planned = deployment.plan_fleet(
            fleet=meant.fleet,
            models=[*models, *leaving],
            resolutions=resolutions,
            clusters=seen.clusters,
            given=given,
            now=seen.now,
            changing=held,
            measured=seen.measured,
        )
        return Decision(
            models=models,
            leaving=leaving,
            moving=moving,
            resolutions=resolutions,
            known=known,
            held=held,
            planned=replace(planned, models=noticed(planned.models, notices)),
        )

    def _change(self, asked: wanted.Wanted, seen: Seen, meant: Meant, decision: Decision) -> change.Change:
        return change.Change(
            asked=asked,
            spec=meant.spec,
            found=seen.found,
            known=decision.known,
            config=decision.planned.config,
            longest_request_s=decision.longest_request_s,
            token=seen.token,
            made_with=seen.made_with,
            inputs=meant.inputs,
            kept=meant.kept,
            gpu_sharing=meant.gpu_sharing,
            held=decision.held,
            announced=False,
            network_policy=self._settings.network_policy,
            dashboard_clients=self._settings.dashboard_clients,
        )

    async def _report(
        self,
        asked: wanted.Wanted,
        seen: Seen,
        meant: Meant,
        decision: Decision,
        outcome: change.Outcome,
        announced: str | None,
    ) -> bool:
        """Returns whether everything is at rest."""
        refused = observe.refused_by_kuberay(seen.found.ray_service)
        settled = await report.write(
            self._client,
            report.Facts(
                asked=asked,
                spec=meant.spec,
                models=decision.models,
                resolutions=decision.resolutions,
                planned=decision.planned,
                # Sorted: which of several writes ends first is chance, and must not look like news.
                refused=[*sorted(outcome.refused), *([refused] if refused is not None else [])],
                failed=sorted(str(error) for error in outcome.failed),
                address_taken=outcome.no_address,
                waits=HELD if decision.held else None,
                announced=announced,
                stale_environment=decision.known.stale(seen.environment),
                unheard=seen.unheard,
                now=seen.now,
            ),
        )
        await report.fleet_missing(self._client, asked.name, asked.strangers, seen.now)
        return settled

    async def _tell_invalid(self, asked: wanted.Wanted, seen: Seen, message: str) -> float | None:
        """Nothing can be decided for this fleet. Returns when to look again, in seconds."""
        quiet = report.is_quiet(seen.unheard, seen.clusters)
        ready = None if quiet else fleet_conditions.readiness(seen.clusters)
        await report.invalid_fleet(self._client, asked, message, ready, seen.now)
        await report.fleet_missing(self._client, asked.name, asked.strangers, seen.now)
        serving = seen.clusters.serving
        awaited = serving is not None and serving.ready_workers > 0 and not seen.clusters.reached
        return BUSY_S if quiet or awaited or seen.clusters.next is not None else None

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

    async def _without_fleet(self, key: FleetKey, asked: wanted.Wanted) -> Result:
        """Nobody asks for this fleet. What it had goes with its owners; models that name it are told."""
        self._references.follow(key, frozenset())
        self._followed.forget(key)
        memory = self._memory.pop(key, None)
        if memory is not None:
            await memory.close()
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


def _asked(asked: wanted.Wanted, given: ObservedFleet, now: datetime) -> dict[Question, str]:
    """What Prometheus is to be asked of the models whose requests are divided between two versions, or were just now;
    the others need not be read for it."""
    rows = given.table.models if given.table is not None else {}
    rolling = {name: obj for name, obj in asked.models.items() if name in rows and rows[name].rollout is not None}
    return questions(wanted.parsed(rolling)[0], rows, now)
