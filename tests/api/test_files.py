"""Which files and folders are read, and what is said of the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rayfleet_operator.api import documents

from .texts import FLEET, lines, load


def test_objects_of_others_are_skipped_with_a_note(tmp_path: Path) -> None:
    loaded = load(tmp_path, "apiVersion: v1\nkind: Secret\n---\n" + FLEET % "a")
    assert (loaded.problems, len(loaded.fleets)) == ((), 1)
    assert [str(note) for note in loaded.notes] == [f"{tmp_path}/a.yaml:1: skipped: 'Secret' is not of rayfleet.io"]


def test_folders_are_read_at_any_depth_in_order(tmp_path: Path) -> None:
    for name in ("b/z.yaml", "b/a.yml", "a.yaml", "b/c/d.yaml", ".git/hidden.yaml", "b/.hidden.yaml", "b/readme.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(FLEET % name.replace("/", "-").replace(".", "-").strip("-"))
    (tmp_path / "b/conda.yaml").write_text("name: env\ndependencies: []\n")
    os.symlink(tmp_path / "b", tmp_path / "b/c/loop")
    os.symlink(tmp_path / "a.yaml", tmp_path / "b/link.yaml")

    loaded = documents.load([tmp_path, tmp_path / "a.yaml"])
    assert loaded.problems == ()
    assert [fleet.metadata.name for fleet in loaded.fleets] == ["a-yaml", "b-a-yml", "b-c-d-yaml", "b-z-yaml"]
    assert [str(note) for note in loaded.notes] == [
        f"{tmp_path}/b/conda.yaml:1: skipped: not a Kubernetes object; it has no apiVersion: rayfleet.io/v1alpha1"
    ]


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    loaded = documents.load([tmp_path / "nowhere", tmp_path / "pipe"])
    assert lines(loaded, tmp_path) == [
        "nowhere: no such file; name YAML files or folders",
        "pipe: not a regular file; name YAML files or folders",
    ]


# Root, who may run this, can enter every folder; so the child becomes nobody, once a first load imported everything.
AS_NOBODY = """
import os
from rayfleet_operator.api import documents
from rayfleet_operator.local.sources import signature

documents.load(["good.yaml"])
if os.getuid() == 0:
    os.setuid(65534)
loaded = documents.load([".", "theirs/b.yaml", "theirs"])
print(*loaded.problems, *[fleet.metadata.name for fleet in loaded.fleets], sep="\\n")
print("seen" if any(file == "link.yaml" for file, *_ in signature([".", "theirs/b.yaml"])) else "not seen")
"""


def test_a_folder_that_may_not_be_entered_takes_nothing_else_away(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(FLEET % "good")
    (tmp_path / "theirs").mkdir()
    os.symlink("theirs/a.yaml", tmp_path / "link.yaml")
    os.symlink("nowhere", tmp_path / "dangling.yaml")
    (tmp_path / "theirs").chmod(0)
    tmp_path.chmod(0o755)
    ended = subprocess.run([sys.executable, "-c", AS_NOBODY], cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout.splitlines() == [
        "link.yaml: cannot be read: Permission denied",
        "theirs: this folder cannot be read: Permission denied",
        "theirs/b.yaml: cannot be read: Permission denied",
        "good",
        "seen",
    ], ended.stderr


def test_one_name_in_several_files_is_a_mistake_of_each(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml", "c.yaml"):
        (tmp_path / name).write_text(FLEET % "one")
    loaded = documents.load([tmp_path])
    assert loaded.fleets == ()
    assert lines(loaded, tmp_path) == [
        f"{file}.yaml:3: ModelFleet/one metadata.name: the name of another ModelFleet in {tmp_path}/{other}.yaml:1;"
        " give each its own name"
        for file, other in (("a", "b"), ("b", "a"), ("c", "a"))
    ]
