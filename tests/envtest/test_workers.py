"""Sizes of worker groups, which KubeRay does not hand on to a cluster that it has made."""

from __future__ import annotations

from typing import Any

from envtest.stage import SPEC, Stage

from rayfleet_operator.kube import kinds

Json = dict[str, Any]


async def test_other_defaults_change_nothing_of_a_fleet_that_exists_until_it_is_restarted(stage: Stage) -> None:
    await stage.apply("ModelFleet", "vision", {})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 3)
    await stage.restart(workerGroups=[{"name": "workers", "cpu": "1"}])
    await stage.apply("ModelDeployment", "web", {**SPEC, "fleet": "vision", "resources": {"cpu": "8"}})
    await stage.passes("vision", 3)
    assert await stage.sizes("vision") == (3, 3)
    assert (await stage.condition("web", "Degraded"))["reason"] != "InsufficientCapacity"
    metadata = {**stage.object("ModelFleet", "vision")["metadata"], "annotations": {"rayfleet.io/restart": "now"}}
    await stage.client.apply({**stage.object("ModelFleet", "vision"), "metadata": metadata}, field_manager="restart")
    await stage.passes("vision", 2)
    (asked,) = (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (asked["minReplicas"], asked["rayStartParams"]["num-cpus"]) == (1, "1")
    assert await stage.sizes("vision") == (3, 3), "the cluster that is to be replaced"
    assert (await stage.condition("web", "Degraded"))["reason"] == "InsufficientCapacity"


async def test_fewer_and_larger_workers_take_none_from_the_cluster_that_serves(stage: Stage) -> None:
    group = {"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi"}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    await stage.apply("ModelFleet", "vision", {"workerGroups": [{**group, "minReplicas": 1, "cpu": "24"}]})
    await stage.passes("vision", 3)
    assert await stage.sizes("vision") == (3, 3)


async def test_an_upgrade_gives_the_cluster_that_serves_no_more_workers(stage: Stage) -> None:
    group = {"name": "workers", "minReplicas": 1, "cpu": "24", "memory": "8Gi"}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    await stage.apply("ModelFleet", "vision", {"workerGroups": [{**group, "minReplicas": 6, "cpu": "4"}]})
    await stage.passes("vision", 3)
    (asked,) = (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert asked["minReplicas"] == 6
    assert await stage.sizes("vision") == (1, 1)


async def test_a_refused_change_takes_no_workers_away(stage: Stage) -> None:
    group = {"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi"}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    bad = {"spec": {"containers": [{"name": "ray-worker", "resources": {"limits": {"cpu": "much"}}}]}}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [{**group, "minReplicas": 1, "template": bad}]})
    await stage.passes("vision", 3)
    assert await stage.sizes("vision") == (3, 3)


async def test_sizes_reach_a_cluster_that_was_made_for_another_spec_of_the_same_pods(stage: Stage) -> None:
    group = {"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi"}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    for replicas in (4, 2, 5, 1, 3):
        # KubeRay does not look at tolerations, and keeps the cluster that there is.
        tolerant = {"spec": {"tolerations": [{"key": f"pool-{replicas}", "operator": "Exists"}]}}
        await stage.apply(
            "ModelFleet", "vision", {"workerGroups": [{**group, "minReplicas": replicas, "template": tolerant}]}
        )
        await stage.passes("vision", 2)
        assert await stage.sizes("vision") == (replicas, replicas)


async def test_fewer_workers_of_the_same_kind_are_taken_in_place(stage: Stage) -> None:
    group = {"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi"}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    await stage.apply("ModelFleet", "vision", {"workerGroups": [{**group, "minReplicas": 2}]})
    await stage.passes("vision", 2)
    assert await stage.sizes("vision") == (2, 2)
