"""The README's commands are make's targets, and make says what each target does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_every_make_command_in_the_docs_is_a_target(page: str) -> None:
    named = set(re.findall(r"(?:^|`)make (?:[A-Z]+=\S+ )?([a-z0-9-]+)", (ROOT / page).read_text(), flags=re.MULTILINE))
    assert named <= _targets(), f"{page} names targets that the Makefile lacks"


def test_readme_starts_with_exactly_two_commands() -> None:
    block = re.search(r"## Start\n.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert block is not None
    assert [line.split("#")[0].strip() for line in block[1].splitlines()] == ["make demo", "make test"]


def test_help_explains_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z0-9-]+) +\S", shown, flags=re.MULTILINE)) == _targets()


def test_an_old_python_is_refused_with_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.8.18' && exit 0\nexit 1\n")
    old.chmod(0o755)

    refused = subprocess.run(
        ["make", "test", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True, text=True
    )

    assert refused.returncode != 0
    assert "needs Python 3.11 or newer" in refused.stdout
    assert "Python 3.8.18" in refused.stdout
    assert not (tmp_path / "venv").exists()
