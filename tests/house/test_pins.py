"""Every dependency is pinned, and constraints.txt pins all that they bring along."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .requirements import closure

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
DIRECT = [
    Requirement(line)
    for line in [*PROJECT["project"]["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    if not line.startswith("rayfleet[")
]
PINNED = {
    canonicalize_name(name): version
    for name, version in (
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
}


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_direct_dependency_is_pinned_once(requirement: Requirement) -> None:
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    assert PINNED[canonicalize_name(requirement.name)] == pin.version


def test_build_requirements_are_pinned() -> None:
    assert all("==" in line for line in PROJECT["build-system"]["requires"])


def test_dev_holds_every_extra() -> None:
    (own,) = (Requirement(line) for line in EXTRAS["dev"] if line.startswith("rayfleet["))
    (demo,) = (Requirement(line) for line in EXTRAS["demo"] if line.startswith("rayfleet["))
    assert own.extras | demo.extras | {"dev", "serving"} == set(EXTRAS)


def test_everything_installed_for_rayfleet_is_pinned_at_that_version() -> None:
    wrong = [
        f"{name}: {found} is installed, {PINNED.get(name, 'nothing')} is pinned"
        for name, found in closure(DIRECT).items()
        if PINNED.get(name) != found
    ]
    assert not wrong, "run make constraints, or install again: " + "; ".join(sorted(wrong))
