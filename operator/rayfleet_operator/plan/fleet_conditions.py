"""A fleet's conditions, from its clusters and pods."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from rayfleet_operator.api.status import Condition as StatusCondition
from rayfleet_operator.api.timestamp import moment
from rayfleet_operator.plan import conditions
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY, Condition, ConditionType, Reason
from rayfleet_operator.plan.failure import cause
from rayfleet_operator.plan.live import RUNNING
from rayfleet_operator.plan.switch import Clusters, ObservedCluster, overdue
from rayfleet_serving.config import ROUTER_APP

NO_ROOM = "to be scheduled"
"""In Serve's message of a deployment whose replicas have found no worker for half a minute."""


class FleetReason(StrEnum):
    """Why a fleet's condition has its status, beside the reasons that it shares with models'. Trouble with pods brings
    its own reason instead."""

    STARTING = "Starting"
    NEW_CLUSTER = "NewCluster"
    """KubeRay is about to be asked for a new Ray cluster, or has just been."""
    UPGRADING = "Upgrading"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    ENVIRONMENT_CHANGED = "EnvironmentChanged"
    RAY_SERVICE_REFUSED = "RayServiceRefused"
    WRITE_FAILED = "WriteFailed"


Faults = list[tuple[str, str]]


def conditions_of(
    clusters: Clusters,
    *,
    refused: str | None,
    stale_environment: Sequence[str],
    deadline: timedelta,
    now: datetime,
    before: Sequence[StatusCondition] = (),
    waits: str | None = None,
    failed: str | None = None,
    announced: str | None = None,
) -> tuple[Condition, Condition, Condition]:
    """Ready, Progressing, Degraded.

    Args:
        refused: why KubeRay does not take the RayService, if so.
        stale_environment: Secrets and ConfigMaps that changed since the pods read them.
        deadline: how long a cluster may take to answer.
        now: the time of this observation.
        before: the conditions of the observation before, which tell since when the fleet is not ready.
        waits: what a change of the fleet's pods waits for, if it does.
        failed: why some of the fleet's objects could not be written just now, if so.
        announced: which new Ray cluster KubeRay is asked for next, if one is, and what it takes.
    """
    serving, following = clusters.serving, clusters.next
    ready = readiness(clusters)
    why: Faults = []
    if refused is not None:
        why.append((FleetReason.RAY_SERVICE_REFUSED, f"the RayService is refused: {refused}"))
    if failed is not None:
        why.append((FleetReason.WRITE_FAILED, f"an object could not be written, and is tried again: {failed}"))
    if serving is not None:
        if ready.status != "True" and _late(clusters, serving, deadline, now, before):
            unreachable = ready.reason == Reason.SERVICE_UNREACHABLE
            why.append((ready.reason, ready.message) if unreachable else _overdue(serving, deadline, ""))
        why += _troubles(serving)
    others: Faults = _homeless_routers(serving)
    if serving is not None and following is not None:
        if overdue(following, deadline, now):
            others.append(_overdue(following, deadline, f"; {serving.name} goes on serving"))
        others += _troubles(following)
    replaced = clusters.replaced
    if serving is not None and replaced is not None and overdue(serving, deadline, now):
        text = f"Ray cluster {serving.name} has taken over, and KubeRay keeps {replaced.name} after {_span(deadline)}"
        others.append((FleetReason.PROGRESS_DEADLINE_EXCEEDED, text))
    if stale_environment:
        names = ", ".join(stale_environment)
        text = f"{names} changed after pods had read it; annotate the fleet with rayfleet.io/restart to replace them"
        others.append((FleetReason.ENVIRONMENT_CHANGED, text))
    # A cluster that answers needs no other explanation of why nobody reaches it.
    if ready.status != "True" and why and ready.reason != Reason.SERVICE_UNREACHABLE:
        ready = conditions.ready(ready.status, *why[0])
    return ready, _progressing(clusters, ready, waits, announced), conditions.degraded(why + others)


