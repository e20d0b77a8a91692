"""What is there: a fleet's Kubernetes objects, and what Ray Serve says inside each of its clusters."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rayfleet_operator.api.fleet import GpuSharing
from rayfleet_operator.api.timestamp import moment
from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.errors import NotFound
from rayfleet_operator.kube.kinds import Kind
from rayfleet_operator.plan import pods, serve_config
from rayfleet_operator.plan.live import live_apps
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet
from rayfleet_operator.plan.switch import Clusters, ObservedCluster
from rayfleet_operator.ray import observe as serve_observe
from rayfleet_operator.ray.connections import Connections
from rayfleet_operator.ray.serve import ServeError
from rayfleet_operator.render import objects
from rayfleet_operator.render.drift import foreign, written_owners
from rayfleet_operator.render.names import (
    CLUSTER_LABEL,
    DASHBOARD_PORT,
    FLEET_LABEL,
    NODE_TYPE_LABEL,
    SERVE_LABEL,
    SERVE_PORT,
    FleetName,
)
from rayfleet_serving.config import RouterState

if TYPE_CHECKING:
    # `rayfleet capacity` comes this way, and the client needs what only the operator's extra brings.
    from rayfleet_operator.kube.client import KubeClient

logger = logging.getLogger(__name__)

Json = dict[str, Any]

SURE = 6
"""New connections at once: with one dead pod of two, one of 64 times none of them meets it. Of many pods it is met more
seldom, by callers as well."""

ORIGIN_LABEL = "ray.io/originated-from-cr-name"
"""KubeRay's, on each RayCluster: the name of the RayService, or of the RayJob, that it was made for."""
ORIGIN_KIND_LABEL = "ray.io/originated-from-crd"


@dataclass(frozen=True, kw_only=True)
class Children:
    """A fleet's objects that matter for where requests go."""

    ray_service: Json | None
    """None as well where somebody else's has the name."""
    clash: str | None
    """Why there can be no RayService: somebody else's has the name."""
    service: Json | None
    ray_clusters: Mapping[str, Json]
    """The RayService's, but for those that are being deleted, by name."""
    pods: Sequence[Json]
    auth_secret: Json | None
    credentials_secret: Json | None
    network_policy: Json | None
    revisions: Sequence[Json]

    @property
    def taken(self) -> Json | None:
        """The RayService; None as well where KubeRay has made nothing of it and refuses to."""
        refused = not self.ray_clusters and refused_by_kuberay(self.ray_service) is not None
        return None if refused else self.ray_service


async def children(client: KubeClient, fleet: FleetName, owners: Sequence[Json]) -> Children:
    """Raises KubeError."""
    own = f"{FLEET_LABEL}={fleet.name}"
    clusters = f"{ORIGIN_LABEL}={fleet.name},{ORIGIN_KIND_LABEL}=RayService"
    (
        (ray_service, service, auth_secret, credentials_secret, network_policy),
        (ray_clusters, found, revisions),
    ) = await asyncio.gather(
        asyncio.gather(
            client.get(kinds.RAY_SERVICE, fleet.namespace, fleet.name),
            client.get(kinds.SERVICE, fleet.namespace, fleet.name),
            client.get(kinds.SECRET, fleet.namespace, fleet.auth_secret),
            client.get(kinds.SECRET, fleet.namespace, fleet.credentials_secret),
            client.get(kinds.NETWORK_POLICY, fleet.namespace, fleet.name),
        ),
        asyncio.gather(
            # Where requests go is decided by these, so not by what may be a moment old.
            _listed(client, kinds.RAY_CLUSTER, fleet.namespace, clusters),
            _listed(client, kinds.POD, fleet.namespace, own),
            client.list(kinds.CONTROLLER_REVISION, fleet.namespace, labels=own, cached=False),
        ),
    )
    clash = foreign(ray_service, objects.claim(fleet, owners))
    alive = [each for each in ray_clusters if each["metadata"].get("deletionTimestamp") is None]
    return Children(
        ray_service=ray_service if clash is None else None,
        clash=clash,
        service=service,
        ray_clusters={each["metadata"]["name"]: each for each in alive} if clash is None else {},
        pods=found,
        auth_secret=auth_secret,
        credentials_secret=credentials_secret,
        network_policy=network_policy,
        revisions=revisions,
    )


