"""`pip install .` alone brings what the commands need that docs/install.md says it is enough for."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from rayfleet_operator.cli.main import main
main()
"""
SPEC = """
apiVersion: rayfleet.io/v1alpha1
kind: ModelFleet
metadata: {name: vision}
spec: {workerGroups: [{name: cpu, cpu: "8"}]}
---
apiVersion: rayfleet.io/v1alpha1
kind: ModelDeployment
metadata: {name: resnet}
spec: {fleet: vision, model: {uri: models:/resnet/1}}
"""
ENDS = {"validate": 0, "capacity": 0, "simulate": 0, "diff": 2}
"""How those end that need no more than files; diff has no kubectl."""


def promised() -> set[str]:
    sentence = re.search(
        r"^`rayfleet (.*?)\s+need\s+neither\s", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert sentence is not None
    return set(re.findall(r"[a-z]+(?=`)", sentence[0]))


def missing() -> set[str]:
    """Modules of packages that the base installation does not bring."""
    waiting = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    brought = {"rayfleet"}
    while waiting:
        needed = Requirement(waiting.pop())
        name = canonicalize_name(needed.name)
        if name not in brought and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
            brought.add(name)
            waiting += metadata.requires(name) or []
    packages = metadata.packages_distributions()
    return {module for module, of in packages.items() if not brought & {canonicalize_name(each) for each in of}}


@pytest.mark.parametrize("command", sorted(promised()))
def test_a_command_needs_no_more_than_the_base_installation(command: str, tmp_path: Path) -> None:
    file = tmp_path / "vision.yaml"
    file.write_text(SPEC)
    arguments = [command, str(file)] if command in ENDS else [command, "--help"]
    if command == "simulate":
        arguments += ["--shape", "steps:10s@5", "--curve", "1=30ms"]
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing()), *arguments],
        env={"PATH": str(tmp_path), "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'serving'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == ENDS.get(command, 0), ran.stderr
    assert "Traceback" not in ran.stderr
