"""Conditions of a ModelDeployment, as Kubernetes has them. There is no phase."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class ConditionType(StrEnum):
    READY = "Ready"
    """It answers. Never false because an update is under way."""
    PROGRESSING = "Progressing"
    """A change is under way."""
    DEGRADED = "Degraded"
    """Something needs a person."""


class Reason(StrEnum):
    """Why a condition has its status. A registry problem brings its own reason instead."""

    SERVING = "Serving"
    NOT_SERVING = "NotServing"
    NOT_DEPLOYED = "NotDeployed"
    ROUTERS_UNKNOWN = "RoutersUnknown"
    """No router answered, so nothing is known about what they hold; nothing is moved or dropped meanwhile."""

    RESOLVING = "Resolving"
    DEPLOYING = "Deploying"
    WAITING_FOR_ROUTERS = "WaitingForRouters"
    SHIFTING = "Shifting"
    DRAINING = "Draining"
    RETRYING = "Retrying"
    REMOVING = "Removing"
    SETTLED = "Settled"

    AS_EXPECTED = "AsExpected"
    VERSION_FAILED = "VersionFailed"
    STABLE_UNHEALTHY = "StableUnhealthy"


@dataclass(frozen=True)
class Condition:
    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: str
    """One CamelCase word: a `Reason`, or the reason of a registry problem."""
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
