"""Stands in for kubectl: a program of that name that knows `get`, and answers from a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Json = dict[str, Any]

PROGRAM = """\
#!{python} -I
# Not kubectl: a stand-in for tests.
import json, re, sys

folder = {folder!r}
with open(folder + "/asked", "a") as asked:
    asked.write(json.dumps(sys.argv[1:]) + "\\n")
said = json.load(open(folder + "/said.json"))
options = dict(each.split("=", 1) for each in sys.argv[1:] if each.startswith("--") and "=" in each)
words = [each for each in sys.argv[1:] if not each.startswith("-") and each != "json"]
assert words[0] == "get", words
kind, names = words[1], words[2:]
if kind in said["refusals"]:
    sys.exit(said["refusals"][kind])
namespace = options.get("--namespace", "mine")
found = [each for each in said["objects"].get(kind, []) if each["metadata"].get("namespace", "default") == namespace]
if names:
    found = [each for each in found if each["metadata"]["name"] in names]
else:
    label, among = re.fullmatch(r"(\\S+) in \\((.*)\\)", options["--selector"]).groups()
    found = [each for each in found if each["metadata"].get("labels", {{}}).get(label) in among.split(",")]
if len(names) == 1:
    print(json.dumps(found[0]) if found else "")
elif found or not names:
    print(json.dumps({{"apiVersion": "v1", "kind": "List", "items": found}}))
"""


@dataclass
class KubectlStandIn:
    folder: Path

    def says(self, objects: Sequence[Json] = (), refusals: dict[str, str] | None = None) -> None:
        """These objects are on the cluster; whoever asks for a kind in `refusals` gets its text, and no object."""
        by_kind: dict[str, list[Json]] = {}
        for each in objects:
            by_kind.setdefault(KINDS[each["kind"]], []).append(each)
        (self.folder / "said.json").write_text(json.dumps({"objects": by_kind, "refusals": refusals or {}}))

    def program(self, text: str) -> None:
        """Another program in its place."""
        path = self.folder / "kubectl"
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def asked(self) -> list[list[str]]:
        """The arguments of each call."""
        path = self.folder / "asked"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


KINDS = {
    "ModelFleet": "modelfleets.rayfleet.io",
    "ModelDeployment": "modeldeployments.rayfleet.io",
    "RayService": "rayservices.ray.io",
    "ControllerRevision": "controllerrevisions.apps",
}


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> KubectlStandIn:
    """It is on PATH, before any other."""
    found = KubectlStandIn(folder)
    found.program(PROGRAM.format(python=sys.executable, folder=str(folder)))
    found.says()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return found
