"""What is deployed and what the routers hold, as the planner sees it.

All rollout state is read back from here on every pass: the entries last given to Serve, the traffic table inside the
router app's `user_config`, and each router replica's own report. The planner remembers nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rayfleet_serving.config import ModelIdentity, RouterState, TrafficTable


@dataclass(frozen=True, kw_only=True)
class ObservedApp:
    """One Serve application."""

    name: str
    status: str
    """Serve's ApplicationStatus: NOT_STARTED, DEPLOYING, DEPLOY_FAILED, RUNNING, UNHEALTHY or DELETING; `UNKNOWN` where
    Serve does not say, and the entry is what it should have."""
    message: str = ""
    """Serve's own words, whole; for a failed start they end in the replica's traceback."""
    entry: Mapping[str, Any] = field(default_factory=dict)
    """The application's entry in the config last given to Serve; {} for an application deployed from Python."""
    failed_since: datetime | None = None
    """When it was first seen to have failed to start; None where it did not fail, or has run since."""
    replicas_running: int | None = None
    """Replicas that answer; None where Serve does not say."""
    replicas_target: int | None = None
    """Replicas that Serve is working towards; None where Serve does not say."""


@dataclass(frozen=True, kw_only=True)
class ObservedFleet:
    """Everything observed about one fleet at one moment."""

    apps: Mapping[str, ObservedApp] = field(default_factory=dict)
    """By application name."""
    table: TrafficTable | None = None
    """The table last given to the router app; None when there is no router app."""
    routers: tuple[RouterState, ...] = ()
    """One state for each router replica that answered; () when none could be asked."""
    router_target: int = 0
    """Router replicas that there should be; 0 when there is no router app."""


@dataclass(frozen=True)
class ResolutionProblem:
    """Why a model's URI did not resolve."""

    reason: str
    """One CamelCase word, used as a condition's reason."""
    message: str
    last: ModelIdentity | None = None
    """What this very URI resolved to before, where the registry says nothing of it now: it is out of reach, or does not
    let itself be asked. None where the URI never resolved, or where the registry says that it no longer does."""
    held: bool = False
    """Nothing may move, whatever the URI means: it is not the registry that says this."""


@dataclass(frozen=True)
class Notice:
    """What a person should know of a version that is served all the same."""

    reason: str
    """A `conditions.NoticeReason`."""
    message: str
    """The same as long as the registry says the same: no times that go on."""


@dataclass(frozen=True)
class Noted:
    """What a URI resolved to, and what the registry says about it besides.

    The notices are told, and decide nothing: names of applications and everything that Serve is given come from the
    identity alone.
    """

    identity: ModelIdentity
    notices: tuple[Notice, ...] = ()


Resolution = ModelIdentity | Noted | ResolutionProblem
"""What the registry said about one model; `Noted` where there is something to be told."""


def named_key(model: str, name: str) -> str:
    """What the resolution of a version that `spec.traffic` names is kept under, among those of models."""
    return f"{model}/{name}"


def identity_of(resolution: Resolution | None) -> ModelIdentity | None:
    """What the URI means, or meant where the registry says nothing of it now."""
    match resolution:
        case Noted(identity=identity):
            return identity
        case ResolutionProblem(last=last):
            return last
        case known:
            return known
