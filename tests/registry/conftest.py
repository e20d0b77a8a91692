"""One MLflow server with a few models for all tests here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import mlflow
import mlflow.sklearn
import pytest
from mlflow import MlflowClient
from mlflow_server import MlflowServer, mlflow_server
from registry.models import Logged, fitted

from rayfleet_operator.registry.resolver import Resolver


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Answers requests for 127.0.0.1, and refuses those for localhost as it would a name it was not told."""
    with mlflow_server(tmp_path_factory, "--allowed-hosts", "127.0.0.1:*") as server:
        yield server


@pytest.fixture(scope="session")
def client(server: MlflowServer) -> Iterator[MlflowClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # a mistake in a test shows at once
        yield MlflowClient(server.uri)


@pytest.fixture
def resolver(server: MlflowServer) -> Resolver:
    return Resolver(default_tracking_uri=server.uri)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `save_model` wrote."""
    path = tmp_path_factory.mktemp("saved") / "model"
    mlflow.sklearn.save_model(fitted(), path, pip_requirements=[])
    return path


@pytest.fixture(scope="session")
def logged(server: MlflowServer, client: MlflowClient, saved: Path) -> Logged:
    mlflow.set_tracking_uri(server.uri)
    with warnings.catch_warnings(), mlflow.start_run() as run:
        warnings.simplefilter("ignore")
        first, second = (
            mlflow.sklearn.log_model(fitted(), name=name, pip_requirements=[]) for name in ("model", "better")
        )
    client.log_artifacts(run.info.run_id, str(saved), "old/model")
    return Logged(run.info.run_id, first.model_id, second.model_id)
