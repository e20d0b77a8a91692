"""The tiny model of the data path benchmark: 64 → 128 → 10, so that the path around it is what is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


def mlp() -> torch.nn.Module:
    """The same weights every time."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)).eval()


def save(path: Path) -> None:
    """Write it as an MLflow model."""
    import mlflow.pytorch
    from mlflow.models import infer_signature

    example = np.zeros((2, 64), np.float32)
    signature = infer_signature(example, np.zeros((2, 10), np.float32))
    mlflow.pytorch.save_model(mlp(), path, signature=signature, input_example=example)
