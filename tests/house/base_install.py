"""`rayfleet` as it is after `pip install .` alone: what extras bring is not there."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .requirements import closure

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from rayfleet_operator.cli.main import main
main()
"""


def rayfleet(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command; `path` stands in place of PATH."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(missing=missing()), *arguments],
        env=os.environ | ({"PATH": path} if path is not None else {}),
        capture_output=True,
        text=True,
        check=False,
    )


@cache
def missing() -> frozenset[str]:
    """Modules of packages that the base installation does not bring."""
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    brought = {"rayfleet", *closure([Requirement(line) for line in base])}
    packages = metadata.packages_distributions()
    return frozenset(module for module, of in packages.items() if not brought & set(map(canonicalize_name, of)))
