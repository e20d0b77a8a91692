"""What is written into `.status`, in the API's own types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Literal, TypeVar

from pydantic import ValidationError

from rayfleet_operator.api.status import Condition as StatusCondition
from rayfleet_operator.api.status import (
    ModelDeploymentStatus,
    ModelFleetStatus,
    NamedModel,
    ResolvedModel,
    ScalingStatus,
    VersionStatus,
)
from rayfleet_operator.api.timestamp import stamp
from rayfleet_operator.api.traffic import NamedVersion
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import causes, conditions, history, places, rollback
from rayfleet_operator.plan.admission import Admission
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY, Condition, ConditionType
from rayfleet_operator.plan.fleet_conditions import FleetReason
from rayfleet_operator.plan.live import DEPLOY_FAILED, RUNNING, UNHEALTHY
from rayfleet_operator.plan.model import ModelPlan
from rayfleet_operator.plan.observed import Resolution, ResolutionProblem, identity_of
from rayfleet_operator.plan.pods import Trouble
from rayfleet_operator.plan.versions import DRAINING, FAILED, UNKNOWN, VersionPlan
from rayfleet_serving.config import ModelIdentity

MAX_VERSION_MESSAGE = 4096
MAX_MESSAGE = 32768


def model_status(
    model: ModelDeployment,
    planned: ModelPlan,
    *,
    url: str,
    resolution: Resolution | None,
    troubles: Sequence[Trouble],
    shortage: str | None,
    quiet: bool,
    now: datetime,
    refused: Trouble | None = None,
    address_taken: bool = False,
    named: Mapping[str, Resolution] = MappingProxyType({}),
) -> ModelDeploymentStatus:
    """
    Args:
        url: where the model answers.
        troubles: of the pods that it runs on, the first to be solved first.
        shortage: why some of its replicas find no room, if so.
        quiet: no router answered just now, but one did a moment ago.
        now: the time of this observation.
        refused: what of the fleet's objects could not be written, and why.
        address_taken: the Service that `url` names is somebody else's, or could not be written; `refused` says why.
        named: resolutions of the versions that its traffic names, by their names.
    """
    untold = any(version.state == UNKNOWN for version in planned.versions)
    # What Serve does not say just now is as it was.
    running = model.status.replicas if untold else sum(each.replicas_running or 0 for each in planned.versions)
    explained = causes.explain(planned, troubles, shortage, refused=refused, address_taken=address_taken)
    generation = model.metadata.generation
    if quiet and not address_taken:
        explained = causes.as_before(model.status.conditions, explained, generation)
    before = {version.app: version for version in model.status.versions}
    said = rollback.word_of(model)
    traffic = model.spec.traffic.versions if model.spec.traffic is not None else []
    back_to = said.to.model_id if said is not None and said.to is not None else None
    rolling, resolved = history.rollout_status(planned, model.status.rollout, now), _resolved(model, resolution)
    return ModelDeploymentStatus(
        observed_generation=generation,
        conditions=merged(model.status.conditions, explained, generation, now),
        url=url,
        resolved=resolved,
        replicas=running,
        scaling=_scaling(model, planned, untold=untold),
        versions=[_version(version, before.get(version.app)) for version in planned.versions][:16],
        # Of a spec that cannot be read nobody knows whether it still names them.
        traffic=model.status.traffic
        if not traffic and isinstance(resolution, ResolutionProblem) and resolution.held
        else [found for version in traffic if (found := _named(model, version, named.get(version.name)))],
        rollout=rolling,
        history=history.history(model.status, rolling, resolved, planned, now, back_to),
        written_back=model.status.written_back,
    )


def _scaling(model: ModelDeployment, planned: ModelPlan, *, untold: bool) -> ScalingStatus | None:
    """What is not known just now is as it was."""
    if planned.scaling is None:
        return model.status.scaling if untold and model.spec.autoscaling is not None else None
    told = planned.scaling
    return ScalingStatus(wanted=told.wanted, running=told.running, reason=told.reason)


def fleet_status(
    before: ModelFleetStatus,
    explained: Sequence[Condition],
    *,
    generation: int,
    url: str,
    models: int,
    cluster: str,
    upgrade_cluster: str,
    now: datetime,
    admission: Admission | None = None,
) -> ModelFleetStatus:
    """`admission` None: nobody knows what room there is."""
    return ModelFleetStatus(
        observed_generation=generation,
        conditions=merged(before.conditions, explained, generation, now),
        url=url,
        models=models,
        cluster=cluster,
        upgrade_cluster=upgrade_cluster,
        capacity=places.groups(admission) if admission is not None else [],
        waiting=places.waiting_models(admission) if admission is not None else [],
    )


def merged(
    before: Sequence[StatusCondition], wanted: Sequence[Condition], generation: int, now: datetime
) -> list[StatusCondition]:
    """Conditions in their form for the API server; the time stays where `status` does."""
    since = {(each.type, each.status): each.last_transition_time for each in before}
    return [
        StatusCondition(
            type=each.type,
            status=each.status,
            reason=each.reason,
            message=each.message[:MAX_MESSAGE],
            observed_generation=generation,
            last_transition_time=since.get((each.type, each.status), stamp(now)),
        )
        for each in wanted
    ]


def announced(
    found: ModelDeploymentStatus, before: ModelDeploymentStatus, text: str, now: datetime
) -> ModelDeploymentStatus:
    """The status of a model with a fleet of its own for which a new Ray cluster is to be built. What is under way of
    the model itself goes before that."""
    progressing = conditions.find(found.conditions, ConditionType.PROGRESSING)
    if progressing is None or progressing.status == "True":
        return found
    told = merged(
        before.conditions,
        [conditions.progressing(FleetReason.NEW_CLUSTER, text)],
        found.observed_generation,
        now,
    )
    others = [told[0] if each is progressing else each for each in found.conditions]
    return found.model_copy(update={"conditions": others})


def _resolved(model: ModelDeployment, resolution: Resolution | None) -> ResolvedModel | None:
    """What was resolved now; where the registry said nothing, what it said before about the same URI."""
    spec = model.spec.model
    identity = identity_of(resolution)
    if identity is None:
        before = model.status.resolved
        same = before is not None and (before.uri, before.tracking_uri) == (spec.uri, spec.registry.tracking_uri or "")
        # That no worker is large enough says nothing about the registry.
        silent = not isinstance(resolution, ResolutionProblem) or resolution.reason == INSUFFICIENT_CAPACITY
        return before if same and silent else None
    return _meant(ResolvedModel, identity, uri=spec.uri, tracking_uri=spec.registry.tracking_uri or "")


def _named(model: ModelDeployment, version: NamedVersion, resolution: Resolution | None) -> NamedModel | None:
    """The same of a version that its traffic names. As long as nothing is known of its URI, what was known stays."""
    identity, server = identity_of(resolution), model.spec.model.registry.tracking_uri or ""
    if identity is None:
        before = next((each for each in model.status.traffic if each.name == version.name), None)
        same = before is not None and (before.uri, before.tracking_uri) == (version.uri, server)
        return before if same and resolution is None else None
    return _meant(NamedModel, identity, name=version.name, uri=version.uri, tracking_uri=server)


Meant = TypeVar("Meant", bound=ResolvedModel)


def _meant(kind: type[Meant], identity: ModelIdentity, **fields: str) -> Meant | None:
    try:
        return kind(
            **fields,
            version=identity.version,
            model_id=identity.model_id,
            artifact_uri=identity.artifact_uri,
            digest=identity.digest or "",
        )
    except ValidationError:
        # Longer than a status may be. What is cut off would be another model after a restart.
        return None


def _version(version: VersionPlan, before: VersionStatus | None) -> VersionStatus:
    state: Literal["Starting", "Ready", "Unhealthy", "Draining", "Failed"] = "Starting"
    if version.state == RUNNING:
        state = "Ready"
    elif version.state == DRAINING:
        state = "Draining"
    elif version.state == UNHEALTHY or (version.state == DEPLOY_FAILED and version.replicas_running):
        # Serve calls an application failed, too, whose older replicas answer.
        state = "Unhealthy"
    elif version.state == DEPLOY_FAILED or version.failure is not None:
        state = FAILED
    message = version.message if version.failure is None else version.failure
    if version.state == UNKNOWN and before is not None:
        state, message = before.state, before.message
    return VersionStatus(
        # The registry's words, however long; the application's name tells versions apart.
        name=version.version[:64],
        model_id=version.model_id[:128],
        app=version.app,
        traffic=version.name,
        weight=version.weight,
        mirror=version.mirror,
        state=state,
        message=message[:MAX_VERSION_MESSAGE],
    )
