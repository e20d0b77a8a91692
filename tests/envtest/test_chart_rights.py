"""The real operator, with the rights that the chart gives it and none else, makes all that a fleet needs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cluster.binaries import module_folder
from cluster.control_plane import ControlPlane
from cluster.deadline import until
from helm_chart import NAMESPACE, Json, of_kind, one, template

pytestmark = pytest.mark.timeout(400)

REGISTRY_ANSWER = {
    "model_version": {
        "name": "digits",
        "version": "3",
        "source": "mlflow-artifacts:/1/models/m-0123456789abcdef0123456789abcdef/artifacts",
        "status": "READY",
    }
}


class Registry(BaseHTTPRequestHandler):
    """A stand-in for MLflow that knows one version."""

    def do_GET(self) -> None:
        body = json.dumps(REGISTRY_ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Of its own: the operator sees all fleets there are."""
    with ControlPlane(tmp_path_factory.mktemp("rights")) as started:
        files = sorted((module_folder("kuberay-operator") / "config" / "crd" / "bases").glob("*.yaml"))
        started.kubectl.apply("\n---\n".join(file.read_text() for file in files))
        for name in (NAMESPACE, "team-a"):
            started.kubectl("create", "namespace", name)
        yield started


@contextmanager
def operator(cluster: ControlPlane, manifests: list[Json], folder: Path) -> Iterator[Path]:
    """Runs as in the chart's pod, with the token of its service account; answers its log."""
    container = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    (defaults,) = of_kind(manifests, "ConfigMap")
    file, log = folder / "fleet-defaults.yaml", folder / "operator.log"
    file.write_text(defaults["data"][file.name])
    health = free_port()
    environ = {variable["name"]: variable.get("value", NAMESPACE) for variable in container["env"]} | {
        "RAYFLEET_FLEET_DEFAULTS": str(file),
        "RAYFLEET_HEALTH_PORT": str(health),
        "RAYFLEET_METRICS_PORT": "0",
        "KUBECONFIG": str(cluster.kubeconfig_for_service_account(NAMESPACE, "rayfleet-operator")),
        "PATH": os.environ["PATH"],
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("rayfleet"), "operator"], env=environ, stdout=output, stderr=output
        )
    try:
        until("the operator is ready", lambda: process.poll() is not None or answers(health, "/readyz"))
        assert process.poll() is None, log.read_text()
        yield log
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.parametrize("watched", [[], ["team-a"]], ids=["all-namespaces", "one-namespace"])
def test_a_fleet_is_made(watched: list[str], cluster: ControlPlane, registry: str, tmp_path: Path) -> None:
    name = "digits-one" if watched else "digits-all"
    manifests = template({"watchNamespaces": watched})
    for kind in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"):
        cluster.kubectl("delete", kind, "--all-namespaces", "--selector", "app.kubernetes.io/part-of=rayfleet")
    cluster.kubectl.apply(manifests)

    def made(kind: str) -> set[str]:
        selector = f"rayfleet.io/fleet={name}"
        found = cluster.kubectl.json("--namespace", "team-a", "get", kind, "--selector", selector)["items"]
        return {item["metadata"]["name"] for item in found}

    with operator(cluster, manifests, tmp_path) as log:
        model = {
            "apiVersion": "rayfleet.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": "team-a"},
            "spec": {"model": {"uri": "models:/digits/3", "registry": {"trackingUri": registry}}},
        }
        cluster.kubectl.apply([model])
        try:
            until("the fleet's RayService is there", lambda: made("rayservices.ray.io") == {name})
            until("the fleet's NetworkPolicy is there", lambda: made("networkpolicies") == {name})
            until("the fleet's Secret is there", lambda: f"{name}-auth" in made("secrets"))
            until("a revision is kept", lambda: bool(made("controllerrevisions")))
            until("the model's status is there", lambda: observed(cluster, name))
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{log.read_text()}") from error
        key = cluster.kubectl.json("--namespace", NAMESPACE, "get", "secret", "rayfleet-operator-key")
        assert key["data"]
        lease = cluster.kubectl.json("--namespace", NAMESPACE, "get", "lease", "rayfleet-operator")
        assert lease["spec"]["holderIdentity"]
    assert "forbidden" not in log.read_text().lower()


def observed(cluster: ControlPlane, name: str) -> bool:
    status = cluster.kubectl.json("--namespace", "team-a", "get", "modeldeployment", name).get("status", {})
    return bool(status.get("conditions")) and bool(status["observedGeneration"])
