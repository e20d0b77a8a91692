"""Real models, saved by MLflow into folders of the test session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

Save = Callable[[Path], None]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Save], Path]:
    """Runs a function that saves a model once in the session; gives the folder."""
    import mlflow

    root = tmp_path_factory.mktemp("models")
    mlflow.set_tracking_uri(f"sqlite:///{root / 'mlflow.db'}")
    done: dict[Save, Path] = {}

    def save(build: Save) -> Path:
        if build not in done:
            path = root / build.__name__
            build(path)
            done[build] = path
        return done[build]

    return save
