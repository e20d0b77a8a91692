"""The other Kubernetes objects of a fleet. Each is the whole of what we say about it: server-side apply leaves the
fields that others set."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from rayfleet_operator.render.names import (
    CLUSTER_LABEL,
    DASHBOARD_PORT,
    ENVIRONMENT_ANNOTATION,
    FLEET_LABEL,
    GRPC_PORT,
    INPUTS_ANNOTATION,
    SERVE_LABEL,
    SERVE_PORT,
    TOKEN_KEY_ANNOTATION,
    FleetName,
)

Json = dict[str, Any]

MIN_DELETION_DELAY_S = 24 * 60 * 60
"""How long KubeRay keeps a cluster that it has replaced, at least. Requests go there until the operator turns the
Service, so this is how long nobody need notice that there is no operator. One that is there deletes it much sooner."""


def claim(fleet: FleetName, owners: Sequence[Json]) -> Json:
    """As much of the fleet's RayService as says whose it is."""
    return _object("ray.io/v1", "RayService", fleet, fleet.name, owners)


def rayservice(
    fleet: FleetName,
    owners: Sequence[Json],
    *,
    cluster: Json,
    serve_config: bytes,
    inputs: str,
    environment: str,
    longest_request_s: float,
) -> Json:
    """
    Args:
        cluster: from `raycluster.resized`.
        serve_config: from `plan.serve_config.canonical`; KubeRay compares it byte by byte.
        longest_request_s: the replaced cluster must live as long for its last requests.
    """
    body = claim(fleet, owners)
    body["metadata"]["annotations"] = {INPUTS_ANNOTATION: inputs, ENVIRONMENT_ANNOTATION: environment}
    body["spec"] = {
        "serveConfigV2": serve_config.decode(),
        "rayClusterConfig": cluster,
        "upgradeStrategy": {"type": "NewCluster"},
        "excludeHeadPodFromServeSvc": True,
        "rayClusterDeletionDelaySeconds": max(MIN_DELETION_DELAY_S, int(longest_request_s) + 30),
    }
    return body


def service(fleet: FleetName, owners: Sequence[Json], *, cluster: str) -> Json:
    """The address that users call. It follows `cluster`, and moves on only when the next one was seen to answer."""
    body = _object("v1", "Service", fleet, fleet.name, owners)
    body["spec"] = {
        "selector": {CLUSTER_LABEL: cluster, SERVE_LABEL: "true"},
        "ports": [
            {"name": "serve", "port": SERVE_PORT, "targetPort": SERVE_PORT, "protocol": "TCP"},
            {"name": "serve-grpc", "port": GRPC_PORT, "targetPort": GRPC_PORT, "protocol": "TCP"},
        ],
    }
    return body


def auth_secret(fleet: FleetName, owners: Sequence[Json], *, token: str, made_with: str) -> Json:
    """The token that the fleet's Ray asks for; `made_with` is the fingerprint of the key that it was derived from."""
    body = _secret(fleet, fleet.auth_secret, owners, {"auth_token": token.encode()})
    body["metadata"]["annotations"] = {TOKEN_KEY_ANNOTATION: made_with}
    return body


def credentials_secret(fleet: FleetName, owners: Sequence[Json], *, files: Mapping[str, bytes]) -> Json:
    """What the fleet's replicas need to download their models, by file name `<model>.<variable>`."""
    return _secret(fleet, fleet.credentials_secret, owners, files)


NO_RAY_POD = [{"key": CLUSTER_LABEL, "operator": "DoesNotExist"}]
"""KubeRay gives the pods of every Ray cluster the name that its operator may have, too."""


def network_policy(fleet: FleetName, owners: Sequence[Json], *, dashboard_clients: Sequence[str]) -> Json:
    """Anybody may send requests; the fleet's pods reach each other on every port; only operators reach the dashboard,
    which asks them for its token all the same.

    Args:
        dashboard_clients: values of their label app.kubernetes.io/name, in any namespace.
    """
    body = _object("networking.k8s.io/v1", "NetworkPolicy", fleet, fleet.name, owners)
    pods = {"matchLabels": {FLEET_LABEL: fleet.name}}
    body["spec"] = {
        "podSelector": pods,
        "policyTypes": ["Ingress"],
        "ingress": [
            {"ports": [{"port": SERVE_PORT, "protocol": "TCP"}, {"port": GRPC_PORT, "protocol": "TCP"}]},
            {"from": [{"podSelector": pods}]},
            {
                "from": [
                    {
                        "namespaceSelector": {},
                        "podSelector": {
                            "matchLabels": {"app.kubernetes.io/name": name},
                            "matchExpressions": NO_RAY_POD,
                        },
                    }
                    for name in dashboard_clients
                ],
                "ports": [{"port": DASHBOARD_PORT, "protocol": "TCP"}],
            },
        ],
    }
    return body


def revision(
    fleet: FleetName,
    owners: Sequence[Json],
    *,
    inputs: str,
    cluster: Json,
    number: int,
    asked: Json | None = None,
    gpu_sharing: str | None = None,
) -> Json:
    """What was rendered for these inputs. As long as they stay the same it is applied again as it is, so a newer
    operator, which may render something else, changes no running cluster.

    Args:
        asked: from `upgrade.asked`: what it was rendered from, to tell later what of it has changed. Decides nothing.
        gpu_sharing: the administrator's, which the fleet keeps.
    """
    body = _object("apps/v1", "ControllerRevision", fleet, f"{fleet.name}-{inputs}", owners)
    body["metadata"]["annotations"] = {INPUTS_ANNOTATION: inputs}
    data: Json = {"rayClusterConfig": cluster} | ({"asked": asked} if asked is not None else {})
    if gpu_sharing is not None:
        data["gpuSharing"] = gpu_sharing
    return {**body, "data": data, "revision": number}


def adopted(existing: Json, fleet: FleetName, owners: Sequence[Json]) -> Json:
    """A kept revision with today's owners; what it holds cannot be changed."""
    body = _object("apps/v1", "ControllerRevision", fleet, existing["metadata"]["name"], owners)
    body["metadata"]["annotations"] = {INPUTS_ANNOTATION: existing["metadata"]["annotations"][INPUTS_ANNOTATION]}
    return {**body, "data": existing["data"], "revision": existing["revision"]}


def owner(owning: Mapping[str, Any]) -> Json:
    """An ownerReference. With several owners an object goes when the last of them is gone."""
    return {
        "apiVersion": owning["apiVersion"],
        "kind": owning["kind"],
        "name": owning["metadata"]["name"],
        "uid": owning["metadata"]["uid"],
    }


def _object(api_version: str, kind: str, fleet: FleetName, name: str, owners: Sequence[Json]) -> Json:
    metadata = {
        "name": name,
        "namespace": fleet.namespace,
        "labels": fleet.labels,
        "ownerReferences": list(owners),
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _secret(fleet: FleetName, name: str, owners: Sequence[Json], data: Mapping[str, bytes]) -> Json:
    body = _object("v1", "Secret", fleet, name, owners)
    encoded = {key: base64.b64encode(value).decode() for key, value in sorted(data.items())}
    return {**body, "type": "Opaque", "data": encoded}
