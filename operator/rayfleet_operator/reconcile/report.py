"""Statuses and events of a fleet and its models, written when they say something new."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.status import Condition as StatusCondition
from rayfleet_operator.api.status import ModelDeploymentStatus, ModelFleetStatus
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.errors import Conflict, NotFound
from rayfleet_operator.kube.kinds import Kind
from rayfleet_operator.plan import causes, conditions, events, fleet_conditions, named, status
from rayfleet_operator.plan.conditions import Condition, ConditionType, Reason
from rayfleet_operator.plan.deployment import Deployment
from rayfleet_operator.plan.fleet_conditions import FleetReason
from rayfleet_operator.plan.observed import Resolution
from rayfleet_operator.plan.pods import Trouble
from rayfleet_operator.plan.switch import Clusters
from rayfleet_operator.reconcile import apply, wanted
from rayfleet_operator.render.names import FleetName

Json = dict[str, Any]

ACTION = "Reconcile"
QUIET = timedelta(seconds=15)
"""How long a Ready model is still called so while no router answers the operator."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the statuses are made of."""

    asked: wanted.Wanted
    spec: ModelFleetSpec
    models: Sequence[ModelDeployment]
    resolutions: Mapping[str, Resolution]
    planned: Deployment
    refused: Sequence[str]
    """Why the API server or KubeRay does not take some of the fleet's objects."""
    failed: Sequence[str]
    """Why others could not be written just now."""
    address_taken: bool
    """The Service is not ours, or was not taken, or is not there."""
    waits: str | None
    """Why a change of the pods waits, if it does."""
    announced: str | None
    """Which new Ray cluster KubeRay is asked for next, if one is."""
    stale_environment: Sequence[str]
    unheard: timedelta | None
    """How long no router that serves has answered, as far as was looked; None while some do."""
    now: datetime

    @property
    def quiet(self) -> bool:
        """Nothing was heard just now, but a moment ago: one lost answer is no outage."""
        return is_quiet(self.unheard, self.planned.clusters)


def is_quiet(unheard: timedelta | None, clusters: Clusters) -> bool:
    """Whether routers do not answer just now, and still may: not where no worker is ready that stays. `unheard` is None
    while they answer."""
    if unheard is None or clusters.serving is None or not clusters.serving.ready_workers:
        return False
    return unheard < QUIET


async def write(client: KubeClient, facts: Facts) -> bool:
    """Returns whether everything is at rest: nothing under way, nothing that is not ready. Raises KubeError."""
    clusters, name = facts.planned.clusters, facts.asked.name
    before = wanted.fleet_status(facts.asked.fleet or {})
    of_fleet: tuple[Condition, ...] = fleet_conditions.conditions_of(
        clusters,
        refused="; ".join(facts.refused) or None,
        failed="; ".join(facts.failed) or None,
        waits=facts.waits,
        announced=_announced(facts),
        stale_environment=facts.stale_environment,
        deadline=timedelta(seconds=facts.spec.progress_deadline_seconds),
        before=before.conditions,
        now=facts.now,
    )
    if facts.quiet and facts.asked.fleet is not None:
        generation = facts.asked.fleet["metadata"]["generation"]
        of_fleet = causes.as_before(before.conditions, of_fleet, generation)
    serving = clusters.serving
    troubles = list(serving.troubles) if serving is not None else []
    admission = facts.planned.admission
    plans = {each.name: each for each in facts.planned.models}
    written = []
    # What was lost a moment ago must be looked for soon.
    at_rest = of_fleet[0].status == "True" and of_fleet[1].status == "False" and not facts.quiet
    for model in facts.models:
        model_status = status.model_status(
            model,
            plans[model.metadata.name],
            url=name.url(model.metadata.name),
            resolution=facts.resolutions.get(model.metadata.name),
            named=named.known(model, facts.resolutions),
            troubles=troubles,
            shortage=admission.shortage(model.metadata.name) if admission is not None else None,
            refused=_unwritten(facts),
            address_taken=facts.address_taken,
            quiet=facts.quiet,
            now=facts.now,
        )
        if facts.asked.fleet is None and (announced := _announced(facts)) is not None:
            # No other status tells of a fleet of a model's own.
            model_status = status.announced(model_status, model.status, announced, facts.now)
        at_rest = at_rest and _at_rest(model_status.conditions)
        obj = facts.asked.models[model.metadata.name]
        written.append(_write(client, kinds.MODEL_DEPLOYMENT, obj, model.status.conditions, model_status))
    if facts.asked.fleet is not None:
        after = status.fleet_status(
            before,
            of_fleet,
            generation=facts.asked.fleet["metadata"]["generation"],
            url=name.url(),
            models=len(facts.models),
            cluster=serving.name if serving is not None else "",
            upgrade_cluster=clusters.next.name if clusters.next is not None else "",
            now=facts.now,
            admission=admission,
        )
        written.append(_write(client, kinds.MODEL_FLEET, facts.asked.fleet, before.conditions, after))
    await _all(written)
    return at_rest


