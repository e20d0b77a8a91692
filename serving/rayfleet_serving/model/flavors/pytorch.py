"""PyTorch: exported programs (pt2, no code) and, where allowed, pickled modules. Run under inference mode.

Both are called natively: modules of several inputs have no python_function flavour, and MLflow's wrapper costs five
times the call of a small model.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rayfleet_serving.model.errors import LoadError, OutputError
from rayfleet_serving.model.flavors import code_execution, containers, pt2
from rayfleet_serving.model.flavors.base import Arrays
from rayfleet_serving.model.flavors.device import torch_device
from rayfleet_serving.model.mlmodel import MLmodel
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.signature import InputForm

_EXPORT_LOCK = threading.Lock()
"""torch.export.load keeps its deserializer in a global: concurrent loads fail."""


class PytorchModel:
    """A module on its device."""

    flavor = "pytorch"

    def __init__(self, module: torch.nn.Module, device: torch.device, model: MLmodel, static_batch: int | None) -> None:
        self.signature = model.signature
        self.static_batch = static_batch
        self.writes_inputs = device.type == "cpu"  # elsewhere it gets a copy in the device's memory
        self._model = model
        self._module = module
        self._device = device
        # A traced graph's parameters are flattened, and may be called like other inputs of the model.
        traced = isinstance(module, torch.fx.GraphModule)
        self._parameters = set() if traced else set(inspect.signature(module.forward).parameters)

    def predict(self, inputs: Arrays, form: InputForm, params: dict[str, Any]) -> InferenceResult:
        """As `LoadedModel.predict`. A frame goes in as one float32 matrix, as in MLflow.

        Several tensors go in by name where every name is a parameter of `forward`, else by position in the
        signature's order. A tuple comes out as output_0, output_1, … unless the signature names as many.
        """
        args: list[torch.Tensor] = []
        named: dict[str, torch.Tensor] = {}
        if form == "frame":
            args = [self._tensor(containers.frame(inputs, self._model).to_numpy(dtype=np.float32))]
        else:
            tensors = {name: self._tensor(array) for name, array in containers.ordered(inputs, self.signature).items()}
            if form == "tensors" and self._parameters.issuperset(tensors):
                named = tensors
            else:
                args = list(tensors.values())
        with torch.inference_mode():
            answer = self._module(*args, **named, **containers.params(params, self.signature))
        if isinstance(answer, torch.Tensor):
            array = _numpy(answer)
            return containers.result(pd.DataFrame(array) if form == "frame" else array, self.signature)
        if isinstance(answer, Mapping):
            # Model outputs of transformers leave None for what was not computed.
            return containers.result({n: _numpy(t) for n, t in answer.items() if t is not None}, self.signature)
        if isinstance(answer, list | tuple):
            names = containers.output_names(self.signature, len(answer))
            return containers.result({n: _numpy(t) for n, t in zip(names, answer, strict=True)}, self.signature)
        raise OutputError(
            f"the module returned {type(answer).__name__}; expected a tensor, or a dict or tuple of tensors"
        )

    def _tensor(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        """Shares the array's memory on the CPU; read-only memory is copied, as a module may write to its input."""
        if not array.flags.writeable or not array.flags.c_contiguous:
            array = array.copy()
        return torch.from_numpy(array).to(self._device, non_blocking=True)


def load(model: MLmodel, *, allow_code_execution: bool, gpu_memory_bytes: int | None) -> PytorchModel:
    """Loads the module onto the GPU where one is visible, else the CPU.

    Raises:
        LoadError: CodeExecutionNotAllowed or CorruptModel.
    """
    data = model.inside(model.flavors["pytorch"].get("model_data"))
    archive = data / "model.pt2"
    exported = archive.exists() and not (data / "model.pth").exists()
    if not exported and not allow_code_execution:
        raise code_execution.not_allowed(model, "its module is pickled, not exported as pt2")
    if exported and not allow_code_execution and (found := _violation(archive)):
        raise code_execution.not_allowed(model, f"its pt2 archive is not plain tensors and operators: {found}")
    device = torch_device(gpu_memory_bytes)
    if exported:
        return _load_exported(model, archive, device)
    import mlflow.pytorch

    with code_execution.mlflow_switches(allow=True):
        module = mlflow.pytorch.load_model(str(model.root), map_location=device, weights_only=False)
    return PytorchModel(module.to(device).eval(), device, model, model.static_batch)


def _violation(archive: Path) -> str | None:
    try:
        return pt2.violation(archive)
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as e:
        raise LoadError("CorruptModel", f"{archive} is not a pt2 archive: {e}") from None


def _load_exported(model: MLmodel, archive: Path, device: torch.device) -> PytorchModel:
    try:
        with _EXPORT_LOCK:
            program = torch.export.load(archive)
    except Exception as e:
        raise LoadError("CorruptModel", f"{archive} is not a program torch {torch.__version__} can load: {e}") from e
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    static_batch = model.static_batch or _fixed_batch(program)
    return PytorchModel(program.module(), device, model, static_batch)


def _fixed_batch(program: torch.export.ExportedProgram) -> int | None:
    """The batch size an exported program was specialized to: an example of one row fixes it to 1."""
    inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" and node.name in inputs else None
        if isinstance(value, torch.Tensor) and value.ndim and isinstance(value.shape[0], int):
            return value.shape[0]
    return None


def _numpy(tensor: Any) -> np.ndarray[Any, Any]:
    if not isinstance(tensor, torch.Tensor):
        raise OutputError(f"module returned {type(tensor).__name__} inside its answer; expected a tensor")
    if tensor.dtype == torch.bfloat16:  # numpy has none
        tensor = tensor.float()
    array: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
    return array