async def _listed(client: KubeClient, kind: Kind, namespace: str, labels: str) -> list[Json]:
    """Nothing where the cluster does not know the kind: KubeRay may not be installed yet."""
    try:
        return await client.list(kind, namespace, labels=labels, cached=False)
    except NotFound:
        return []


async def owned_only_by(client: KubeClient, fleet: FleetName, owner: Json) -> list[tuple[Kind, Json]]:
    """The fleet's objects that nobody but `owner` asks for; Ray clusters may still need them. Raises KubeError."""
    child_kinds = (
        kinds.RAY_SERVICE,
        kinds.SERVICE,
        kinds.SECRET,
        kinds.NETWORK_POLICY,
        kinds.CONTROLLER_REVISION,
    )
    lists = await asyncio.gather(
        *(client.list(kind, fleet.namespace, labels=f"{FLEET_LABEL}={fleet.name}") for kind in child_kinds)
    )
    return [
        (kind, obj)
        for kind, found in zip(child_kinds, lists, strict=True)
        for obj in found
        if [each["uid"] for each in written_owners(obj["metadata"].get("ownerReferences") or [])]
        == [owner["metadata"]["uid"]]
    ]


async def clusters(
    found: Children,
    connections: Connections,
    *,
    token: str,
    before: Mapping[str, ObservedFleet],
    was_ready: bool,
    now: datetime,
) -> Clusters:
    """Ask every cluster at once.

    Args:
        connections: the fleet's own.
        token: what its Ray asks for.
        before: what was observed last, by cluster.
        was_ready: the status says that the fleet answers.
        now: the time of this observation.
    """
    ours = found.service is not None and _label(found.service, FLEET_LABEL) is not None
    service: Json = ((found.service or {}).get("spec") or {}) if ours else {}
    selector = service.get("selector") or {}
    followed = selector.get(CLUSTER_LABEL)
    leads = any(_serves(pod) and _label(pod, CLUSTER_LABEL) == followed for pod in found.pods)
    reached, asked = await asyncio.gather(
        # Where no pod is ready, some clusters let a connection wait until its time is over.
        _reached(found.service, connections, was_ready=was_ready) if leads else asyncio.sleep(0, False),
        asyncio.gather(
            *(
                _cluster(each, found.pods, connections, token, before.get(name, ObservedFleet()), now)
                for name, each in found.ray_clusters.items()
            )
        ),
    )
    status = (found.ray_service or {}).get("status") or {}
    return Clusters(
        by_name={each.name: each for each in asked},
        followed=followed,
        active=_named(status, "activeServiceStatus"),
        pending=_named(status, "pendingServiceStatus"),
        reached=reached,
    )


async def _cluster(
    ray_cluster: Json,
    all_pods: Sequence[Json],
    connections: Connections,
    token: str,
    before: ObservedFleet,
    now: datetime,
) -> ObservedCluster:
    name = ray_cluster["metadata"]["name"]
    own = [pod for pod in all_pods if _label(pod, CLUSTER_LABEL) == name and _belongs(pod, ray_cluster)]
    heads = [pod for pod in own if _label(pod, NODE_TYPE_LABEL) == "head" and _address(pod) and _stays(pod)]
    workers = [pod for pod in own if _serves(pod)]
    observed = None
    if heads:
        serve = connections.serve(f"http://{_address(heads[-1])}:{DASHBOARD_PORT}", token)
        try:
            apps, states = await asyncio.gather(serve.applications(), _router_states(workers, connections))
            observed = serve_observe.fleet(apps, states, before, now)
        except ServeError as error:
            logger.info("Ray cluster %s: %s", name, error)
    return ObservedCluster(
        name=name,
        created=moment(ray_cluster["metadata"]["creationTimestamp"]),
        observed=observed,
        ready_workers=len(workers),
        troubles=(*pods.troubles(own, now), *_refusals(ray_cluster)),
    )


def _serves(pod: Json) -> bool:
    """Whether it is a worker that gets requests."""
    return _label(pod, NODE_TYPE_LABEL) == "worker" and _label(pod, SERVE_LABEL) == "true" and pods.ready(pod)


