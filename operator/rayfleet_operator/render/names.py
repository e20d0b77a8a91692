"""Names, labels and annotations of a fleet's Kubernetes objects. They never change while the fleet lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

FLEET_LABEL = "rayfleet.io/fleet"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "rayfleet"

CLUSTER_LABEL = "ray.io/cluster"
"""KubeRay's, on each pod: the RayCluster it belongs to."""
NODE_TYPE_LABEL = "ray.io/node-type"
"""KubeRay's, on each pod: head or worker."""
SERVE_LABEL = "ray.io/serve"
"""KubeRay's, on each pod: whether it should get requests."""

RESTART_ANNOTATION = "rayfleet.io/restart"
"""On a ModelFleet, or on a ModelDeployment with a fleet of its own: any new value builds a new Ray cluster, which takes
over when it answers."""
INPUTS_ANNOTATION = "rayfleet.io/inputs"
"""On a RayService and its ControllerRevision: digest of what the cluster was rendered from."""
ENVIRONMENT_ANNOTATION = "rayfleet.io/environment"
"""On a RayService, and by KubeRay's copy on each RayCluster that it makes or changes in place: digests of the Secrets
and ConfigMaps that its pods read when they start. It changes only together with the pods."""
TOKEN_KEY_ANNOTATION = "rayfleet.io/token-key"  # noqa: S105 - a name
"""On a fleet's token: fingerprint of the operator's key that it was derived from."""

TOLERATIONS_ANNOTATION = "rayfleet.io/tolerations"
"""On the pods of a worker group with `tolerations`: their digest."""

SERVE_PORT = 8000
GRPC_PORT = 9000
DASHBOARD_PORT = 8265


def annotation(obj: Mapping[str, Any] | None, name: str) -> str:
    """Its value on an object of the API server; "" where there is none."""
    annotations = ((obj or {}).get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(name, ""))


class FleetName(NamedTuple):
    """One fleet. Its RayService and the Service that users call have its name; the rest begin with it."""

    namespace: str
    name: str

    @property
    def labels(self) -> dict[str, str]:
        return {MANAGED_BY_LABEL: MANAGED_BY, FLEET_LABEL: self.name}

    @property
    def auth_secret(self) -> str:
        return f"{self.name}-auth"

    @property
    def credentials_secret(self) -> str:
        return f"{self.name}-credentials"

    def url(self, model: str = "") -> str:
        """Where the fleet answers inside the cluster, and with a model, where that one does."""
        return f"http://{self.name}.{self.namespace}.svc:{SERVE_PORT}" + (f"/{model}" if model else "")
