"""The cluster with rayfleet installed by its chart, and a registry; one namespace for each module of tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.binaries import binary
from cluster.providers import Cluster, ClusterError, ExistingCluster, chosen

from e2e import registry
from e2e.registry import Registry
from e2e.scene import Scene

ROOT = Path(__file__).parents[2]
NAMESPACE = "rayfleet-e2e"
OURS = "rayfleet-e2e"
"""Label of every namespace that is made here."""

SMALL = {"requests": {"cpu": "50m", "memory": "256Mi"}}
"""Requests far below the limits: several fleets share two cores here."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(900))


def small_defaults(serving_image: str) -> dict[str, object]:
    """Fleets that fit onto one small node: a head and two workers."""
    return {
        "image": serving_image,
        "imagePullPolicy": "IfNotPresent",
        "head": {"cpu": "1", "memory": "2Gi", "template": _small("ray-head")},
        "routers": {"replicas": 2, "cpu": "0.1"},
        "workerGroups": [
            {"name": "workers", "minReplicas": 2, "cpu": "2", "memory": "2Gi", "template": _small("ray-worker")}
        ],
    }


def _small(container: str) -> dict[str, object]:
    return {"spec": {"containers": [{"name": container, "resources": SMALL}]}}


def install(cluster: Cluster, *, replicas: int = 1, values: dict[str, object] | None = None) -> None:
    """Install or upgrade the chart, and wait until the operator is ready."""
    image = cluster.images["operator"]
    repository, _, tag = image.rpartition(":")
    chosen_values = {
        "image": {"repository": repository, "tag": tag},
        "replicas": replicas,
        "fleetDefaults": small_defaults(cluster.images["serving"]),
        "settings": {"logLevel": "DEBUG"},
        **(values or {}),
    }
    chart = str(ROOT / "charts" / "rayfleet")
    where = ("--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "120s")
    helm(cluster, "upgrade", "--install", "rayfleet", chart, *where, "-f", "-", stdin=yaml.safe_dump(chosen_values))


def helm(cluster: Cluster, *arguments: str, stdin: str | None = None) -> str:
    """Run the real Helm. Raises RuntimeError with what it said."""
    command = [str(binary("helm")), *arguments]
    ran = subprocess.run(
        command, input=stdin, env=cluster.kubectl.environment, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ran.stderr or ran.stdout}")
    return ran.stdout


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    found = chosen()
    # For work on the tests themselves: whatever images the cluster has are good enough.
    if not os.environ.get("RAYFLEET_E2E_AS_IT_IS"):
        found.up()
    if "mlflow" not in found.images:
        raise ClusterError("set RAYFLEET_E2E_MLFLOW_IMAGE to an image of MLflow that the cluster can pull")
    return found


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Iterator[Cluster]:
    """With two operators, of which one leads."""
    with installation(cluster):
        yield cluster


@contextmanager
def installation(cluster: Cluster) -> Iterator[None]:
    """Somebody's own cluster is left without it, also when it could not be brought to its end."""
    borrowed = isinstance(cluster, ExistingCluster)
    if borrowed and "rayfleet.io" in cluster.kubectl("get", "customresourcedefinition", "-o", "name"):
        raise ClusterError("somebody uses rayfleet on this cluster: its definitions are there. Choose another one")
    try:
        cluster.kubectl.apply([_namespace(NAMESPACE, "operator")])
        install(cluster, replicas=2)
        yield
    finally:
        if borrowed:
            _uninstall(cluster)


def _namespace(name: str, use: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {OURS: use, **labels}}}


def _uninstall(cluster: Cluster) -> None:
    """Everything that `installed`, `models` and `scene` brought, as far as it is there."""
    kubectl = cluster.kubectl
    release = ("rayfleet", "--namespace", NAMESPACE, "--ignore-not-found", "--wait", "--timeout", "120s")
    definitions = ("modeldeployments.rayfleet.io", "modelfleets.rayfleet.io", "--ignore-not-found")
    with ExitStack() as steps:  # each is taken, also when one before it failed; the last one here goes first
        # The chart leaves its definitions, so that nobody loses models; here nobody has any.
        steps.callback(kubectl, "delete", "customresourcedefinition", *definitions)
        steps.callback(kubectl, "delete", "namespace", "-l", OURS, "--timeout=120s", timeout=130)
        steps.callback(helm, cluster, "uninstall", *release)
        steps.callback(kubectl, "delete", "namespace", "-l", f"{OURS}=scene", "--timeout=300s", timeout=310)


@pytest.fixture(scope="session")
def models(cluster: Cluster) -> Registry:
    cluster.kubectl.apply([_namespace(registry.NAMESPACE, "registry")])
    cluster.kubectl.apply(registry.manifests(cluster.images["mlflow"]))
    cluster.kubectl("rollout", "status", "-n", registry.NAMESPACE, "deploy/mlflow", "--timeout=120s")
    return Registry(cluster.kubectl)


@pytest.fixture(scope="module")
def scene(installed: Cluster, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A namespace of the module's own, named after it, and gone afterwards."""
    name = "e2e-" + request.module.__name__.rsplit(".", 1)[-1].removeprefix("test_").replace("_", "-")
    kubectl = installed.kubectl
    kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=300s", timeout=310)
    # Every pod of a fleet must be one that Kubernetes' strictest standard lets in.
    kubectl.apply([_namespace(name, "scene", **{"pod-security.kubernetes.io/enforce": "restricted"})])
    yield Scene(kubectl, name, installed.images)
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
