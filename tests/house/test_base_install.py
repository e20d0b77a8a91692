"""`pip install .` alone brings what the commands need that docs/install.md says it is enough for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .base_install import ROOT, rayfleet

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
    text = (ROOT / "docs" / "install.md").read_text()
    sentence = re.search(r"^`rayfleet [^.]*need\s+neither\s", text, re.MULTILINE)
    assert sentence is not None
    return set(re.findall(r"[a-z]+(?=`)", sentence[0]))


@pytest.mark.parametrize("command", sorted(promised() | ENDS.keys()))
def test_a_command_needs_no_more_than_the_base_installation(command: str, tmp_path: Path) -> None:
    file = tmp_path / "vision.yaml"
    file.write_text(SPEC)
    arguments = [command, str(file)] if command in ENDS else [command, "--help"]
    if command == "simulate":
        arguments += ["--shape", "steps:10s@5", "--curve", "1=30ms"]
    ran = rayfleet(*arguments, path=str(tmp_path))
    assert ran.returncode == ENDS.get(command, 0), ran.stderr
    assert "Traceback" not in ran.stderr
