"""What is written into `.status`, and the events that a change of it is worth.

A layer that knows better speaks first: the registry, then the model's own failure, then the pods, then the sums of what
is asked for; only where none of them has anything to say, the words are Serve's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    VersionStatus,
)
from rayfleet_operator.api.timestamp import stamp
from rayfleet_operator.api.traffic import NamedVersion
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import capacity, conditions, history, rollback
from rayfleet_operator.plan.conditions import Condition, ConditionType, Reason
from rayfleet_operator.plan.fleet_conditions import FleetReason
from rayfleet_operator.plan.live import DEPLOY_FAILED, RUNNING, UNHEALTHY
from rayfleet_operator.plan.model import ModelPlan
from rayfleet_operator.plan.observed import Resolution, ResolutionProblem, identity_of
from rayfleet_operator.plan.pods import Trouble
from rayfleet_operator.plan.versions import DRAINING, FAILED, UNKNOWN, VersionPlan
from rayfleet_serving.config import ModelIdentity

MAX_VERSION_MESSAGE = 4096
MAX_MESSAGE = 32768

ENDS = (RUNNING, DRAINING, DEPLOY_FAILED, UNHEALTHY)
"""States of a version in which it has started, or has failed to: those of others are on their way."""

STAGES = (Reason.HOLDING, Reason.INCONCLUSIVE, Reason.PAUSED)
"""A candidate has arrived at a stage, or waits there."""

NO_ADDRESS = Trouble("NameTaken", "the Service at the fleet's address is not the fleet's")
"""Where nobody says what is the matter with it."""


@dataclass(frozen=True)
class EventNote:
    """One Kubernetes event."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


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
        shortage: from `capacity.shortage`.
        quiet: no router answered just now, but one did a moment ago.
        now: the time of this observation.
        refused: what of the fleet's objects could not be written, and why.
        address_taken: the Service that `url` names is somebody else's, or could not be written; `refused` says why.
        named: resolutions of the versions that its traffic names, by their names.
    """
    untold = any(version.state == UNKNOWN for version in planned.versions)
    # What Serve does not say just now is as it was.
    running = model.status.replicas if untold else sum(each.replicas_running or 0 for each in planned.versions)
    short = _said_to_be_short(model) if untold else _short(planned)
    explained = explain(
        planned,
        troubles,
        shortage,
        # Serve may not have heard yet of what the spec asks for.
        short=short or running < model.spec.replicas,
        refused=refused,
        address_taken=address_taken,
    )
    generation = model.metadata.generation
    if quiet and not address_taken:
        explained = as_before(model.status.conditions, explained, generation)
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
        versions=[_version(version, before.get(version.app)) for version in planned.versions][:16],
        # Of a spec that cannot be read nobody knows whether it still names them.
        traffic=model.status.traffic
        if not traffic and isinstance(resolution, ResolutionProblem) and resolution.held
        else [found for version in traffic if (found := _named(model, version, named.get(version.name)))],
        rollout=rolling,
        history=history.history(model.status, rolling, resolved, planned, now, back_to),
        written_back=model.status.written_back,
    )


def as_before(
    before: Sequence[StatusCondition], wanted: tuple[Condition, ...], generation: int
) -> tuple[Condition, ...]:
    """Ready, Progressing and Degraded where an answer was lost: Ready stays True where it was, and what this generation
    settled to stays settled where it would only wait for routers."""
    ready, progressing, degraded = wanted
    was = conditions.find(before, ConditionType.READY)
    if was is not None and was.status == "True" and ready.status != "True":
        ready = conditions.ready("True", was.reason, was.message)
    was = conditions.find(before, ConditionType.PROGRESSING)
    at_rest = was is not None and was.reason in (Reason.SETTLED, Reason.TRAFFIC_PENDING)
    settled = at_rest and was is not None and was.observed_generation == generation
    if was is not None and settled and progressing.reason in (Reason.WAITING_FOR_ROUTERS, FleetReason.STARTING):
        progressing = replace(progressing, status=was.status, reason=was.reason, message=was.message)
    return ready, progressing, degraded


def explain(
    planned: ModelPlan,
    troubles: Sequence[Trouble],
    shortage: str | None,
    *,
    short: bool = False,
    refused: Trouble | None = None,
    address_taken: bool = False,
) -> tuple[Condition, ...]:
    """The planner's conditions; where the model is not ready, with the reason of the layer that knows why.

    `short` says that fewer replicas run than should. The other arguments are as for `model_status`.
    """
    ready, progressing, degraded = planned.conditions
    own = Trouble(degraded.reason, degraded.message) if degraded.status == "True" else None
    # Where the registry's notices are all, whatever else is the matter is graver.
    mild = own is not None and own.reason in conditions.NOTICES
    outside = _outside(ready, troubles, shortage, short)
    if refused is not None:
        outside = [refused, *(each for each in outside if each != refused)]
    if address_taken:
        taken = refused or NO_ADDRESS
        rest = [each for each in outside if each != taken]
        ready = conditions.ready("False", taken.reason, taken.message)
        return ready, progressing, _degraded([taken, *_listed(own, rest, mild)])
    faults = _listed(own, outside, mild)
    if ready.status == "False" and faults:
        first = next((each for each in planned.versions if each.weight > 0), None)
        # What ails another version, or the registry, is not why the one that has the requests does not answer.
        guilty = own is not None and not mild and (first is None or _ails(first))
        if outside and any(each.state not in ENDS and each.failure is None for each in planned.versions):
            # A version is still to come: what keeps it from starting is news, and an older one's failure is not.
            faults = _listed(own, outside, last=True)
            texts = [outside[0].message, *([own.message] if own is not None and guilty else [])]
            ready = conditions.ready("False", outside[0].reason, "\n".join(texts))
        elif own is not None and guilty:
            ready = conditions.ready("False", own.reason, own.message)
        elif outside:
            ready = conditions.ready("False", outside[0].reason, outside[0].message)
    return ready, progressing, _degraded(faults)


def _listed(own: Trouble | None, outside: Sequence[Trouble], last: bool) -> list[Trouble]:
    """The model's own trouble before or after the others."""
    if own is None:
        return list(outside)
    return [*outside, own] if last else [own, *outside]


