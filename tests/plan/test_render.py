"""`rayfleet render`: what it prints for files, and when it prints nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from ray.serve.schema import ServeDeploySchema

from rayfleet_operator.cli.main import main

from .scenes import table_of

MODEL = """
apiVersion: rayfleet.io/v1alpha1
kind: ModelDeployment
metadata: {{name: {name}}}
spec:
  {fleet}
  model: {{uri: {uri}}}
  limits: {{maxQueuedRequests: 7}}
"""
FLEET = """
apiVersion: rayfleet.io/v1alpha1
kind: ModelFleet
metadata: {{name: {name}}}
spec: {{routers: {{replicas: {replicas}}}}}
"""


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """A folder that holds an MLflow model, as far as its digest goes."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {python_function: {loader_module: mlflow.sklearn}}\n")
    return folder


@pytest.fixture
def files(tmp_path: Path, artifacts: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, fleet in (("digits", "fleet: vision"), ("faces", "fleet: vision"), ("words", "")):
        (folder / f"{name}.yaml").write_text(MODEL.format(name=name, fleet=fleet, uri=artifacts))
    (folder / "vision.yaml").write_text(FLEET.format(name="vision", replicas=3))
    return folder


def render(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, ["render", *map(str, arguments)], env=env or {})


def apps(config: dict[str, object]) -> dict[str, int]:
    """Applications by the model's name, with how many there are."""
    entries = config["applications"]
    assert isinstance(entries, list)
    names = [entry["args"].get("name", entry["name"]) for entry in entries]
    return {name: names.count(name) for name in names}


def test_yaml_and_json_hold_the_same_config(files: Path) -> None:
    as_yaml, as_json = render(files), render(files, "--output", "json")
    assert (as_yaml.exit_code, as_json.exit_code) == (0, 0), as_yaml.output
    config = json.loads(as_json.stdout)
    assert yaml.safe_load(as_yaml.stdout) == config
    assert "&id" not in as_yaml.stdout
    assert apps(config) == {"digits": 1, "faces": 1, "words": 1, "router": 1}
    assert table_of(config).models["digits"].limits.max_queued_requests == 7
    assert table_of(config).routers == 3
    ServeDeploySchema.model_validate(config)


def test_the_same_files_give_the_same_bytes(files: Path) -> None:
    assert render(files).stdout_bytes == render(*sorted(files.iterdir(), reverse=True)).stdout_bytes


def test_one_fleet_of_several(files: Path) -> None:
    (files / "speech.yaml").write_text(FLEET.format(name="speech", replicas=2))

    both = render(files)
    assert (both.exit_code, both.stdout) == (1, "")
    assert "vision" in both.stderr
    assert "speech" in both.stderr
    assert "--fleet" in both.stderr

    one = render(files, "--fleet", "vision")
    assert apps(yaml.safe_load(one.stdout)) == {"digits": 1, "faces": 1, "router": 1}

    empty = render(files, "--fleet", "speech")
    assert (empty.exit_code, empty.stdout) == (1, "")
    assert "no ModelDeployment to render on fleet speech" in empty.stderr

    unknown = render(files, "--fleet", "sound")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "there is no ModelFleet sound" in unknown.stderr


def test_every_problem_of_the_files_and_no_config(files: Path) -> None:
    (files / "bad.yaml").write_text(MODEL.format(name="bad", fleet="replica: 2", uri="nowhere"))
    result = render(files)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "did you mean replicas?" in result.stderr
    assert "nowhere" in result.stderr


def test_every_model_that_does_not_resolve_and_no_config(files: Path, tmp_path: Path) -> None:
    (files / "a.yaml").write_text(MODEL.format(name="gone", fleet="", uri=tmp_path / "gone"))
    (files / "b.yaml").write_text(MODEL.format(name="far", fleet="", uri="models:/far@live"))
    # Port 9 (discard) of this machine: nothing listens there.
    result = render(files, env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert any(line.startswith("ModelDeployment/gone: ArtifactNotFound: ") for line in lines)
    assert any(line.startswith("ModelDeployment/far: RegistryUnreachable: ") for line in lines)


def test_nothing_to_render(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET.format(name="vision", replicas=2))
    result = render(tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no ModelDeployment" in result.stderr


def test_two_models_of_one_name(files: Path) -> None:
    text = (files / "words.yaml").read_text()
    (files / "other.yaml").write_text(text.replace("{name: words}", "{name: words, namespace: team-b}"))
    result = render(files)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "words" in result.stderr
