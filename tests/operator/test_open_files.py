"""The process's limit of open files."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayfleet_operator import open_files

LOW = 256


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """As a shell may set them; put back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = (LOW, before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, low)
    yield low
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_as_many_files_may_be_open_as_the_system_allows(limits: tuple[int, int]) -> None:
    allowed = open_files.allow_most()

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (allowed, limits[1])
    assert allowed > LOW


def test_the_operator_begins_with_it(tmp_path: Path) -> None:
    program = f"""
import resource
import subprocess
import sys
from rayfleet_operator.cli.main import main
resource.setrlimit(resource.RLIMIT_NOFILE, ({LOW}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    main(["operator", "--kubeconfig", {str(tmp_path / "nowhere")!r}])
except SystemExit as ended:
    print(ended.code, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    code, allowed = ran.stdout.split()
    assert (code, int(allowed) > LOW) == ("1", True)
