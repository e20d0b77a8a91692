"""Things die while requests go on. What may be lost is said with each; everything else must be answered."""

from __future__ import annotations

import time
from typing import Any

import pytest
from cluster import kuberay
from cluster.deadline import until
from cluster.providers import Cluster, NodeCluster

from e2e.conftest import NAMESPACE
from e2e.killing import kill, killing, operators
from e2e.registry import Registry
from e2e.scene import Scene

PLACED_TIMES = 4
"""How often Serve may place the model's replicas until some worker can be spared."""


@pytest.fixture(scope="module", autouse=True)
def served(scene: Scene, models: Registry) -> None:
    models.linear("tough", 1)
    scene.apply(scene.fleet("sturdy"), scene.model("tough", "models:/tough@champion", fleet="sturdy"))
    scene.settled("tough")


def _leader(scene: Scene) -> str:
    """Name of the pod that holds the Lease; "" while none does."""
    lease = scene.kubectl.json("get", "lease", "rayfleet-operator", "-n", NAMESPACE)
    holder: str = (lease.get("spec") or {}).get("holderIdentity") or ""
    return holder.partition("_")[0]


def test_a_rollout_survives_operators_that_are_killed_all_the_time(
    scene: Scene, models: Registry, cluster: Cluster
) -> None:
    clusters = scene.ray_clusters("sturdy")
    with scene.traffic("sturdy", "tough") as traffic, killing(scene, cluster, times=20) as killed:
        scene.settled("tough", version=models.linear("tough", 2))
        scene.patch("modeldeployment", "tough", {"spec": {"limits": {"maxQueuedRequests": 60}}})
        scene.settled("tough")
        scene.settled("tough", version=models.linear("tough", 3))
        report = traffic.stop()
    print(f"{len(killed)} operators killed; {report}")
    assert len(killed) >= 3
    assert report.failed == []
    assert scene.ray_clusters("sturdy") == clusters
    scene.answers("sturdy", "tough", 3)


def test_another_operator_leads_when_the_leader_is_killed(scene: Scene, cluster: Cluster) -> None:
    scene.kubectl("rollout", "status", "deploy/rayfleet-operator", "-n", NAMESPACE, "--timeout=120s")
    until("somebody leads", lambda: _leader(scene) in operators(scene), 60, every=0.5)
    leader = _leader(scene)
    assert kill(scene, cluster, NAMESPACE, leader)
    began = time.monotonic()
    until("another one leads", lambda: _leader(scene) not in (leader, ""), 60, every=0.2)
    print(f"another operator led after {time.monotonic() - began:.1f} s")
    scene.kubectl("delete", "service", "sturdy", "-n", scene.namespace)
    until("it works", lambda: bool(scene.get("service", "sturdy")), 60, every=0.3)
    print(f"and had made a deleted Service again after {time.monotonic() - began:.1f} s")
    scene.answers("sturdy", "tough", 3, seconds=30)


