"""`rayfleet diff` on a real API server and by the real kubectl; and that a new cluster is told of before it is made."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from cluster.binaries import binary
from cluster.control_plane import ControlPlane
from envtest.stage import Stage

from rayfleet_operator.cli.kubectl import KindMissingError, Kubectl
from rayfleet_operator.cli.main import main
from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.render.names import annotation

Json = dict[str, Any]
Diff = Callable[..., Result]

GROUP = {"name": "workers", "minReplicas": 2, "cpu": "2", "memory": "4Gi", "gpu": 1}
FLEET: Json = {
    "image": "serving:1",
    "rayVersion": "2.60.0",
    "env": [{"name": "API_TOKEN", "value": "hunter2"}],
    "workerGroups": [GROUP],
}
MODEL: Json = {"fleet": "vision", "model": {"uri": "models:/web/1"}, "resources": {"cpu": "1"}}
TAKES = "3 pods (5 CPUs, 10 GiB, 2 GPUs)"


def obj(kind: str, name: str, spec: Json, **metadata: Any) -> Json:
    return {
        "apiVersion": "rayfleet.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }


@pytest.fixture
def diff(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Diff:
    monkeypatch.setenv("PATH", f"{binary('kubectl').parent}{os.pathsep}{os.environ['PATH']}")

    def diff(namespace: str, *items: Json, kubeconfig: Path = control_plane.kubeconfig) -> Result:
        file = tmp_path / "objects.yaml"
        file.write_text(yaml.safe_dump_all(items))
        where = ("--namespace", namespace, "--kubeconfig", str(kubeconfig))
        result = CliRunner().invoke(main, ["diff", str(file), *where])
        assert isinstance(result.exception, SystemExit | None), result.exception
        return result

    return diff


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    name = f"diff-{os.urandom(4).hex()}"
    control_plane.kubectl("create", "namespace", name)
    return name


def cost(result: Result) -> str:
    return " ".join(result.output.split("cost:")[1].split())


@pytest.mark.parametrize("server_side", [False, True])
def test_after_apply_there_is_no_difference_whoever_else_wrote(
    control_plane: ControlPlane, diff: Diff, namespace: str, server_side: bool
) -> None:
    model = obj("ModelDeployment", "web", {**MODEL, "rollout": {"strategy": "Canary", "steps": [{"weight": 10}]}})
    files = [obj("ModelFleet", "vision", FLEET), model, obj("ModelDeployment", "own", {"model": MODEL["model"]})]
    assert diff(namespace, *files).exit_code == 1
    how = ["--server-side"] if server_side else []
    control_plane.kubectl("apply", "-n", namespace, *how, "-f", "-", stdin=yaml.safe_dump_all(files))
    same = diff(namespace, *files)
    assert (same.exit_code, same.output.count("unchanged")) == (0, 3), same.output
    # As `rayfleet rollout pause` does, which is in no file.
    paused = {**obj("ModelDeployment", "web", {"rollout": {"paused": True}})}
    options = ("--server-side", "--force-conflicts", "--field-manager=rayfleet-rollout-pause")
    control_plane.kubectl("apply", "-n", namespace, *options, "-f", "-", stdin=json.dumps(paused))
    control_plane.kubectl("annotate", "md", "web", "-n", namespace, "theirs=x")
    same = diff(namespace, *files)
    assert same.exit_code == 0, same.output
    # What the file does not say any more goes with the next apply.
    fewer = obj("ModelFleet", "vision", {key: value for key, value in FLEET.items() if key != "env"})
    gone = diff(namespace, fewer)
    assert gone.exit_code == 1
    assert "spec.env" in gone.output
    assert "hunter2" not in gone.output


def test_a_cluster_without_the_definitions_or_the_right_to_see_is_trouble(
    control_plane: ControlPlane, diff: Diff, namespace: str, tmp_path: Path
) -> None:
    fleet = obj("ModelFleet", "vision", FLEET)
    control_plane.kubectl("create", "serviceaccount", "nobody", "-n", namespace)
    token = control_plane.kubectl("create", "token", "nobody", "-n", namespace).strip()
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    config["users"] = [{"name": each["name"], "user": {"token": token}} for each in config["users"]]
    nobody = tmp_path / "nobody"
    nobody.write_text(yaml.safe_dump(config))
    refused = diff(namespace, fleet, kubeconfig=nobody)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "rayfleet diff needs the right to get modelfleets.rayfleet.io" in refused.stderr

    control_plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(fleet))
    rule = ["--verb=get", "--resource=modelfleets.rayfleet.io"]
    control_plane.kubectl("create", "role", "reader", "-n", namespace, *rule)
    control_plane.kubectl(
        "create", "rolebinding", "reader", "-n", namespace, "--role=reader", f"--serviceaccount={namespace}:nobody"
    )
    assert diff(namespace, fleet, kubeconfig=nobody).exit_code == 0
    little = diff(namespace, obj("ModelFleet", "vision", {**FLEET, "image": "serving:2"}), kubeconfig=nobody)
    assert little.exit_code == 1, little.output
    assert "what runs could not be asked for" in cost(little)
    assert f"it takes {TAKES} more" in cost(little)

    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    nobody.write_text(yaml.safe_dump(config))
    away = diff(namespace, fleet, kubeconfig=nobody)
    assert (away.exit_code, "can it be reached from here" in away.stderr) == (2, True), away.stderr


def test_a_kind_that_the_cluster_does_not_know_is_told_from_other_trouble(
    control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of the real kubectl."""
    monkeypatch.setenv("PATH", f"{binary('kubectl').parent}{os.pathsep}{os.environ['PATH']}")
    kubectl = Kubectl(context=None, kubeconfig=str(control_plane.kubeconfig))
    with pytest.raises(KindMissingError):
        kubectl.get("modelthings.rayfleet.io", ["vision"], namespace=namespace)
    with pytest.raises(KindMissingError):
        kubectl.get("modelthings.example.com", labels="a in (b)", namespace=namespace)


