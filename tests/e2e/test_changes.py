"""What can be changed while requests go on, and which of it builds a new Ray cluster."""

from __future__ import annotations

import time
from typing import Any

import pytest
from cluster.deadline import until
from cluster.providers import ClusterError

from e2e.conftest import small_defaults
from e2e.registry import Registry
from e2e.scene import START_S, Scene

WORKERS = "rayfleet.io/fleet=steady,ray.io/node-type=worker"


@pytest.fixture(scope="module", autouse=True)
def served(scene: Scene, models: Registry) -> None:
    first = models.linear("counter", 1)
    scene.apply(
        scene.fleet("steady", workerGroups=small_defaults(scene.images["serving"])["workerGroups"]),
        scene.model("counter", "models:/counter@champion", fleet="steady"),
    )
    scene.settled("counter", version=first)


def test_settings_and_versions_change_in_place(scene: Scene, models: Registry) -> None:
    before = scene.ray_clusters("steady")
    assert len(before) == 1
    with scene.traffic("steady", "counter") as traffic:
        scene.patch("modeldeployment", "counter", {"spec": {"batching": {"maxBatchSize": 8, "maxWait": "1ms"}}})
        scene.settled("counter")
        scene.patch("modeldeployment", "counter", {"spec": {"limits": {"maxQueuedRequests": 50}}})
        scene.settled("counter")
        scene.patch("modeldeployment", "counter", {"spec": {"replicas": 2}})
        until("two replicas run", lambda: scene.get("modeldeployment", "counter")["status"]["replicas"] == 2, 120)
        scene.settled("counter")
        scene.patch("modelfleet", "steady", {"spec": {"routers": {"replicas": 3, "cpu": "0.1"}}})
        until("three routers report", lambda: scene.routers("steady") == 3, 120, every=0.5)
        second = models.linear("counter", 2)
        scene.settled("counter", version=second)
        report = traffic.stop()
    print(report)
    assert report.failed == []
    assert len(report.versions) == 2
    assert second in report.versions
    assert scene.ray_clusters("steady") == before
    scene.answers("steady", "counter", 2)


def test_the_number_of_workers_changes_in_place(scene: Scene) -> None:
    """KubeRay does not pass the sizes of worker groups on."""
    before = scene.ray_clusters("steady")
    (group,) = scene.get("modelfleet", "steady")["spec"]["workerGroups"]
    with scene.traffic("steady", "counter") as traffic:
        scene.patch("modelfleet", "steady", {"spec": {"workerGroups": [{**group, "minReplicas": 3}]}})
        until("three workers run", lambda: _running(scene) == 3, 120, every=1)
        scene.patch("modelfleet", "steady", {"spec": {"workerGroups": [{**group, "minReplicas": 2}]}})
        until("two workers are left", lambda: len(scene.list("pods", WORKERS)) == 2, 120, every=1)
        report = traffic.stop()
    print(report)
    assert len(report.failed) <= 0.01 * report.sent
    assert scene.ray_clusters("steady") == before
    scene.answers("steady", "counter", 2)


def _running(scene: Scene) -> int:
    return sum(pod["status"]["phase"] == "Running" for pod in scene.list("pods", WORKERS))


def test_a_change_of_the_environment_builds_one_new_cluster_and_loses_nothing(scene: Scene) -> None:
    """Not even when the old one goes."""
    _builds_one_cluster(scene, {"env": [{"name": "SEASON", "value": "winter"}]}, until_the_old_one_is_gone=True)


def test_a_change_of_the_image_builds_one_new_cluster_and_loses_nothing(scene: Scene) -> None:
    if "extended" not in scene.images:
        raise ClusterError("set RAYFLEET_E2E_EXTENDED_IMAGE to another serving image that the cluster can pull")
    assert scene.images["extended"] != scene.images["serving"]
    _builds_one_cluster(scene, {"image": scene.images["extended"]})
    pods = scene.list("pods", f"ray.io/cluster={_serving(scene)}")
    assert len(pods) == 3
    assert {container["image"] for pod in pods for container in pod["spec"]["containers"]} == {scene.images["extended"]}


def _serving(scene: Scene) -> str:
    """The cluster that the status calls the fleet's."""
    return str(scene.get("modelfleet", "steady")["status"]["cluster"])


def _builds_one_cluster(scene: Scene, change: dict[str, Any], *, until_the_old_one_is_gone: bool = False) -> None:
    (before,) = scene.ray_clusters("steady")
    seen = {before}
    with scene.traffic("steady", "counter") as traffic:
        began = time.monotonic()
        scene.patch("modelfleet", "steady", {"spec": change})

        def replaced() -> bool:
            now = scene.ray_clusters("steady")
            seen.update(now)
            return _serving(scene) not in ("", before) and not (until_the_old_one_is_gone and before in now)

        until("the new cluster serves", replaced, START_S + 120, every=0.5)
        print(f"it served after {time.monotonic() - began:.0f} s, alone: {until_the_old_one_is_gone}; {sorted(seen)}")
        scene.wait("steady", kind="modelfleet")
        scene.answers("steady", "counter", 2)
        report = traffic.stop()
    print(report)
    assert report.failed == []
    assert len(seen) == 2
    assert seen == {before, _serving(scene)}