def readiness(clusters: Clusters) -> Condition:
    """Whether the cluster that has the requests answers."""
    serving = clusters.serving
    if serving is None:
        return conditions.ready("False", FleetReason.STARTING, "there is no Ray cluster yet")
    reason = FleetReason.STARTING if clusters.first is not None else Reason.RAY_UNREACHABLE
    if not serving.known:
        text = f"Ray's dashboard of cluster {serving.name} does not answer"
        if serving.observed is not None:
            text = f"Ray Serve of cluster {serving.name} runs nothing yet"
        if serving.ready_workers:
            # Workers may go on serving while the head is gone.
            return conditions.ready("Unknown", reason, f"{text}; its workers may be serving")
        return conditions.ready("False", reason, text)
    if serving.observed is None or not serving.observed.routers or not serving.ready_workers:
        text = f"no router of cluster {serving.name} answers"
        if _routers_run(serving):
            return conditions.ready("Unknown", Reason.ROUTERS_UNKNOWN, text)
        return conditions.ready("False", FleetReason.STARTING, text)
    if not clusters.reached:
        return unreached(serving)
    return conditions.ready("True", Reason.SERVING, f"cluster {serving.name} answers")


def unreached(serving: ObservedCluster) -> Condition:
    """Ready where routers answer the operator, but not at the fleet's address; others may be better off there."""
    text = f"cluster {serving.name} answers, but not yet on every connection to the fleet's Service"
    return conditions.ready("Unknown", Reason.SERVICE_UNREACHABLE, text)


def _routers_run(cluster: ObservedCluster) -> bool:
    """Whether routers may be answering people, by what Kubernetes and Serve say."""
    app = cluster.observed.apps.get(ROUTER_APP) if cluster.observed is not None else None
    return cluster.ready_workers > 0 and app is not None and (app.status == RUNNING or bool(app.replicas_running))


def _late(
    clusters: Clusters,
    serving: ObservedCluster,
    deadline: timedelta,
    now: datetime,
    before: Sequence[StatusCondition],
) -> bool:
    """Whether the fleet has not been ready for longer than it may. What is as old as the cluster is for a start only:
    one that served for days may be gone for a moment."""
    was = conditions.find(before, ConditionType.READY)
    if was is None:
        return clusters.first is not None and overdue(serving, deadline, now)
    if was.status == "True":
        return False
    since = moment(was.last_transition_time)
    return now - max(since, serving.created) > deadline


def _overdue(cluster: ObservedCluster, deadline: timedelta, kept: str) -> tuple[str, str]:
    why = f": {cluster.troubles[0].message}" if cluster.troubles else ""
    text = f"Ray cluster {cluster.name} does not answer after {_span(deadline)}{kept}{why}"
    return FleetReason.PROGRESS_DEADLINE_EXCEEDED, text


def _troubles(cluster: ObservedCluster) -> Faults:
    return [(trouble.reason, trouble.message) for trouble in cluster.troubles]


def _homeless_routers(cluster: ObservedCluster | None) -> Faults:
    """Routers that find no worker with room. The others answer, but until all do no version that can be reached gives
    its requests to another."""
    app = cluster.observed.apps.get(ROUTER_APP) if cluster is not None and cluster.observed is not None else None
    if app is None or NO_ROOM not in app.message:
        return []
    text = f"{app.replicas_running or 0} of {app.replicas_target or 0} routers run: {cause(app.message)}"
    return [(INSUFFICIENT_CAPACITY, text)]


def _progressing(clusters: Clusters, ready: Condition, waits: str | None, announced: str | None) -> Condition:
    if waits is not None:
        return conditions.progressing(Reason.WAITING_FOR_CLUSTER, waits)
    if announced is not None:
        return conditions.progressing(FleetReason.NEW_CLUSTER, announced)
    serving, following, replaced = clusters.serving, clusters.next, clusters.replaced
    if serving is not None and following is not None:
        text = f"cluster {following.name} is to take over from {serving.name}"
        return conditions.progressing(FleetReason.UPGRADING, text)
    if serving is not None and replaced is not None:
        text = f"cluster {serving.name} has taken over from {replaced.name}, which goes soon"
        return conditions.progressing(FleetReason.UPGRADING, text)
    if ready.status != "True" and (serving is None or not _routers_run(serving)):
        return conditions.progressing(FleetReason.STARTING, "the Ray cluster starts")
    if serving is not None and serving.observed is not None:
        answering, wanted = len(serving.observed.routers), max(serving.observed.router_target, 1)
        if answering < wanted:
            return conditions.progressing(Reason.WAITING_FOR_ROUTERS, f"{answering} of {wanted} routers answer")
    if ready.reason == Reason.SERVICE_UNREACHABLE:
        return conditions.progressing(FleetReason.STARTING, ready.message)
    return conditions.resting(Reason.SETTLED, "there is one Ray cluster, and it answers")


def _span(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    return f"{seconds // 60} min" if seconds % 60 == 0 else f"{seconds} s"
