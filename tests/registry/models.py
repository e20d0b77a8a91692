"""Small models, logged and registered."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from mlflow import MlflowClient
from sklearn.linear_model import LinearRegression


@dataclass(frozen=True)
class Logged:
    """Two models that one run logged, and the same model among the run's artifacts, as MLflow 2 kept it."""

    run_id: str
    first: str
    """Id of the logged model named "model"."""
    second: str
    """Id of the logged model named "better"."""
    artifacts: str = "old/model"
    """Path among the run's artifacts."""


def fitted() -> LinearRegression:
    return LinearRegression().fit(np.eye(3), [1.0, 2.0, 3.0])


def register(client: MlflowClient, name: str, *sources: str) -> None:
    """Registers versions 1, 2, … of a new model from sources: models:/…, runs:/…, or a location."""
    client.create_registered_model(name)
    for source in sources:
        # The server wants to be told which run or logged model a source of its own lies in.
        ours = not source.startswith("s3:")
        model_id = re.search(r"m-[0-9a-f]{32}", source) if ours else None
        run_id = re.search(r"/([0-9a-f]{32})/", source) if ours else None
        client.create_model_version(
            name, source, run_id=run_id and run_id[1], model_id=model_id and model_id[0], await_creation_for=0
        )
