"""Models on disk and one `rayfleet up` that most tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from model_files import save_model, write_model
from rayfleet_up import RayfleetUp


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Models that answer 1 and 2."""
    folder = tmp_path_factory.mktemp("models")
    return {answer: save_model(folder / str(answer), answer) for answer in (1, 2)}


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the shared `up` serves."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="package")
def shared_up(tmp_path_factory: pytest.TempPathFactory, served: Path, models: dict[int, Path]) -> Iterator[RayfleetUp]:
    """A `rayfleet up` with one model, `first`, which answers 1; every test leaves it like that."""
    write_model(served, "first", models[1])
    with RayfleetUp([served], folder=tmp_path_factory.mktemp("up")) as up:
        up.wait_ready("first")
        yield up


@pytest.fixture
def up(shared_up: RayfleetUp) -> RayfleetUp:
    """The shared one, seen to be well."""
    shared_up.wait_ready("first")
    return shared_up
