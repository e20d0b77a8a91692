"""A moved alias is followed; a registry that is away stops nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import mlflow
import numpy as np
import pytest
from mlflow.models import infer_signature
from mlflow_server import MlflowServer, mlflow_server
from model_files import REQUIREMENTS, linear_model, write_model
from rayfleet_up import RayfleetUp

ROWS = {"inputs": [[1.0, 2.0]]}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Versions 1 and 2 of `line`, which answer 1 and 2; `champion` is version 1."""
    with mlflow_server(tmp_path_factory) as server:
        mlflow.set_tracking_uri(server.uri)
        inputs = np.zeros((2, 2))
        for answer in (1, 2):
            model = linear_model(answer)
            signature = infer_signature(inputs, model.predict(inputs))
            mlflow.sklearn.log_model(
                model,
                name="line",
                registered_model_name="line",
                signature=signature,
                pip_requirements=REQUIREMENTS,
            )
        move_alias(server, 1)
        yield server


def move_alias(server: MlflowServer, version: int) -> None:
    mlflow.MlflowClient(server.uri).set_registered_model_alias("line", "champion", str(version))


def answer(up: RayfleetUp, model: str) -> float:
    response = httpx.post(f"{up.url}/{model}/invocations", json=ROWS, timeout=30)
    assert response.status_code == 200, response.text
    return float(round(response.json()["predictions"][0], 6))


def degraded(up: RayfleetUp, model: str) -> str:
    """Why; "" when it is not."""
    shown = up.model(model)
    condition = shown.condition("Degraded") if shown else None
    return condition.reason if condition and condition.status == "True" else ""


@pytest.mark.timeout(600)
def test_an_alias_is_followed_and_a_registry_that_is_away_stops_nothing(
    up: RayfleetUp, served: Path, registry: MlflowServer
) -> None:
    follow = {"trackingUri": registry.uri, "pollInterval": "1s"}
    file = write_model(served, "line", "models:/line@champion", registry=follow)
    up.wait_version("line", "1")
    up.wait_ready("line")
    assert answer(up, "line") == 1

    move_alias(registry, 2)
    up.wait_version("line", "2")
    up.wait_ready("line")
    assert answer(up, "line") == 2

    registry.stop()
    up.wait("the table says that the registry is away", lambda: degraded(up, "line") == "RegistryUnreachable")
    assert answer(up, "line") == 2
    # What was never resolved cannot be served yet, and is in nobody's way.
    later = write_model(served, "later", "models:/line/1", registry=follow)
    up.wait("it is shown why", lambda: degraded(up, "later") == "RegistryUnreachable")
    up.wait("it is not ready", lambda: httpx.get(f"{up.url}/v2/models/later/ready").status_code == 503)
    assert httpx.get(f"{up.url}/v2/health/ready").status_code == 200
    assert (answer(up, "line"), answer(up, "first")) == (2, 1)

    registry.start()
    up.wait_version("later", "1")
    up.wait_ready("line", "later")
    assert (answer(up, "line"), answer(up, "later")) == (2, 1)

    file.unlink()
    later.unlink()
    up.wait("both are gone", lambda: up.model("line") is None and up.model("later") is None)
