"""Small models on disk, and files that ask for them."""

from __future__ import annotations

from pathlib import Path

import mlflow.sklearn
import numpy as np
import yaml
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

REQUIREMENTS = ["scikit-learn"]
"""Without them MLflow loads the model in another process to see what it imports, which takes most of a minute."""


def linear_model(answer: int) -> LinearRegression:
    """Answers `answer` to every row of two numbers."""
    return LinearRegression().fit(np.eye(4, 2), np.full(4, float(answer)))


def save_model(path: Path, answer: int) -> Path:
    """An MLflow model of `linear_model`, with a signature."""
    inputs = np.zeros((2, 2))
    model = linear_model(answer)
    signature = infer_signature(inputs, model.predict(inputs))
    mlflow.sklearn.save_model(model, path, signature=signature, pip_requirements=REQUIREMENTS)
    return path


def write_model(folder: Path, name: str, uri: Path | str, **spec: object) -> Path:
    """One ModelDeployment in a file of its own, `<name>.yaml`; `spec` is laid over the defaults."""
    registry = spec.pop("registry", None)
    document = {
        "apiVersion": "rayfleet.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": str(uri), **({"registry": registry} if registry else {})},
            "resources": {"cpu": "0.5"},
            **spec,
        },
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file
