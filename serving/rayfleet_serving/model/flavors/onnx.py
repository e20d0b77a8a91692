"""ONNX in onnxruntime, on the GPU where its CUDA provider is there, else the CPU. Graphs carry no code.

MLmodel's execution providers and session entries are not taken: their options can name libraries to load. Its graph
optimization level is, because it can change the numbers.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pandas as pd

from rayfleet_serving.model.errors import LoadError
from rayfleet_serving.model.flavors import containers
from rayfleet_serving.model.flavors.base import Arrays
from rayfleet_serving.model.mlmodel import MLmodel
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.signature import InputForm


class OnnxModel:
    """An inference session."""

    flavor = "onnx"
    writes_inputs = False

    def __init__(self, session: onnxruntime.InferenceSession, model: MLmodel) -> None:
        self.signature = model.signature
        self.static_batch = model.static_batch or _fixed_batch(session, model)
        self._model = model
        self._session = session
        self._inputs = {node.name: node.type for node in session.get_inputs()}
        self._outputs = [node.name for node in session.get_outputs()]

    def predict(self, inputs: Arrays, form: InputForm, params: dict[str, Any]) -> InferenceResult:
        """As `LoadedModel.predict`; parameters are ignored, as in MLflow.

        One array goes to a graph's only input whatever its name; a frame goes in as one matrix where the graph has
        one input, else column by column, and comes back as a frame where every output has one value for each row.
        """
        feeds = inputs
        if form == "frame":
            feeds = self._columns(containers.frame(inputs, self._model))
        elif form == "tensor" and len(self._inputs) == 1:
            feeds = dict(zip(self._inputs, inputs.values(), strict=True))
        feeds = {name: _as_float(feeds[name], kind) for name, kind in self._inputs.items() if name in feeds}
        answer = [containers.as_array(values) for values in self._session.run(self._outputs, feeds)]
        outputs = dict(zip(self._outputs, answer, strict=True))
        if form == "frame" and all(array.size == len(array) for array in answer):
            return containers.result(pd.DataFrame({k: v.reshape(-1) for k, v in outputs.items()}), self.signature)
        return containers.result(outputs, self.signature)

    def _columns(self, frame: pd.DataFrame) -> Arrays:
        if len(self._inputs) == 1:
            return {name: frame.to_numpy() for name in self._inputs}
        return {name: frame[name].to_numpy() for name in self._inputs if name in frame}


def load(model: MLmodel, *, gpu_memory_bytes: int | None) -> OnnxModel:
    """Loads the graph.

    Raises:
        LoadError: CorruptModel where MLmodel names no file of its own; UnsupportedFlavor as `_fixed_batch` says.
        Exception: what onnxruntime raises for a graph it cannot read.
    """
    conf = model.flavors["onnx"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    if level := (conf.get("onnx_session_options") or {}).get("graph_optimization_level"):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
    session = onnxruntime.InferenceSession(
        str(model.inside(conf.get("data"))), sess_options=options, providers=_providers(gpu_memory_bytes)
    )
    return OnnxModel(session, model)


def _providers(gpu_memory_bytes: int | None) -> list[Any]:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    # Growing by powers of two, the default, takes up to twice what a batch needs and so wastes the cap.
    cuda: dict[str, Any] = {"arena_extend_strategy": "kSameAsRequested"}
    if gpu_memory_bytes is not None:
        cuda["gpu_mem_limit"] = gpu_memory_bytes
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]


def _fixed_batch(session: onnxruntime.InferenceSession, model: MLmodel) -> int | None:
    """The first dimension where the graph writes one number for all inputs; names and None are open.

    Raises:
        LoadError: UnsupportedFlavor where only some inputs have a number there, or not the same: they hold no rows.
    """
    sizes = {node.name: node.shape[0] for node in session.get_inputs() if node.shape}
    fixed = {name: size for name, size in sizes.items() if isinstance(size, int)}
    if not fixed:
        return None
    name, size = next(iter(fixed.items()))
    if list(sizes.values()) == [size] * len(sizes):
        return int(size)
    raise LoadError(
        "UnsupportedFlavor",
        f"{model.root}: the graph's input {name!r} always has {size} rows, and not so all others ({sizes}); every "
        "input must have one row for each row of a request: make what is no row a constant of the graph",
    )


def _as_float(array: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """float64 becomes float32 where the graph wants it: frames come as float64. MLflow does the same."""
    return array.astype(np.float32) if kind == "tensor(float)" and array.dtype == np.float64 else array
