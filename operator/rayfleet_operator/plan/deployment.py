"""A fleet on Kubernetes: the Serve config for KubeRay, and the cluster that requests go to.

The planner decides about one Serve; here there may be none yet, or one that forgot, or two at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rayfleet_operator.api.fleet import ModelFleet
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import conditions, fleet_conditions, switch
from rayfleet_operator.plan.admission import Admission
from rayfleet_operator.plan.conditions import Reason
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.live import DELETING, DEPLOY_FAILED, RUNNING, live_apps
from rayfleet_operator.plan.measured import Answer, Question
from rayfleet_operator.plan.model import ModelPlan
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet, Resolution
from rayfleet_operator.plan.room import Room
from rayfleet_operator.plan.serve_config import ServeOptions
from rayfleet_operator.plan.switch import Clusters, ObservedCluster
from rayfleet_operator.plan.versions import FAILED, UNKNOWN, WAITING

OPTIONS = ServeOptions()


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a fleet should be now."""

    config: Mapping[str, Any]
    """The Serve config for KubeRay."""
    models: tuple[ModelPlan, ...]
    """One for each model, sorted by name; a deleted one is listed until its last version is gone."""
    clusters: Clusters
    """As observed."""
    follow: str | None
    """The cluster that requests should go to; None while there is none."""
    requeue_after: float | None
    """Seconds after which to look again because something is under way; None when all is settled."""
    admission: Admission | None = None
    """Which replica has a place where, in the fleet at its largest; None where it has no workers."""


def plan_fleet(
    *,
    fleet: ModelFleet,
    models: Sequence[ModelDeployment],
    resolutions: Mapping[str, Resolution],
    clusters: Clusters,
    given: ObservedFleet,
    now: datetime,
    changing: bool = False,
    measured: Mapping[Question, Answer] | None = None,
) -> Deployment:
    """
    Args:
        given: what KubeRay was given last, as if a cluster had just taken it.
        now: the time of the observation.
        changing: a change of the fleet's pods waits for KubeRay to make the first cluster its own (`switch.fragile`).
    The others are as for `plan.fleet.plan`.
    """
    seen, follow = clusters, switch.follow(clusters)
    if clusters.replaced is not None and clusters.replaced.name == follow:
        # Requests go back to it, so it is what runs there that must not be left out.
        clusters = replace(clusters, followed=follow)
    serving = clusters.serving
    untold = serving is not None and serving.serves is None
    # Ray does not answer, or has lost everything: the weights that hold are those that were given.
    observed = _untold(given) if untold else given
    if serving is not None and serving.observed is not None and serving.known:
        observed = serving.observed

    def planned_from(seen: ObservedFleet) -> FleetPlan:
        return plan(
            fleet=fleet,
            models=models,
            resolutions=resolutions,
            observed=seen,
            serve_options=OPTIONS,
            now=now,
            written=given.table.models if given.table is not None else None,
            frozen=clusters.next is not None,
            measured=measured,
            room=Room.of(fleet.spec) if fleet.spec.worker_groups else None,
        )

    planned = planned_from(observed)
    failed = _failed(models, clusters, given)
    if failed:
        planned = planned_from(_as_failed(observed, planned.config, failed))
    config = switch.admitted(planned.config, clusters, given.apps)
    config = _without(config, failed)
    if changing and clusters.first is not None:
        config = _without(config, _not_running(clusters.first, config))
    kept = {app["name"] for app in config["applications"]}
    under_way = bool(failed) or untold or clusters.next is not None or clusters.replaced is not None
    due = [each for each in (planned.requeue_after, 1.0 if under_way else None) if each is not None]
    return Deployment(
        config=config,
        models=tuple(_told(each, clusters, kept) for each in planned.models),
        clusters=seen,
        follow=follow,
        requeue_after=min(due, default=None),
        admission=planned.admission,
    )


