"""The kinds of objects that the operator reads or writes. All of them live in namespaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One kind, in one version of its API."""

    group: str
    """Empty for Kubernetes' core."""
    version: str
    name: str
    """As in `kind:`."""
    plural: str
    """As in paths."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """Path of the API that serves the kind."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Path of all objects, of a namespace's, of one, or of a part of one."""
        parts = [self.root]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part is not None]
        return "/".join(parts)

    def __str__(self) -> str:
        return self.name


MODEL_DEPLOYMENT = Kind("rayfleet.io", "v1alpha1", "ModelDeployment", "modeldeployments")
MODEL_FLEET = Kind("rayfleet.io", "v1alpha1", "ModelFleet", "modelfleets")
RAY_SERVICE = Kind("ray.io", "v1", "RayService", "rayservices")
RAY_CLUSTER = Kind("ray.io", "v1", "RayCluster", "rayclusters")
SERVICE = Kind("", "v1", "Service", "services")
SECRET = Kind("", "v1", "Secret", "secrets")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
POD = Kind("", "v1", "Pod", "pods")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
CONTROLLER_REVISION = Kind("apps", "v1", "ControllerRevision", "controllerrevisions")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
EVENT = Kind("events.k8s.io", "v1", "Event", "events")

ALL = (
    MODEL_DEPLOYMENT,
    MODEL_FLEET,
    RAY_SERVICE,
    RAY_CLUSTER,
    SERVICE,
    SECRET,
    CONFIG_MAP,
    POD,
    NETWORK_POLICY,
    CONTROLLER_REVISION,
    LEASE,
    EVENT,
)
_BY_NAME = {(kind.api_version, kind.name): kind for kind in ALL}


def kind_of(obj: dict[str, Any]) -> Kind:
    """The kind of an object, by its apiVersion and kind. Raises `ValueError` for one that the operator has none of."""
    try:
        return _BY_NAME[obj["apiVersion"], obj["kind"]]
    except KeyError:
        raise ValueError(f"no kind for apiVersion {obj.get('apiVersion')!r}, kind {obj.get('kind')!r}") from None
