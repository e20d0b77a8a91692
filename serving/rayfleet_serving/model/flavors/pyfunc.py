"""Anything else with a python_function flavour, called through MLflow. Loading one may run the artifact's code.

The cap of GPU memory holds for what such a model does with torch; other libraries in it allocate what they like.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pandas as pd

from rayfleet_serving.model.errors import LoadError
from rayfleet_serving.model.flavors import code_execution, containers
from rayfleet_serving.model.flavors.base import Arrays
from rayfleet_serving.model.flavors.device import torch_device
from rayfleet_serving.model.mlmodel import MLmodel
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.signature import InputForm, Signature


class PyfuncModel:
    """An `mlflow.pyfunc.PyFuncModel`."""

    writes_inputs = True

    def __init__(self, pyfunc: Any, model: MLmodel, *, flavor: str = "pyfunc") -> None:
        self.flavor = flavor
        self.signature = model.signature
        self.static_batch = model.static_batch
        self._model = model
        self._pyfunc = pyfunc

    def predict(self, inputs: Arrays, form: InputForm, params: dict[str, Any]) -> InferenceResult:
        """As `LoadedModel.predict`. MLflow enforces the signature again and fills in parameters."""
        if form != "frame":
            inputs = _as_declared(inputs, self.signature)
        data = containers.native(inputs, form, self._model)
        if self._model.type_hints and isinstance(data, pd.DataFrame):
            data = _elements(data)
        return containers.result(self._pyfunc.predict(data, params=params or None), self.signature)


def load(model: MLmodel, *, allow_code_execution: bool, gpu_memory_bytes: int | None) -> PyfuncModel:
    """Loads the model through MLflow.

    Raises:
        LoadError: CodeExecutionNotAllowed, or UnsupportedFlavor where there is no python_function flavour.
    """
    if "python_function" not in model.flavors:
        raise LoadError("UnsupportedFlavor", f"{model.root} has flavors {sorted(model.flavors)}; none can be served")
    if not allow_code_execution:
        loader = model.flavors["python_function"].get("loader_module")
        raise code_execution.not_allowed(model, f"it is loaded by {loader!r}, whose formats are not known to be safe")
    if gpu_memory_bytes is not None and find_spec("torch"):
        torch_device(gpu_memory_bytes)
    import mlflow.pyfunc

    with code_execution.mlflow_switches(allow=True):
        loaded = mlflow.pyfunc.load_model(str(model.root))
    return PyfuncModel(loaded, model)


def _as_declared(inputs: Arrays, signature: Signature) -> Arrays:
    """Tensors of text, bytes and dates in numpy's own dtypes, the only ones MLflow takes for them.

    They come as objects and as nanoseconds. U and S are as long as the longest value: MLflow looks at no length.
    """
    dtypes = {field.name: {"str": "U", "bytes": "S"}.get(field.dtype, field.dtype) for field in signature.inputs}
    return {
        name: array.astype(dtypes[name]) if dtypes.get(name, "")[:10] in ("U", "S", "datetime64") else array
        for name, array in inputs.items()
    }


def _elements(frame: pd.DataFrame) -> list[Any]:
    """What a predict with type hints takes: a list of values, or of dicts where the hint is a pydantic model."""
    if len(frame.columns) == 1 and 0 in frame:
        values: list[Any] = frame[0].tolist()
        return values
    return frame.to_dict(orient="records")