async def seen(diff: Diff, stage: Stage, *items: Json) -> Result:
    return await asyncio.to_thread(diff, stage.namespace, *items)


async def progressing(stage: Stage, fleet: str) -> Json:
    conditions = (await stage.get(kinds.MODEL_FLEET, fleet))["status"]["conditions"]
    found: Json = next(each for each in conditions if each["type"] == "Progressing")
    return found


async def told(stage: Stage, name: str) -> list[str]:
    """Messages of the events about a new cluster for this object."""
    events = await stage.client.list(kinds.EVENT, stage.namespace)
    mine = [each for each in events if each["regarding"]["name"] == name and each["reason"] == "NewCluster"]
    return [each["note"] for each in mine]


async def one_pass(stage: Stage, fleet: str) -> float | None:
    return (await stage.reconciler.reconcile(FleetKey(stage.namespace, fleet))).requeue_after


async def test_a_new_cluster_is_announced_by_diff_and_by_the_status_before_it_is_asked_for(
    stage: Stage, diff: Diff
) -> None:
    await stage.apply("ModelFleet", "vision", FLEET)
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    same = await seen(diff, stage, obj("ModelFleet", "vision", FLEET))
    assert (same.exit_code, same.output) == (0, f"ModelFleet/vision in namespace {stage.namespace}: unchanged\n")

    changed = {**FLEET, "image": "serving:2", "env": [{"name": "API_TOKEN", "value": "hunter3"}]}
    announced = await seen(diff, stage, obj("ModelFleet", "vision", changed))
    assert announced.exit_code == 1
    assert "  spec.image: serving:1 → serving:2\n" in announced.output
    assert f"it takes {TAKES} more" in cost(announced)
    assert "hunter" not in announced.output

    await stage.apply("ModelFleet", "vision", changed)
    before = await stage.get(kinds.RAY_SERVICE, "vision")
    again = await one_pass(stage, "vision")
    assert again is not None
    assert again <= 2
    assert (await stage.get(kinds.RAY_SERVICE, "vision"))["metadata"]["resourceVersion"] == before["metadata"][
        "resourceVersion"
    ]
    said = await progressing(stage, "vision")
    assert (said["status"], said["reason"]) == ("True", "NewCluster")
    assert said["message"] == (
        f"spec.image, spec.env[API_TOKEN].value change: a new Ray cluster of {TAKES} is built beside the old one, "
        "and takes over when it answers"
    )
    assert await told(stage, "vision") == [said["message"]]
    assert await stage.is_ready("web")

    await one_pass(stage, "vision")
    assert await stage.images("vision") == {"serving:2"}
    assert (await progressing(stage, "vision"))["reason"] == "NewCluster"
    assert await told(stage, "vision") == [said["message"]], "it is told once"