def test_kuberay_killed_while_a_version_arrives(scene: Scene, models: Registry, cluster: Cluster) -> None:
    clusters = scene.ray_clusters("sturdy")
    with scene.traffic("sturdy", "tough") as traffic:
        version = models.linear("tough", 4)
        pods = kuberay.pods(scene.kubectl)
        killed = [kill(scene, cluster, pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in pods]
        assert any(killed)
        scene.settled("tough", version=version)
        report = traffic.stop()
    print(report)
    assert report.failed == []
    assert scene.ray_clusters("sturdy") == clusters
    scene.answers("sturdy", "tough", 4)


def test_a_worker_deleted(scene: Scene) -> None:
    """Gracefully, as a node is drained. Requests find the router and the replica of another worker; those that it has
    as it goes may be lost."""
    gone = _dispensable(scene)
    address = gone["status"]["podIP"]
    with scene.traffic("sturdy", "tough") as traffic:
        began = time.monotonic()
        scene.kubectl("delete", "pod", gone["metadata"]["name"], "-n", scene.namespace, timeout=180)
        print(f"the worker was gone after {time.monotonic() - began:.1f} s")
        until("Serve has replaced what it had", lambda: _replaced(scene, address), 180, every=0.5)
        print(f"what it had was replaced after {time.monotonic() - began:.1f} s")
        until("both routers report", lambda: scene.routers("sturdy") == 2, 60, every=0.5)
        scene.settled("tough")
        report = traffic.stop()
    print(report)
    assert len(report.failed) <= 0.01 * report.sent
    assert report.raw["longest_gap_s"] < 30
    scene.answers("sturdy", "tough", 4)


def _dispensable(scene: Scene) -> dict[str, Any]:
    """A worker that has a router or a replica, at best both, while others have both, too. Serve moves nothing by
    itself, so replicas are started anew until it is so. Two of them on different workers are enough: only one of these
    workers can have all routers, so the other one can be spared."""
    tried = []
    for _ in range(PLACED_TIMES):
        _scale(scene, 1)
        _scale(scene, 2)
        places = scene.places("sturdy")
        if found := _spared(scene.workers("sturdy"), places):
            return found
        tried.append(places)
    pytest.fail(f"each worker had all routers or all replicas, so that none can be spared: {tried}")


def _scale(scene: Scene, replicas: int) -> None:
    scene.patch("modeldeployment", "tough", {"spec": {"replicas": replicas}})
    running = f"tough has {replicas} running replicas"
    until(running, lambda: scene.get("modeldeployment", "tough")["status"]["replicas"] == replicas, 120, every=0.5)
    scene.settled("tough")


def _spared(workers: list[dict[str, Any]], places: dict[str, list[str]]) -> dict[str, Any] | None:
    """The worker that has something of most applications, all of which run elsewhere, too; None if there is none."""

    def has(worker: dict[str, Any]) -> int:
        return sum(worker["status"].get("podIP") in addresses for addresses in places.values())

    def spared(worker: dict[str, Any]) -> bool:
        return all(set(addresses) - {worker["status"]["podIP"]} for addresses in places.values())

    return max((each for each in workers if has(each) and spared(each)), key=has, default=None)


def _replaced(scene: Scene, address: str) -> bool:
    """Whether two replicas of everything run, and none in the pod of that address."""
    places = scene.places("sturdy")
    return all(len(found) == 2 and address not in found for found in places.values())


def test_the_head_deleted_without_redis(scene: Scene) -> None:
    """Ray has nowhere to keep what it knows, so everything starts anew; the status says so, and it heals by itself."""
    (head,) = scene.list("pods", "rayfleet.io/fleet=sturdy,ray.io/node-type=head")
    versions = scene.get("modeldeployment", "tough")["status"]["versions"]
    with scene.traffic("sturdy", "tough", rate=10) as traffic:
        began = time.monotonic()
        scene.kubectl("delete", "pod", head["metadata"]["name"], "-n", scene.namespace, "--wait=false")
        until("the status says so", lambda: scene.condition("tough", "Ready").get("status") != "True", 60, every=0.3)
        print(f"Ready was no longer True after {time.monotonic() - began:.1f} s: {scene.condition('tough', 'Ready')}")
        scene.settled("tough")
        print(f"Ready again after {time.monotonic() - began:.1f} s")
        # Where the asker is, a dead worker may be known a moment later than where the operator is.
        scene.answers("sturdy", "tough", 4, seconds=10)
        print(f"answered three times in a row {time.monotonic() - began:.1f} s after the head was deleted")
        report = traffic.stop()
    print(report)
    after = scene.get("modeldeployment", "tough")["status"]["versions"]
    assert [each["app"] for each in after] == [each["app"] for each in versions]
    assert report.failed, "the outage was not seen, so this test shows nothing"


def test_the_api_server_and_the_kubelet_restarted(cluster: Cluster, scene: Scene, models: Registry) -> None:
    if not isinstance(cluster, NodeCluster):
        pytest.skip("the parts of other clusters are not ours to kill")
    with scene.traffic("sturdy", "tough") as traffic:
        for name in ("kube-apiserver", "kubelet"):
            cluster.node.kill(name)
            cluster.node.start(name)
        began = time.monotonic()
        version = models.linear("tough", 5)
        scene.settled("tough", version=version)
        print(f"a new version was alone {time.monotonic() - began:.1f} s after they were back")
        report = traffic.stop()
    print(report)
    assert report.failed == []
    scene.answers("sturdy", "tough", 5)