def _untold(given: ObservedFleet) -> ObservedFleet:
    """What was given, where workers may be answering and Serve does not say what has become of it."""
    return replace(given, apps={name: replace(app, status=UNKNOWN) for name, app in given.apps.items()})


def _failed(models: Sequence[ModelDeployment], clusters: Clusters, given: ObservedFleet) -> dict[str, str]:
    """Applications, with their messages, that failed on a fleet's very first cluster.

    KubeRay makes that cluster its own only when every application runs, and would throw it away at the next change of
    the fleet's pods, together with the models that do run on it. So what failed is left out until then, and tried again
    afterwards. Once it is left out, that it failed is read from the models' statuses. Where Serve does not say what it
    runs, nothing more is left out, and nothing that was is given.
    """
    first = clusters.first
    if first is None:
        return {}
    told = {
        version.app: version.message for model in models for version in model.status.versions if version.state == FAILED
    }
    if first.observed is None or not first.known:
        return {app: message for app, message in told.items() if app not in given.apps}
    seen = first.observed.apps
    gone = {app: message for app, message in told.items() if app not in seen or seen[app].status == DELETING}
    return gone | {
        name: app.message for name, app in seen.items() if app.status == DEPLOY_FAILED and not first.tries(name)
    }


def _as_failed(observed: ObservedFleet, config: Mapping[str, Any], failed: Mapping[str, str]) -> ObservedFleet:
    """What would be observed if the applications that failed were still there."""
    apps = dict(observed.apps)
    for entry in config["applications"]:
        name = entry["name"]
        if name in failed and (name not in apps or apps[name].status != DEPLOY_FAILED):
            apps[name] = ObservedApp(name=name, status=DEPLOY_FAILED, message=failed[name], entry=entry)
    return replace(observed, apps=apps)


def _not_running(cluster: ObservedCluster, config: Mapping[str, Any]) -> set[str]:
    """Model applications of `config` of which nothing runs there."""
    names = {app["name"] for app in config["applications"]}
    models = names & (live_apps(ObservedFleet(apps=_given(config))).keys())
    seen = cluster.observed.apps if cluster.observed is not None and cluster.known else {}
    return {name for name in models if name not in seen or not _running(seen[name])} if seen else set()


def _running(app: ObservedApp) -> bool:
    return app.status == RUNNING or bool(app.replicas_running)


def _given(config: Mapping[str, Any]) -> dict[str, ObservedApp]:
    return {app["name"]: ObservedApp(name=app["name"], status=WAITING, entry=app) for app in config["applications"]}


def _without(config: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {**config, "applications": [app for app in config["applications"] if app["name"] not in names]}


def _told(planned: ModelPlan, clusters: Clusters, kept: Collection[str]) -> ModelPlan:
    """The model's conditions, with what only the clusters tell."""
    ready, progressing, degraded = planned.conditions
    serving = clusters.serving
    deployed = any(version.weight > 0 and version.state != WAITING for version in planned.versions)
    if deployed and serving is not None and ready.status != "True":
        if serving.ready_workers and not serving.known:
            text = f"Ray's dashboard of cluster {serving.name} does not tell; its workers may be answering"
            ready = conditions.ready("Unknown", Reason.RAY_UNREACHABLE, text)
        elif not serving.ready_workers and ready.status == "Unknown":
            ready = conditions.ready("False", Reason.NOT_SERVING, f"no worker pod of cluster {serving.name} is ready")
    if serving is not None and ready.status == "True" and not clusters.reached:
        ready = fleet_conditions.unreached(serving)
    waiting = [each.version for each in planned.versions if each.state == WAITING and each.app not in kept]
    if waiting and clusters.pending is not None:
        text = f"version {waiting[0]} waits until Ray cluster {clusters.pending} has taken over"
        progressing = conditions.progressing(Reason.WAITING_FOR_CLUSTER, text)
    return replace(planned, conditions=(ready, progressing, degraded))
