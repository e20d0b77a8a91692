"""A fleet whose Ray keeps what it knows in Redis: the head may die, and nobody notices."""

from __future__ import annotations

import time
from typing import Any

import pytest
from cluster.deadline import until
from cluster.providers import ClusterError

from e2e.registry import Registry
from e2e.scene import START_S, Scene

PASSWORD = "such-as-only-pods-know"
HEAD = "rayfleet.io/fleet=lasting,ray.io/node-type=head"


def _redis(scene: Scene) -> list[dict[str, Any]]:
    named = {"name": "redis", "namespace": scene.namespace}
    labels = {"app": "redis"}
    container = {
        "name": "redis",
        "image": scene.images["redis"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", 'exec redis-server --bind 0.0.0.0 --save "" --dir /tmp --requirepass "$PASSWORD"'],
        "env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}}],
        "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": named, "stringData": {"password": PASSWORD}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": named,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": named,
            "spec": {"selector": labels, "ports": [{"port": 6379}]},
        },
    ]


@pytest.fixture(scope="module", autouse=True)
def served(scene: Scene, models: Registry) -> None:
    if "redis" not in scene.images:
        raise ClusterError("set RAYFLEET_E2E_REDIS_IMAGE to an image of Redis that the cluster can pull")
    version = models.linear("lasting", 6)
    scene.apply(*_redis(scene))
    scene.kubectl("rollout", "status", "-n", scene.namespace, "deploy/redis", "--timeout=120s")
    storage = {"redisAddress": "redis:6379", "passwordSecret": {"name": "redis", "key": "password"}}
    scene.apply(
        scene.fleet("lasting", head={"gcsFaultTolerance": storage}),
        scene.model("lasting", "models:/lasting@champion", fleet="lasting"),
    )
    scene.settled("lasting", version=version)


def test_the_head_is_deleted_and_nothing_is_lost(scene: Scene, models: Registry) -> None:
    clusters = scene.ray_clusters("lasting")
    (head,) = scene.list("pods", HEAD)
    workers = {pod["metadata"]["uid"] for pod in scene.workers("lasting")}
    with scene.traffic("lasting", "lasting") as traffic:
        began = time.monotonic()
        scene.kubectl("delete", "pod", head["metadata"]["name"], "-n", scene.namespace, "--wait=false")

        def replaced() -> bool:
            found = [pod for pod in scene.list("pods", HEAD) if pod["metadata"]["uid"] != head["metadata"]["uid"]]
            return bool(found) and all(
                each["ready"] for each in found[0]["status"].get("containerStatuses") or [{"ready": False}]
            )

        until("there is another head", replaced, START_S, every=0.5)
        print(f"another head was ready after {time.monotonic() - began:.1f} s")
        version = models.linear("lasting", 7)
        scene.settled("lasting", version=version)
        print(f"a new version was alone after {time.monotonic() - began:.1f} s")
        report = traffic.stop()
    print(report)
    assert report.failed == []
    assert scene.ray_clusters("lasting") == clusters
    assert {pod["metadata"]["uid"] for pod in scene.workers("lasting")} == workers, "no worker was replaced"
    scene.answers("lasting", "lasting", 7)


def test_deleting_the_fleet_leaves_nothing(scene: Scene) -> None:
    """KubeRay cleans Redis up in a Job, and holds the Ray cluster until it has."""
    scene.kubectl("delete", "modeldeployment", "lasting", "-n", scene.namespace, "--timeout=60s")
    scene.kubectl("delete", "modelfleet", "lasting", "-n", scene.namespace, "--timeout=60s")
    until("nothing is left", lambda: not scene.ray_clusters("lasting") and not scene.list("pods", HEAD), 180, every=1)
