"""Secrets and ConfigMaps that a model or a fleet names: missing, there, changed."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Iterable
from typing import Any

import pytest
from cluster import kuberay
from cluster.deadline import until
from cluster.kubectl import KubectlError

from e2e.conftest import NAMESPACE
from e2e.registry import Registry
from e2e.scene import Scene

ROTATION_S = 150.0
"""The kubelet looks at mounted Secrets about once a minute."""
FIRST, SECOND = secrets.token_hex(16), secrets.token_hex(16)
"""Such as nothing else contains."""
OPERATOR = "app.kubernetes.io/component=operator"


@pytest.fixture(scope="module", autouse=True)
def asked(scene: Scene, models: Registry) -> None:
    models.linear("sealed", 4)
    season = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"SEASON": "winter"}}
    model = scene.model("sealed", "models:/sealed@champion", fleet="vault")
    model["spec"]["model"]["registry"]["secretName"] = "token"
    scene.apply({**season, "metadata": {"name": "season", "namespace": scene.namespace}})
    scene.apply(scene.fleet("vault", envFrom=[{"configMapName": "season"}]), model)


def _secret(scene: Scene, token: str) -> None:
    scene.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "token", "namespace": scene.namespace},
            "stringData": {"MLFLOW_TRACKING_TOKEN": token, "IGNORED": "1"},
        }
    )


def _mounted(scene: Scene) -> set[str]:
    """The token as each worker sees it."""
    found = set()
    for pod in scene.workers("vault"):
        path = "/etc/rayfleet/credentials/sealed.MLFLOW_TRACKING_TOKEN"
        where = ("-n", scene.namespace, pod["metadata"]["name"], "-c", "ray-worker")
        try:
            found.add(scene.kubectl("exec", *where, "--", "cat", path))
        except KubectlError:
            found.add("")
    return found


def test_a_missing_secret_is_named(scene: Scene) -> None:
    found = scene.wait("sealed", "Ready", "False", reason="CredentialsMissing", seconds=120)
    assert "token" in found["message"]


def test_the_secret_reaches_the_replicas(scene: Scene) -> None:
    _secret(scene, FIRST)
    scene.settled("sealed")
    scene.answers("vault", "sealed", 4)
    until("every worker sees it", lambda: _mounted(scene) == {FIRST}, ROTATION_S, every=1)
    stored = scene.get("secret", "vault-credentials")["data"]
    assert {key: base64.b64decode(value) for key, value in stored.items()} == {
        "sealed.MLFLOW_TRACKING_TOKEN": FIRST.encode()
    }


def test_a_rotation_reaches_the_pods_without_a_restart(scene: Scene) -> None:
    pods = _pods(scene)
    began = time.monotonic()
    _secret(scene, SECOND)

    def stored() -> bool:
        return base64.b64encode(SECOND.encode()).decode() in scene.get("secret", "vault-credentials")["data"].values()

    until("the fleet's Secret has it", stored, 60, every=0.3)
    print(f"the fleet's Secret had it after {time.monotonic() - began:.1f} s")
    # The kubelet looks once a minute, and at once where the pod changes: nobody needs to wait here.
    scene.kubectl("annotate", "pods", "-l", "rayfleet.io/fleet=vault", "-n", scene.namespace, "example.com/look=now")
    until("every worker sees it", lambda: _mounted(scene) == {SECOND}, ROTATION_S, every=1)
    print(f"every worker saw it after {time.monotonic() - began:.1f} s")
    assert _pods(scene) == pods
    scene.answers("vault", "sealed", 4)


def _pods(scene: Scene) -> dict[str, int]:
    """How often the containers of each pod were started again."""
    return {
        pod["metadata"]["name"]: sum(each["restartCount"] for each in pod["status"]["containerStatuses"])
        for pod in scene.list("pods", "rayfleet.io/fleet=vault")
    }


def test_no_secret_is_told(scene: Scene) -> None:
    """Two Secrets hold the token: the user's and the fleet's."""
    kinds = "md,mf,events,rayservices,rayclusters,controllerrevisions,configmaps,services,pods"
    told = {"objects": scene.kubectl("get", kinds, "-n", scene.namespace, "-o", "yaml", "--show-managed-fields")}
    ours = scene.kubectl.json("get", "pods", "-n", NAMESPACE, "-l", OPERATOR)["items"]
    for name, pods in (("rayfleet", ours), ("kuberay", kuberay.pods(scene.kubectl))):
        logs = _logs(scene, pods)
        assert len(logs.splitlines()) > 10, f"hardly a word from {name}, so this test shows nothing"
        told[name] = logs
    assert "sealed" in told["objects"]
    for token in (FIRST, SECOND):
        forms = (token, base64.b64encode(token.encode()).decode())
        found = [where for where, text in told.items() for form in forms if form in text]
        assert found == []
    holders = [
        each["metadata"]["name"]
        for each in scene.list("secrets")
        if base64.b64encode(SECOND.encode()).decode() in json.dumps(each)
    ]
    assert sorted(holders) == ["token", "vault-credentials"]


def _logs(scene: Scene, pods: Iterable[dict[str, Any]]) -> str:
    """All that the pods have said, in whichever namespaces they are."""
    where = ((pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in pods)
    return "".join(scene.kubectl("logs", "-n", namespace, name, "--tail=-1") for namespace, name in where)


def test_variables_that_changed_after_pods_had_read_them_are_reported(scene: Scene) -> None:
    clusters = scene.ray_clusters("vault")
    assert scene.condition("vault", "Degraded", kind="modelfleet")["status"] == "False"
    scene.patch("configmap", "season", {"data": {"SEASON": "spring"}})
    found = scene.wait("vault", "Degraded", "True", reason="EnvironmentChanged", kind="modelfleet", seconds=60)
    assert "ConfigMap/season" in found["message"]
    assert "rayfleet.io/restart" in found["message"]
    assert scene.ray_clusters("vault") == clusters
    assert scene.condition("sealed", "Ready")["status"] == "True"
    scene.answers("vault", "sealed", 4)


def test_the_restart_annotation_brings_them(scene: Scene) -> None:
    clusters = scene.ray_clusters("vault")
    with scene.traffic("vault", "sealed", rate=10) as traffic:
        scene.kubectl("annotate", "mf", "vault", "-n", scene.namespace, "rayfleet.io/restart=1", "--overwrite")
        until("another cluster serves", lambda: _serving(scene) not in ("", *clusters), 300, every=1)
        scene.wait("vault", "Degraded", "False", kind="modelfleet")
        scene.answers("vault", "sealed", 4)
        report = traffic.stop()
    print(report)
    assert report.failed == []
    (worker, *_) = scene.list("pods", f"ray.io/cluster={_serving(scene)},ray.io/node-type=worker")
    where = ("-n", scene.namespace, worker["metadata"]["name"], "-c", "ray-worker")
    assert scene.kubectl("exec", *where, "--", "printenv", "SEASON").strip() == "spring"


def _serving(scene: Scene) -> str:
    cluster: str = (scene.get("modelfleet", "vault").get("status") or {}).get("cluster", "")
    return cluster
