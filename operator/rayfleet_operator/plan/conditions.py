"""Conditions of a ModelDeployment, as Kubernetes has them. There is no phase."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from rayfleet_operator.api.status import Condition as StatusCondition


class ConditionType(StrEnum):
    READY = "Ready"
    """It answers. Never false because an update is under way."""
    PROGRESSING = "Progressing"
    """A change is under way."""
    DEGRADED = "Degraded"
    """Something needs a person."""


class Reason(StrEnum):
    """Why a condition has its status. A registry's problem or notice brings its own reason instead."""

    SERVING = "Serving"
    ASLEEP = "Asleep"
    """It has no replica, because nobody asks; the first request wakes it."""
    NOT_SERVING = "NotServing"
    NOT_DEPLOYED = "NotDeployed"
    ROUTERS_UNKNOWN = "RoutersUnknown"
    """No router answered, so nothing is known about what they hold; nothing is moved or dropped meanwhile."""
    RAY_UNREACHABLE = "RayUnreachable"
    """Ray's dashboard did not answer, so nothing is known about what it runs."""
    SERVICE_UNREACHABLE = "ServiceUnreachable"
    """Routers answer, and the fleet's Service does not lead to them."""

    RESOLVING = "Resolving"
    DEPLOYING = "Deploying"
    WAITING_FOR_ROUTERS = "WaitingForRouters"
    WAITING_FOR_CLUSTER = "WaitingForCluster"
    """Another Ray cluster takes over first: until then neither takes a new version."""
    SHIFTING = "Shifting"
    HOLDING = "Holding"
    """A candidate has its share of the requests for as long as the step says."""
    INCONCLUSIVE = "Inconclusive"
    """Too few requests, or numbers that may be chance: the step is neither passed nor rolled back."""
    PAUSED = "Paused"
    """Somebody has to say how a rollout goes on."""
    CANDIDATE_FAILED = "CandidateFailed"
    """What must hold of a candidate does not, and it stays where it is until somebody says how the rollout goes on."""
    ROLLED_BACK = "RolledBack"
    """A candidate was given up, or somebody went back; the version before has the requests."""
    VERSION_UNKNOWN = "VersionUnknown"
    """Somebody wants to go back to a version of which nothing is known."""
    TRAFFIC_PENDING = "TrafficPending"
    """The model's own version is settled; not every one that its traffic names is what the spec says."""
    DRAINING = "Draining"
    RETRYING = "Retrying"
    REMOVING = "Removing"
    SETTLED = "Settled"

    AS_EXPECTED = "AsExpected"
    VERSION_FAILED = "VersionFailed"
    STABLE_UNHEALTHY = "StableUnhealthy"

    OUT_OF_MEMORY = "OutOfMemory"
    """The model takes more than its share, or needs more to be loaded or to answer at all."""
    STUCK = "Stuck"
    """The model computed without an end, and its replica was replaced."""
    REPLICAS_DIE = "ReplicasDie"
    """Replicas die again and again, and none said why."""

    FLEET_NOT_FOUND = "FleetNotFound"
    INVALID_FLEET = "InvalidFleet"
    """The fleet and the administrator's defaults together are none."""
    INVALID_SPEC = "InvalidSpec"
    """Written under other rules than today's."""


class NoticeReason(StrEnum):
    """What the registry says of a version that is served all the same: Degraded's reason where nothing is graver."""

    VERSION_ARCHIVED = "VersionArchived"
    SEVERAL_IN_STAGE = "SeveralInStage"
    """More than one version is in the stage that is followed."""
    RUN_NOT_ENDED = "RunNotEnded"
    """The run whose model is served may log it again."""
    RUN_LOGGED_LATE = "RunLoggedLate"
    """The model was logged to a run that had ended."""
    ARTIFACTS_CHANGED = "ArtifactsChanged"
    """A version's files were written again after it was registered."""
    WRITE_BACK_FAILED = "WriteBackFailed"
    """The registry does not say of the version that has every request that it has."""


INSUFFICIENT_CAPACITY = "InsufficientCapacity"
"""There is no room for some replicas."""

NOTICES = frozenset(map(str, NoticeReason))


@dataclass(frozen=True)
class Condition:
    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: str
    """One CamelCase word: a `Reason`, a `NoticeReason`, or the reason of a registry problem."""
    message: str


def ready(status: Literal["True", "False", "Unknown"], reason: str, message: str) -> Condition:
    return Condition(ConditionType.READY, status, reason, message)


def progressing(reason: str, message: str) -> Condition:
    return Condition(ConditionType.PROGRESSING, "True", reason, message)


def resting(reason: str, message: str) -> Condition:
    """Progressing=False: nothing is under way, for this reason."""
    return Condition(ConditionType.PROGRESSING, "False", reason, message)


def degraded(faults: list[tuple[str, str]]) -> Condition:
    """Degraded from (reason, message) of each fault, the gravest first; the first one's reason is the condition's."""
    if not faults:
        return Condition(ConditionType.DEGRADED, "False", Reason.AS_EXPECTED, "")
    return Condition(ConditionType.DEGRADED, "True", faults[0][0], "\n".join(message for _, message in faults))


def noticed(found: tuple[Condition, ...], reason: str, message: str) -> tuple[Condition, ...]:
    """Ready, Progressing and Degraded with one thing more to be told, after everything that is wrong already."""
    *others, was = found
    faults = [(was.reason, was.message)] if was.status == "True" else []
    return (*others, degraded([*faults, (reason, message)]))


def find(found: Iterable[StatusCondition], kind: ConditionType) -> StatusCondition | None:
    """What a status says of this type; None where it says nothing."""
    return next((each for each in found if each.type == kind), None)