def _announced(facts: Facts) -> str | None:
    """A cluster that is refused is not built."""
    return None if facts.refused else facts.announced


def _unwritten(facts: Facts) -> Trouble | None:
    """What models are told about the fleet's objects: first what only a person can put right."""
    if facts.refused:
        return Trouble(FleetReason.RAY_SERVICE_REFUSED, "; ".join(facts.refused))
    return Trouble(FleetReason.WRITE_FAILED, "; ".join(facts.failed)) if facts.failed else None


async def _all(writing: Sequence[Awaitable[None]]) -> None:
    """Every status, whatever becomes of the others. Raises the first KubeError that another try may mend."""
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    for outcome in outcomes:
        # Deleted or made anew since it was read: another pass will know.
        if isinstance(outcome, BaseException) and not isinstance(outcome, NotFound | Conflict):
            raise outcome


def _at_rest(found: Sequence[StatusCondition]) -> bool:
    ready, progressing = conditions.find(found, ConditionType.READY), conditions.find(found, ConditionType.PROGRESSING)
    return ready is not None and ready.status == "True" and progressing is not None and progressing.status == "False"


async def fleet_missing(client: KubeClient, name: FleetName, models: Mapping[str, Json], now: datetime) -> None:
    """Tell the models that name a fleet that is not there. Raises KubeError."""
    message = f"there is no ModelFleet {name.name} in namespace {name.namespace}; make one, or leave fleet out"
    await _same_for_all(client, models, Reason.FLEET_NOT_FOUND, message, now)


async def invalid_fleet(
    client: KubeClient, asked: wanted.Wanted, message: str, ready: Condition | None, now: datetime
) -> None:
    """Tell the fleet and its models that the fleet's spec and the defaults together are none. Raises KubeError.

    Args:
        ready: whether the fleet answers all the same; None where that was not heard just now.
    """
    await _same_for_all(client, asked.models, Reason.INVALID_FLEET, message, now, ready)
    if asked.fleet is None:
        return
    before = wanted.fleet_status(asked.fleet)
    after = before.model_copy(
        update={
            "observed_generation": asked.fleet["metadata"]["generation"],
            "conditions": status.merged(
                before.conditions,
                _held(before.conditions, Reason.INVALID_FLEET, message, ready),
                asked.fleet["metadata"]["generation"],
                now,
            ),
        }
    )
    await _write(client, kinds.MODEL_FLEET, asked.fleet, before.conditions, after)


async def _same_for_all(
    client: KubeClient,
    objects: Mapping[str, Json],
    reason: str,
    message: str,
    now: datetime,
    ready: Condition | None = None,
) -> None:
    models, _ = wanted.parsed(objects)
    await _all(
        [
            _write(
                client,
                kinds.MODEL_DEPLOYMENT,
                objects[model.metadata.name],
                model.status.conditions,
                model.status.model_copy(
                    update={
                        "observed_generation": model.metadata.generation,
                        "conditions": status.merged(
                            model.status.conditions,
                            _held(model.status.conditions, reason, message, ready),
                            model.metadata.generation,
                            now,
                        ),
                    }
                ),
            )
            for model in models
        ]
    )


def _held(
    before: Sequence[StatusCondition], reason: str, message: str, fleet: Condition | None
) -> tuple[Condition, ...]:
    """Nothing can be decided. What was answered before still is, since nothing that serves was touched, as long as the
    fleet answers; `fleet` is its Ready, None where nobody knows better."""
    was = conditions.find(before, ConditionType.READY)
    if was is None or was.status == "False" or reason == Reason.FLEET_NOT_FOUND:
        ready = conditions.ready("False", reason, message)
    elif fleet is not None and (fleet.status != "True" or was.reason == Reason.SERVICE_UNREACHABLE):
        # That was the fleet's alone to say, of a model that answers otherwise.
        ready = fleet
    else:
        # What could not be told before is not told by the fleet alone.
        ready = conditions.ready(was.status, was.reason, was.message)
    return ready, conditions.resting(reason, message), conditions.degraded([(reason, message)])


async def _write(
    client: KubeClient,
    kind: Kind,
    obj: Json,
    before: Sequence[StatusCondition],
    after: ModelDeploymentStatus | ModelFleetStatus,
) -> None:
    """Events follow only after the status was saved, so that none is told twice."""
    body = after.model_dump(mode="json", by_alias=True, exclude_none=True)
    if not await apply.status(client, kind, obj, body):
        return
    for note in events.events(before, after.conditions):
        await client.event(obj, reason=note.reason, action=ACTION, note=note.message, type=note.type)
