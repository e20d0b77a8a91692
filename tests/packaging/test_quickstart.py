"""The quickstart's folder is what docs/kubernetes.md says of it."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml
from cluster.binaries import binary
from helm_chart import ROOT, Json, of_kind, one

FOLDER = ROOT / "examples" / "quickstart"


@pytest.fixture(scope="module")
def built() -> list[Json]:
    text = subprocess.run([binary("kubectl"), "kustomize", FOLDER], capture_output=True, text=True, check=True).stdout
    return list(yaml.safe_load_all(text))


def test_every_file_is_applied_into_one_namespace(built: list[Json]) -> None:
    files = [file for file in FOLDER.glob("*.yaml") if file.name != "kustomization.yaml"]
    written = [item for file in files for item in yaml.safe_load_all(file.read_text())]
    assert len(built) == len(written)
    assert {item["metadata"]["namespace"] for item in built} == {"default"}
    tracking = one(built, "ModelDeployment")["spec"]["model"]["registry"]["trackingUri"]
    assert tracking == f"http://{one(built, 'Service')['metadata']['name']}.default.svc:5000"


def test_one_entry_names_the_image_of_all_pods(built: list[Json]) -> None:
    pods: list[dict[str, Any]] = [
        item["spec"]["template"]["spec"] for item in built if "template" in item.get("spec", {})
    ]
    assert len(pods) == len([*of_kind(built, "Deployment"), *of_kind(built, "Job")]) == 2
    (named,) = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["images"]
    assert {pod["containers"][0]["image"] for pod in pods} == {f"{named['newName']}:{named['newTag']}"}
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    image = f"{named['name']}:{named['newTag']}"
    assert f"--tag {image} .\n" in page
    assert f"kind load docker-image {image}\n" in page
    assert f"docker tag {image} registry.example.com/{image}\n" in page
    assert f"docker push registry.example.com/{image}\n" in page
    assert f"`newName: registry.example.com/{named['name']}`" in page


def test_the_job_is_deleted_by_its_name_before_its_image_changes(built: list[Json]) -> None:
    job = one(built, "Job")["metadata"]
    command = f"`kubectl delete job -n {job['namespace']} {job['name']}`"
    assert command in (ROOT / "docs" / "kubernetes.md").read_text()
    assert command in (FOLDER / "train.yaml").read_text()


def test_the_training_script_can_be_compiled(built: list[Json]) -> None:
    script = one(built, "ConfigMap")["data"]["train.py"]
    compile(script, "train.py", "exec")
    assert re.search(r"example = images\[:2\]", script)
