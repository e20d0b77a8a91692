"""The models of `bench.gpu`: an MLP, and one that is wide inside, in PyTorch and as an ONNX graph."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench import bare  # noqa: F401 - before the serving package
from rayfleet_serving.model.flavors.base import LoadedModel
from rayfleet_serving.model.mlmodel import MLmodel
from rayfleet_serving.model.share import Share
from rayfleet_serving.signature import UNNAMED_INPUT, Field, Signature

if TYPE_CHECKING:
    import torch

WIDTH = {"cuda": 4096, "cpu": 512}
"""Rows of the MLP are so many numbers."""
LAYERS = {"cuda": 128, "cpu": 4}
"""Of the MLP, all with the same weights. A batch is to take a fast GPU several milliseconds: with less, callers and
batcher are the bottleneck, and three models on one GPU would seem to be three times as fast as one."""
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


def load(kind: str, device: str, folder: Path, share: Share) -> LoadedModel:
    """A model within its share, by the flavours of the serving package.

    Args:
        kind: "mlp" or "wide", in PyTorch; "onnxruntime", which is as wide.
        folder: for its file.
    """
    width = WIDTH[device] if kind == "mlp" else 1
    described = MLmodel(
        root=folder,
        flavors={"onnx": {"data": "wide.onnx"}},
        signature=Signature(form="tensor", inputs=(Field(name=UNNAMED_INPUT, dtype="float32", shape=(-1, width)),)),
        static_batch=None,
        labels={},
        model_id=None,
        type_hints=False,
        example_files={},
    )
    if kind == "onnxruntime":
        from rayfleet_serving.model.flavors import onnx

        (folder / "wide.onnx").write_bytes(_wide_graph())
        share.hold()
        with share.enforced():
            return onnx.load(described, gpu_memory_bytes=share.library_bytes)
    from rayfleet_serving.model.flavors.device import torch_device
    from rayfleet_serving.model.flavors.pytorch import PytorchModel

    share.hold()
    with share.enforced():
        target = torch_device(share.library_bytes)
        module = _mlp(device) if kind == "mlp" else _wide()
        return PytorchModel(module.to(target).eval(), target, described, None)


def _mlp(device: str) -> torch.nn.Module:
    import torch

    torch.manual_seed(1)
    layer = torch.nn.Linear(WIDTH[device], WIDTH[device])
    return torch.nn.Sequential(*[part for _ in range(LAYERS[device]) for part in (layer, torch.nn.ReLU())])


def _wide() -> torch.nn.Module:
    import torch

    return torch.nn.Sequential(torch.nn.Linear(1, WIDE), torch.nn.AdaptiveMaxPool1d(1))


def _wide_graph() -> bytes:
    from onnx import parser

    graph = (
        '<ir_version: 8, opset_import: ["" : 13]> g (float[n,1] x) => (float[n,1] y) {'
        f" s = Constant<value = int64[2] {{1, {WIDE}}}>() wide = Expand(x, s) y = ReduceMax<axes = [1]>(wide) }}"
    )
    return bytes(parser.parse_model(graph).SerializeToString())


def rows(device: str, count: int) -> np.ndarray:
    """Rows for the MLP."""
    return np.random.default_rng(1).normal(size=(count, WIDTH[device])).astype(np.float32)
