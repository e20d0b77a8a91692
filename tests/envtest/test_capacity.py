"""Three models on one GPU of a fleet, a fourth that finds no room, and what is said of it, on a real API server."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from click.testing import CliRunner
from cluster.binaries import binary
from cluster.control_plane import ControlPlane
from envtest.stage import NOWHERE, Stage

from rayfleet_operator.cli.main import main
from rayfleet_operator.kube import kinds

Json = dict[str, Any]

CPU = {"name": "cpu", "cpu": "4", "memory": "8Gi"}
GPU = {
    "name": "gpu",
    "maxReplicas": 2,
    "cpu": "8",
    "memory": "32Gi",
    "gpu": 1,
    "gpuMemory": "24Gi",
    "accelerator": "L4",
    "spot": True,
}
ONE = {**GPU, "minReplicas": 1, "maxReplicas": 1}
# Another group that may grow, so that Ray's autoscaler is there whatever the GPUs' bounds are.
ELASTIC = [{**CPU, "maxReplicas": 2}, ONE]


async def ask(stage: Stage, name: str, gpu: str, **resources: str) -> None:
    await stage.model(name, fleet="vision")
    model = {"uri": f"models:/{name}/1", "registry": {"trackingUri": NOWHERE}}
    spec = {"fleet": "vision", "model": model, "resources": {"cpu": "1", "gpu": gpu, **resources}}
    await stage.apply("ModelDeployment", name, spec)


async def three(stage: Stage) -> None:
    await stage.apply("ModelFleet", "vision", {"workerGroups": ELASTIC})
    for name, gpu in (("a", "0.5"), ("b", "0.3"), ("c", "0.2")):
        await ask(stage, name, gpu, accelerator="L4")
    await stage.passes("vision", 6)
    for name in "abc":
        assert await stage.is_ready(name)


async def applications(stage: Stage) -> dict[str, Json]:
    service = await stage.get(kinds.RAY_SERVICE, "vision")
    return {app["name"]: app for app in json.loads(service["spec"]["serveConfigV2"])["applications"]}


async def test_a_fourth_is_refused_with_the_sum_and_taken_once_the_live_cluster_may_grow(stage: Stage) -> None:
    await three(stage)
    before = await applications(stage)
    await ask(stage, "d", "0.5", gpuMemory="1Gi")
    await stage.passes("vision", 3)
    degraded = await stage.condition("d", "Degraded")
    assert degraded["reason"] == "InsufficientCapacity"
    assert "needs 0.5 GPU, 0 free on 1 GPU" in degraded["message"]
    assert (await stage.condition("d", "Ready"))["status"] == "False"
    after = await applications(stage)
    assert {name: app for name, app in after.items() if name != "router"} == {
        name: app for name, app in before.items() if name != "router"
    }
    status = (await stage.get(kinds.MODEL_FLEET, "vision"))["status"]
    assert [(each["name"], each["refused"]) for each in status["waiting"]] == [("d", True)]
    (gpus,) = (each for each in status["capacity"] if each["name"] == "gpu")
    assert (gpus["gpusAsked"], gpus["gpusFree"], gpus["gpuMemoryFree"]) == ("1", "0", "24Gi")
    for name in "abc":
        assert await stage.is_ready(name)
        # Of a registry that does not answer they are told, and of nothing else.
        assert (await stage.condition(name, "Degraded"))["reason"] == "RegistryUnreachable"

    made = (await stage.get(kinds.RAY_CLUSTER, "vision-abcde"))["metadata"]["uid"]
    await stage.apply("ModelFleet", "vision", {"workerGroups": [ELASTIC[0], {**ONE, "maxReplicas": 2}]})
    await stage.passes("vision", 6)
    live = await stage.get(kinds.RAY_CLUSTER, "vision-abcde")
    assert live["metadata"]["uid"] == made
    bounds = {each["groupName"]: each["maxReplicas"] for each in live["spec"]["workerGroupSpecs"]}
    assert bounds == {"cpu": 2, "gpu": 2}, "KubeRay hands them on to no cluster that it has made"
    assert await stage.is_ready("d")
    assert (await stage.get(kinds.MODEL_FLEET, "vision"))["status"].get("waiting", []) == []


async def test_nothing_is_written_while_somebody_waits_and_nothing_changes(stage: Stage) -> None:
    await three(stage)
    await ask(stage, "d", "0.5")

    async def all_told() -> bool:
        conditions = (await stage.get(kinds.MODEL_DEPLOYMENT, "d"))["status"].get("conditions", [])
        return any("room" in each["message"] and "refuses connections" in each["message"] for each in conditions)

    await stage.until("vision", all_told, "the lack of room and the registry's silence are told")
    await stage.passes("vision", 1)
    versions = [
        (await stage.get(kind, name))["metadata"]["resourceVersion"]
        for kind, name in ((kinds.MODEL_FLEET, "vision"), (kinds.MODEL_DEPLOYMENT, "d"), (kinds.RAY_SERVICE, "vision"))
    ]
    await stage.passes("vision", 3)
    assert versions == [
        (await stage.get(kind, name))["metadata"]["resourceVersion"]
        for kind, name in ((kinds.MODEL_FLEET, "vision"), (kinds.MODEL_DEPLOYMENT, "d"), (kinds.RAY_SERVICE, "vision"))
    ]


async def test_the_command_counts_what_the_api_server_has(
    stage: Stage, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{binary('kubectl').parent}{os.pathsep}{os.environ['PATH']}")
    where = ("--live", "--namespace", stage.namespace, "--kubeconfig", str(control_plane.kubeconfig))
    none = CliRunner().invoke(main, ["capacity", *where])
    assert none.exit_code == 1
    assert "there is no fleet to count" in none.output
    await three(stage)
    found = CliRunner().invoke(main, ["capacity", *where])
    assert found.exit_code == 0, found.output
    assert "GPU 0: 0 free, 24 GiB of 24 GiB free: a 0.5, b 0.3, c 0.2" in found.output
    assert "2 x routers" in found.output
    await ask(stage, "d", "0.5")
    await stage.passes("vision", 3)
    found = CliRunner().invoke(main, ["capacity", *where])
    assert found.exit_code == 1
    assert "waiting: d: a replica needs 0.5 GPU, 0 free on 1 GPU" in found.output


async def test_routers_ask_for_workers_that_stay(stage: Stage) -> None:
    await three(stage)
    (router,) = (await applications(stage))["router"]["deployments"]
    assert router["ray_actor_options"]["resources"] == {"on-demand": 0.001}
    (a,) = (app for name, app in (await applications(stage)).items() if name.startswith("a-"))
    assert a["deployments"][0]["ray_actor_options"]["resources"] == {"accelerator:L4": 0.001}
