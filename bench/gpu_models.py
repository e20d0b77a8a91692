"""The models of `bench.gpu`: an MLP, and one that is wide inside, in PyTorch and as an ONNX graph."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

import numpy as np

WIDTH = {"cuda": 2048, "cpu": 512}
"""Rows of so many numbers: a layer takes a GPU long enough to be felt, and two cores not too long."""

WIDE = 16384
"""Numbers inside the models that are to meet the cap, for each row: 64 KiB."""


def missing(library: str, device: str) -> str:
    """Why a library cannot be tried on this device; "" where it can."""
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed"
    if library == "torch" and device == "cuda":
        import torch

        return "" if torch.cuda.is_available() else "PyTorch sees no GPU here"
    if library == "onnxruntime":
        if importlib.util.find_spec("onnx") is None:
            return "onnx is not installed"
        import onnxruntime

        if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "this onnxruntime is built without CUDA; onnxruntime-gpu has it"
    return ""


def describe(device: str) -> str:
    """The machine."""
    if device == "cuda":
        import torch

        found = torch.cuda.get_device_properties(0)
        return f"{found.name}, {found.total_memory / 2**30:.0f} GiB, torch {torch.__version__}"
    return f"the CPU of {platform.machine()}"


def save(folder: Path, device: str) -> None:
    """Write them as MLflow models."""
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    width = WIDTH[device]
    example = np.zeros((2, width), np.float32)
    signature = infer_signature(example, example)
    torch.manual_seed(1)
    layers = [layer for _ in range(4) for layer in (torch.nn.Linear(width, width), torch.nn.ReLU())]
    module = torch.nn.Sequential(*layers)
    mlflow.pytorch.save_model(
        module, folder / "torch", signature=signature, serialization_format="pickle", pip_requirements=[]
    )
    column = np.zeros((2, 1), np.float32)
    signature = infer_signature(column, column)
    wide = torch.nn.Sequential(torch.nn.Linear(1, WIDE), torch.nn.AdaptiveMaxPool1d(1))
    mlflow.pytorch.save_model(
        wide, folder / "wide", signature=signature, serialization_format="pickle", pip_requirements=[]
    )
    if missing("onnxruntime", device):
        return
    import mlflow.onnx
    from onnx import parser

    wide_graph = (
        '<ir_version: 8, opset_import: ["" : 13]> g (float[n,1] x) => (float[n,1] y) {'
        f" s = Constant<value = int64[2] {{1, {WIDE}}}>() wide = Expand(x, s) y = ReduceMax<axes = [1]>(wide) }}"
    )
    model = parser.parse_model(wide_graph)
    mlflow.onnx.save_model(model, folder / "onnxruntime", signature=signature, pip_requirements=[])