def _ails(version: VersionPlan) -> bool:
    return version.state in (DEPLOY_FAILED, UNHEALTHY) or version.failure is not None


def _degraded(faults: Sequence[Trouble]) -> Condition:
    return conditions.degraded([(each.reason, each.message) for each in faults])


def _short(planned: ModelPlan) -> bool:
    """Whether Serve works towards more replicas of some version than run."""
    return any((each.replicas_running or 0) < (each.replicas_target or 0) for each in planned.versions)


def _said_to_be_short(model: ModelDeployment) -> bool:
    """Whether its status says so."""
    said = conditions.find(model.status.conditions, ConditionType.DEGRADED)
    return (
        said is not None and said.status == "True" and (said.reason == capacity.REASON or capacity.SUMS in said.message)
    )


def _outside(ready: Condition, troubles: Sequence[Trouble], shortage: str | None, short: bool) -> list[Trouble]:
    """What keeps the model from running that is not its own fault; one at most."""
    if ready.status == "False" and troubles:
        return [troubles[0]]
    if shortage is not None and (short or ready.status == "False"):
        return [Trouble(capacity.REASON, shortage)]
    return []


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
) -> ModelFleetStatus:
    return ModelFleetStatus(
        observed_generation=generation,
        conditions=merged(before.conditions, explained, generation, now),
        url=url,
        models=models,
        cluster=cluster,
        upgrade_cluster=upgrade_cluster,
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


def events(before: Sequence[StatusCondition], after: Sequence[StatusCondition]) -> list[EventNote]:
    """What changed in a way that a person would want to be told: it answers or no longer does; something is wrong,
    something else, or nothing any more; a rollout has come a stage further; a change has come to its end."""
    was = {each.type: each for each in before}
    notes = []
    for now in after:
        old = was.get(now.type)
        changed = old is None or old.status != now.status
        match now.type:
            case ConditionType.READY if changed and now.status == "True":
                notes.append(EventNote("Normal", now.reason, now.message))
            case ConditionType.READY if changed and old is not None and old.status == "True":
                notes.append(EventNote("Warning", now.reason, now.message))
            case ConditionType.DEGRADED if now.status == "True" and (
                changed or old is None or old.reason != now.reason
            ):
                notes.append(EventNote("Warning", now.reason, now.message))
            case ConditionType.DEGRADED if now.status == "False" and old is not None and changed:
                notes.append(EventNote("Normal", "Recovered", f"{old.reason} is over"))
            case ConditionType.PROGRESSING if now.reason in STAGES and (old is None or old.reason != now.reason):
                notes.append(EventNote("Normal", now.reason, now.message))
            case ConditionType.PROGRESSING if now.reason == Reason.SETTLED and old is not None and changed:
                notes.append(EventNote("Normal", now.reason, now.message))
            case _:
                continue
    return notes


def _resolved(model: ModelDeployment, resolution: Resolution | None) -> ResolvedModel | None:
    """What was resolved now; where the registry said nothing, what it said before about the same URI."""
    spec = model.spec.model
    identity = identity_of(resolution)
    if identity is None:
        before = model.status.resolved
        same = before is not None and (before.uri, before.tracking_uri) == (spec.uri, spec.registry.tracking_uri or "")
        # That no worker is large enough says nothing about the registry.
        silent = not isinstance(resolution, ResolutionProblem) or resolution.reason == capacity.REASON
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