async def _reached(service: Json | None, connections: Connections, *, was_ready: bool) -> bool:
    """Whether routers answer there. A new connection may meet a pod that died just now: for a fleet that is Ready one
    of two tries is enough, and before one is called so, each must be answered, or callers still meet such pods."""
    metadata, spec = (service or {}).get("metadata") or {}, (service or {}).get("spec") or {}
    host = spec.get("clusterIP") or ""
    if host == "None":
        # Somebody made it headless: its name is all there is.
        host = f"{metadata['name']}.{metadata['namespace']}.svc"
    if not host:
        return False
    client = connections.address(f"http://{f'[{host}]' if ':' in host else host}:{SERVE_PORT}")
    if was_ready:
        return await client.answers() or await client.answers()
    return all(await asyncio.gather(*(client.answers() for _ in range(SURE))))


async def _router_states(workers: Sequence[Json], connections: Connections) -> tuple[RouterState, ...]:
    """The routers' reports, asked for at up to two workers: any of them knows all."""
    for worker in workers[:2]:
        states = await connections.routers(f"http://{_address(worker)}:{SERVE_PORT}").states()
        if states:
            return states
    return ()


def given(ray_service: Json | None) -> ObservedFleet:
    """What was last given to KubeRay, as if a cluster had just taken it: where Ray does not answer, or has lost what it
    knew, the weights that hold are still there."""
    text = ((ray_service or {}).get("spec") or {}).get("serveConfigV2")
    try:
        applications = json.loads(text)["applications"] if text else []
        apps = {app["name"]: ObservedApp(name=app["name"], status="NOT_STARTED", entry=app) for app in applications}
    except (ValueError, TypeError, KeyError):
        # Somebody wrote into it; the next apply puts that right.
        return ObservedFleet()
    return serve_observe.fleet(apps, (), ObservedFleet(), datetime.now(UTC))


def sharing(ray_service: Json | None) -> GpuSharing | None:
    """How its models share GPUs, read from those that have a part of one; None without any."""
    shared = [
        serve_config.shares_by_mps(deployment)
        for app in live_apps(given(ray_service)).values()
        for deployment in app.observed.entry["deployments"]
        if 0 < float(deployment["ray_actor_options"].get("num_gpus") or 0) < 1
    ]
    if not shared:
        return None
    return "MPS" if any(shared) else "TimeSlicing"


def with_credentials(given: ObservedFleet) -> set[str]:
    """Models of which a version was given to KubeRay that waits for credentials before it downloads."""
    return {app.model for app in live_apps(given).values() if app.observed.entry["args"].get("credentials")}


def _refusals(ray_cluster: Json) -> tuple[pods.Trouble, ...]:
    """Pods that KubeRay could not make, by a quota or an admission rule."""
    conditions = (ray_cluster.get("status") or {}).get("conditions") or []
    return tuple(
        pods.Trouble("PodsRefused", f"pods of {ray_cluster['metadata']['name']} cannot be made: {each['message']}")
        for each in conditions
        if each["type"] == "ReplicaFailure" and each["status"] == "True"
    )


def decoded(secret: Json | None) -> dict[str, bytes]:
    """What a Secret holds."""
    return {key: base64.b64decode(value) for key, value in ((secret or {}).get("data") or {}).items()}


def refused_by_kuberay(ray_service: Json | None) -> str | None:
    """Why KubeRay does nothing with the RayService as it is, if so.

    It observes no generation that it refuses, and leaves the condition there when a later one is good, until something
    answers.
    """
    if ray_service is None:
        return None
    status = ray_service.get("status") or {}
    if status.get("observedGeneration") == ray_service["metadata"]["generation"]:
        return None
    conditions = status.get("conditions") or []
    return next((each["message"] for each in conditions if each.get("reason") == "ValidationFailed"), None)


def _named(status: Json, part: str) -> str | None:
    return (status.get(part) or {}).get("rayClusterName") or None


def _label(obj: Json, label: str) -> str | None:
    found: str | None = (obj["metadata"].get("labels") or {}).get(label)
    return found


def _address(pod: Json) -> str:
    """As it stands in a URL; "" while it has none."""
    address = (pod.get("status") or {}).get("podIP") or ""
    return f"[{address}]" if ":" in address else address


def _belongs(pod: Json, ray_cluster: Json) -> bool:
    """Labels are anybody's to set; the token is shown only to pods that KubeRay made."""
    owners = pod["metadata"].get("ownerReferences") or []
    return any(each["uid"] == ray_cluster["metadata"]["uid"] for each in owners)


def _stays(pod: Json) -> bool:
    return pod["metadata"].get("deletionTimestamp") is None
