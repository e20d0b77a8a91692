"""What the docs show of `rayfleet diff` and `rayfleet capacity` is what they print."""

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

DOCS = Path(__file__).parents[2] / "docs"
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
    return part("kubernetes.md", "What a change costs")


def part(file: str, heading: str) -> str:
    return (DOCS / file).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]


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


def test_the_capacity_that_is_shown_is_the_output(tmp_path: Path) -> None:
    shown = part("sharing.md", "Which models fit where")
    written, output = re.search(r"```yaml\n(.*?)```", shown, re.DOTALL), re.search(r"```\n(f.*?)```", shown, re.DOTALL)
    assert written is not None
    assert output is not None
    more: dict[str, Json] = {
        "bert": {"gpu": "0.3", "gpuMemory": "6Gi"},
        "tagger": {"gpu": "0.2"},
        "whisper": {"gpu": "0.5"},
    }
    (tmp_path / "shown.yaml").write_text(written[1])
    others = [
        {
            "apiVersion": "rayfleet.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": {"fleet": "vision", "model": {"uri": "models:/a/1"}, "resources": asks},
        }
        for name, asks in more.items()
    ]
    (tmp_path / "others.yaml").write_text(yaml.safe_dump_all(others))
    result = CliRunner().invoke(main, ["capacity", str(tmp_path)])
    assert (result.output, result.exit_code) == (output[1], 1)
