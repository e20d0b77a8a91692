"""What docs/kubernetes.md shows of `rayfleet diff` is what it prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.cli.main import main
from rayfleet_operator.render import objects
from rayfleet_operator.render.names import FleetName
from rayfleet_operator.render.raycluster import cluster_spec, ordered
from rayfleet_operator.render.upgrade import asked, beside, blamed

from .kubectl_stand_in import installed

Json = dict[str, Any]

DOCS = Path(__file__).parents[2] / "docs" / "kubernetes.md"
NAME = FleetName("ml", "vision")
GPUS: Json = {"name": "gpu", "minReplicas": 2, "maxReplicas": 4, "cpu": "8", "memory": "32Gi", "gpu": 1}
BEFORE: Json = {
    "image": "registry.example.com/serving:1",
    "rayVersion": "2.60.0",
    "env": [{"name": "API_TOKEN", "value": "before"}],
    "workerGroups": [GPUS],
}
AFTER: Json = {
    **BEFORE,
    "image": "registry.example.com/serving:2",
    "env": [{"name": "API_TOKEN", "value": "after"}],
    "workerGroups": [{**GPUS, "maxReplicas": 6}],
}


def section() -> str:
    return DOCS.read_text().split("## What a change costs\n")[1].split("\n## ")[0]


def obj(kind: str, name: str, spec: Json) -> Json:
    metadata = {"name": name, "namespace": "ml"}
    return {"apiVersion": "rayfleet.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def test_the_output_that_is_shown_is_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = {"strategy": "Canary", "steps": [{"weight": 10, "hold": "10m"}]}
    resnet: Json = {"fleet": "vision", "model": {"uri": "models:/resnet@live"}, "replicas": 2, "rollout": rollout}
    unet = obj("ModelDeployment", "unet", {"fleet": "vision", "model": {"uri": "models:/unet@live"}})
    cluster = cluster_spec(NAME, ModelFleetSpec.model_validate(BEFORE))
    service = objects.rayservice(
        NAME, [], cluster=cluster, serve_config=b"", inputs="a", environment="", longest_request_s=1
    )
    before = obj("ModelDeployment", "resnet", {**resnet, "resources": {"gpu": "0.33"}})
    after = obj("ModelDeployment", "resnet", {**resnet, "resources": {"gpu": "0.5"}})
    installed(tmp_path, monkeypatch).says([obj("ModelFleet", "vision", BEFORE), before, unet, service])
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump_all([obj("ModelFleet", "vision", AFTER), after, unet]))
    result = CliRunner().invoke(main, ["diff", str(file)])
    shown = re.search(r"```\n(.*?)```", section(), re.DOTALL)
    assert shown is not None
    assert result.output == shown[1]
    assert result.exit_code == 1


def test_the_announcement_that_is_shown_is_the_announcement() -> None:
    group = {key: value for key, value in GPUS.items() if key != "maxReplicas"}
    before: Json = {**BEFORE, "workerGroups": [group]}

    def render(tree: Json) -> Json:
        return cluster_spec(NAME, ordered(ModelFleetSpec.model_validate(tree["spec"]), None))

    after = {**before, "image": AFTER["image"]}
    fields = blamed(asked(before, ""), asked(after, ""), render)
    assert f"    {beside(render(asked(after, '')), fields)}\n" in section()
