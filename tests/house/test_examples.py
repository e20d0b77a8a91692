"""The YAML that we show people is valid, and `rayfleet validate` needs nothing but the base install."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from .base_install import ROOT, rayfleet

API = "rayfleet.io/v1alpha1"
EXAMPLES = sorted(file for file in (ROOT / "examples").rglob("*.yaml") if "rayfleet.io/" in file.read_text())


def blocks(file: Path) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", file.read_text(), flags=re.DOTALL | re.MULTILINE)


def completed(shown: Any) -> dict[str, Any] | None:
    """An object of ours, of which only a part may be shown; None where it is something else."""
    if isinstance(shown, list):
        shown = {"spec": {"workerGroups": [{"name": "others"}, *shown]}}
    if shown.get("apiVersion", API) != API or "spec" not in shown:
        return None
    spec, of_fleet = shown["spec"], {"workerGroups", "gpuSharing"}
    kind = shown.get("kind", "ModelFleet" if of_fleet & spec.keys() else "ModelDeployment")
    model = {"model": {"uri": "models:/digits@champion"}} if kind == "ModelDeployment" else {}
    return {"apiVersion": API, "metadata": {"name": "a"}, **shown, "kind": kind, "spec": model | spec}


DOCS = [
    pytest.param(objects, id=f"{file.stem}-{number}")
    for file in sorted((ROOT / "docs").glob("*.md"))
    for number, block in enumerate(blocks(file))
    if (objects := [each for each in map(completed, yaml.safe_load_all(block)) if each is not None])
]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_example_is_valid_with_the_base_install(file: Path) -> None:
    result = rayfleet("validate", str(file))
    assert (result.returncode, result.stderr) == (0, ""), result.stdout


def test_readme_yaml_is_valid(tmp_path: Path) -> None:
    found = blocks(ROOT / "README.md")
    assert found
    (tmp_path / "readme.yaml").write_text("---\n".join(found))
    result = rayfleet("validate", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("objects", DOCS)
def test_what_the_docs_show_of_our_kinds_is_valid(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(yaml.safe_dump_all(objects))
    result = rayfleet("validate", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
