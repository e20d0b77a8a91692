"""Between named arrays and what models really take and give: arrays, dicts, DataFrames, Series and lists.

The forms are MLflow's: a model answers the same container here as from `mlflow.pyfunc.load_model(…).predict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rayfleet_serving.model.flavors.base import Arrays, OutputError
from rayfleet_serving.model.mlmodel import MLmodel
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.signature import UNNAMED_OUTPUT, InputForm, Signature


def native(inputs: Arrays, form: InputForm, model: MLmodel) -> Any:
    """The container the model itself takes: an ndarray, a dict of arrays in the signature's order, or a DataFrame."""
    if form == "frame":
        return frame(inputs, model)
    if form == "tensor":
        (array,) = inputs.values()
        return array
    return ordered(inputs, model.signature)


def ordered(inputs: Arrays, signature: Signature) -> Arrays:
    """The inputs in the signature's order, without those it does not name; as they are where it names none."""
    if not signature.inputs:
        return inputs
    return {field.name: inputs[field.name] for field in signature.inputs if field.name in inputs}


def frame(inputs: Arrays, model: MLmodel) -> pd.DataFrame:
    """A DataFrame of the signature's columns in its order; without a signature, of all columns as they are named."""
    columns = ordered(inputs, model.signature)
    return pd.DataFrame(
        {model.labels.get(name, name): array if array.ndim == 1 else list(array) for name, array in columns.items()}
    )


def params(given: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    """The parameters given, with the signature's defaults for the others, as MLflow fills them."""
    return {field.name: field.default for field in signature.params} | dict(given)


def result(answer: Any, signature: Signature) -> InferenceResult:
    """A model's answer as named arrays with the batch on axis 0.

    A Series is a DataFrame of one column, as in MLflow's own JSON.

    Raises:
        OutputError: it is no container with one element for each row, or holds none.
    """
    if isinstance(answer, pd.Series):
        answer = pd.DataFrame(answer)
    if isinstance(answer, pd.DataFrame):
        outputs = {str(name): column_values(answer.iloc[:, i]) for i, name in enumerate(answer.columns)}
        return checked(InferenceResult(outputs, "frame"))
    if isinstance(answer, np.ndarray):
        return checked(InferenceResult({output_name(signature): answer}, "array"))
    if isinstance(answer, Mapping):
        return checked(InferenceResult({str(name): as_array(value) for name, value in answer.items()}, "tensors"))
    if isinstance(answer, list | tuple):
        return checked(InferenceResult({output_name(signature): as_array(list(answer))}, "list"))
    raise OutputError(f"the model returned {type(answer).__name__}; expected an array, a table, a dict or a list")


def output_name(signature: Signature) -> str:
    """The one output's name."""
    return signature.outputs[0].name if len(signature.outputs) == 1 else UNNAMED_OUTPUT


def output_names(signature: Signature, count: int) -> list[str]:
    """Names for a sequence of outputs: the signature's where it names as many, else output_0, output_1, …"""
    names = [field.name for field in signature.outputs]
    if len(names) == count and names != [str(i) for i in range(count)]:
        return names
    return [f"{UNNAMED_OUTPUT}_{i}" for i in range(count)]


def column_values(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """A column as numpy. Of pandas' extension types, numbers and booleans stay such where numpy can hold them: all
    floats, and the others without a missing value. The rest become objects with None for missing."""
    if isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    dtype = getattr(column.dtype, "numpy_dtype", np.dtype(object))
    if dtype.kind == "f":
        return column.to_numpy(dtype=dtype, na_value=np.nan)
    if dtype.kind in "biu" and not column.hasnans:
        return column.to_numpy(dtype=dtype)
    return column.astype(object).where(column.notna(), None).to_numpy()


def as_array(values: Any) -> np.ndarray[Any, Any]:
    """An array of `values`: numbers or text of one shape as such, anything else as objects, one for each element.

    Numbers and text that only numpy's promotion would bring together ([1, "a"]) stay objects.
    """
    if not isinstance(values, list):
        return np.asarray(values)
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        array = np.empty(0, dtype=object)
    if array.dtype.kind in "biufcM" or (array.dtype.kind == "U" and all(isinstance(value, str) for value in values)):
        return array
    objects = np.empty(len(values), dtype=object)
    objects[:] = values
    return objects


def checked(answer: InferenceResult) -> InferenceResult:
    """`answer`, once every output is seen to have a batch axis. Its length is the caller's to judge.

    Raises:
        OutputError: there are no outputs, or one is a single value.
    """
    if not answer.outputs:
        raise OutputError("the model returned no outputs")
    for name, array in answer.outputs.items():
        if array.ndim == 0:
            raise OutputError(f"the model returned a single value in output {name!r}; expected one for each row")
    return answer
