"""An MLflow server on sqlite in a folder, and the digits model in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import mlflow
import mlflow.pytorch
import numpy as np
import torch
from mlflow.models import infer_signature
from torch import nn

from digits import waiting
from digits.data import Array, Pictures

MODEL = "digits"
ALIAS = "champion"


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Runs `mlflow server` with its database and artifacts in `folder`; yields its URL.

    Raises:
        TimeoutError: it did not answer within two minutes; its log is in the message.
    """
    port = waiting.free_port()
    url = f"http://127.0.0.1:{port}"
    log = folder / "mlflow.log"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")),
    ]
    # Without job execution the server is two processes instead of eleven.
    environ = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environ, cwd=folder, start_new_session=True
        )
    try:
        waiting.for_http(f"{url}/health", process, log, seconds=120)
        mlflow.set_tracking_uri(url)
        yield url
    finally:
        waiting.stop(process, signal.SIGTERM, seconds=20)


def log_version(network: nn.Module, example: Array) -> int:
    """Logs the network as an exported program (pt2: no pickle, no code) and registers it; returns the new version.

    `example`: float32 (n, 1, 8, 8) with n > 1; an example of one picture would fix the batch size to one.
    """
    with torch.inference_mode():
        scores = network(torch.from_numpy(example)).numpy()
    with mlflow.start_run():
        info = mlflow.pytorch.log_model(
            network,
            name="model",
            serialization_format="pt2",
            signature=infer_signature(example, scores),
            input_example=example,
            pip_requirements=[f"torch=={metadata.version('torch')}"],
            registered_model_name=MODEL,
        )
    return int(info.registered_model_version)


def promote(version: int) -> None:
    """Moves the alias."""
    mlflow.MlflowClient().set_registered_model_alias(MODEL, ALIAS, str(version))


def offline_accuracy(version: int, pictures: Pictures) -> float:
    """Accuracy of the registered model, loaded with MLflow itself, without any serving."""
    network = mlflow.pytorch.load_model(f"models:/{MODEL}/{version}")
    with torch.inference_mode():
        scores = network(torch.from_numpy(pictures.tensors())).numpy()
    return pictures.accuracy(np.argmax(scores, axis=1))
