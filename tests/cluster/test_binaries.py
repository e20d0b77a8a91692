"""Programs are built once for what they are pinned to, by whoever asks first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import binaries
from cluster.binaries import BuildError, binary, build

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYFLEET_CLUSTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_program_is_built_when_it_is_missing_and_not_again(empty_cache: Path) -> None:
    program = binary("pause")
    assert program == empty_cache / "bin" / "pause"
    assert os.access(program, os.X_OK)
    made = program.stat().st_ino
    assert binary("pause").stat().st_ino == made


def test_a_program_of_other_pins_is_built_again(empty_cache: Path) -> None:
    made = binary("pause").stat().st_ino
    (empty_cache / "bin" / ".pause.digest").write_text("of another go.mod")
    assert binary("pause").stat().st_ino != made


def test_a_program_left_without_its_digest_is_built_again() -> None:
    program = binary("pause")
    program.write_text("half of it")
    binaries._stamp("pause").unlink()
    assert binary("pause").read_bytes().startswith(b"\x7fELF" if sys.platform == "linux" else b"")


def test_of_two_that_want_a_program_one_builds_it() -> None:
    command = [sys.executable, "-m", "cluster.binaries", "pause"]
    both = [subprocess.Popen(command, cwd=TESTS, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate()[1] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("building pause") == 1


def test_without_go_the_message_says_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"Go 1\.26 or newer, and no `go` is on PATH"):
        build(["pause"])


def test_an_old_go_is_refused_before_it_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\nprintf 'go1.19.8\\nlocal\\n'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(BuildError, match=r"Go 1\.26 or newer; `go` is go1\.19\.8"):
        build(["pause"])


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(BuildError, match=r"no such binary: kube-magic; there are etcd, .*kind"):
        build(["kube-magic", "pause"])


def test_what_kubernetes_reports_as_its_version_is_what_is_pinned() -> None:
    assert binaries.version("kubelet") in binaries._ldflags(binaries.BINARIES["kubelet"])