async def test_what_is_made_in_place_is_not_announced(stage: Stage, diff: Diff) -> None:
    await stage.apply("ModelFleet", "vision", FLEET)
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    for change in (
        {"workerGroups": [{**GROUP, "minReplicas": 4}]},
        {"routers": {"replicas": 3}},
        {"workerGroups": [GROUP, {"name": "more"}]},
    ):
        after = {**FLEET, **change}
        result = await seen(diff, stage, obj("ModelFleet", "vision", after))
        assert (result.exit_code, cost(result)[:28]) == (1, "in place: no pod is replaced")
        await stage.apply("ModelFleet", "vision", after)
        await one_pass(stage, "vision")
        assert (await progressing(stage, "vision"))["reason"] != "NewCluster"
        await stage.passes("vision", 2)
    assert await told(stage, "vision") == []


async def test_a_fleet_of_a_models_own_is_told_of_by_the_model(stage: Stage, diff: Diff) -> None:
    await stage.model("web")
    await stage.passes("web", 5)
    live = await stage.get(kinds.MODEL_DEPLOYMENT, "web")
    file = obj("ModelDeployment", "web", live["spec"], annotations={"rayfleet.io/restart": "now"})
    result = await seen(diff, stage, file)
    assert "it takes 4 pods (25 CPUs, 26 GiB) more" in cost(result), result.output
    operation = {"op": "add", "path": "/metadata/annotations", "value": {"rayfleet.io/restart": "now"}}
    await stage.client.patch_json(kinds.MODEL_DEPLOYMENT, stage.namespace, "web", [operation])
    await one_pass(stage, "web")
    said = await stage.condition("web", "Progressing")
    assert (said["status"], said["reason"]) == ("True", "NewCluster")
    assert said["message"].startswith(
        'metadata.annotations["rayfleet.io/restart"] changes: a new Ray cluster of 4 pods'
    )
    assert await stage.is_ready("web")
    await one_pass(stage, "web")
    service = await stage.get(kinds.RAY_SERVICE, "web")
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    assert annotation(head, "rayfleet.io/restart") == "now"


async def test_defaults_that_changed_meanwhile_are_to_blame_where_nothing_written_is(stage: Stage) -> None:
    await stage.apply("ModelFleet", "vision", {"workerGroups": [GROUP]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    await stage.restart(image="serving:2")
    await stage.passes("vision", 2)
    assert await told(stage, "vision") == [], "fleets that are there stay as they are"
    await stage.apply("ModelFleet", "vision", {"workerGroups": [GROUP, {"name": "more"}]})
    await one_pass(stage, "vision")
    (message,) = await told(stage, "vision")
    assert message.startswith("what the operator's fleet defaults, or its release, make of the spec changes: a new Ray")


async def test_a_restarted_operator_tells_again_and_then_writes(stage: Stage) -> None:
    await stage.apply("ModelFleet", "vision", FLEET)
    await stage.passes("vision", 5)
    await stage.apply("ModelFleet", "vision", {**FLEET, "image": "serving:2"})
    await one_pass(stage, "vision")
    await stage.restart()
    await one_pass(stage, "vision")
    assert await stage.images("vision") == {"serving:1"}
    await one_pass(stage, "vision")
    assert await stage.images("vision") == {"serving:2"}


async def test_a_spec_that_changes_with_every_pass_is_not_told_of_for_ever(stage: Stage) -> None:
    await stage.apply("ModelFleet", "vision", FLEET)
    await stage.passes("vision", 5)
    for number in (2, 3):
        await stage.apply("ModelFleet", "vision", {**FLEET, "image": f"serving:{number}"})
        await one_pass(stage, "vision")
    assert await stage.images("vision") == {"serving:3"}


async def test_what_is_refused_is_announced_once_and_not_as_on_its_way(stage: Stage) -> None:
    await stage.apply("ModelFleet", "vision", FLEET)
    await stage.passes("vision", 5)
    bad = {"spec": {"containers": [{"name": "ray-head", "resources": {"limits": {"cpu": "much"}}}]}}
    await stage.apply("ModelFleet", "vision", {**FLEET, "head": {"template": bad}})
    await stage.passes("vision", 4)
    assert (await progressing(stage, "vision"))["reason"] != "NewCluster"
    assert await stage.degraded("vision", "RayServiceRefused")
    (message,) = await told(stage, "vision")
    assert message.startswith("spec.head changes: ")
    assert await stage.images("vision") == {"serving:1"}


async def test_a_status_that_cannot_be_written_holds_no_change_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.apply("ModelFleet", "vision", FLEET)
    await stage.passes("vision", 5)
    await stage.apply("ModelFleet", "vision", {**FLEET, "image": "serving:2"})

    async def fails(*arguments: Any, **options: Any) -> Json:
        raise OSError("no")

    monkeypatch.setattr(stage.client, "apply_status", fails)
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            await one_pass(stage, "vision")
    assert await stage.images("vision") == {"serving:2"}
