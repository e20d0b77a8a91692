"""What a model is run on before the first request: its logged example, else zeros in the shapes it declares."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from rayfleet_serving.model.errors import LoadError, describe
from rayfleet_serving.model.flavors.base import Arrays, LoadedModel
from rayfleet_serving.protocol import invocations
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.signature import Field, InputForm, Signature

Arguments = tuple[Arrays, InputForm, dict[str, Any]]
"""Of `LoadedModel.predict`."""


def run_example(model: LoadedModel, example: Any) -> None:
    """Predicts the model's own example once. An example of unusual form, or none, proves nothing and is left alone.

    Args:
        example: as of `warmup_inputs`.

    Raises:
        LoadError: WarmUpFailed where the model cannot answer what it was logged with, so no request of that form.
    """
    arguments = _example_inputs(model.signature, model.static_batch or 1, example)
    if arguments is None:
        return
    try:
        model.predict(*arguments)
    except BaseException as error:  # as in `Execution.run`
        raise LoadError(
            "WarmUpFailed", f"the model raised on its own input example: {describe(error)[:1000]}"
        ) from error


def warmup_inputs(signature: Signature, rows: int, example: Any) -> Arguments | None:
    """Arguments of `LoadedModel.predict` with `rows` rows.

    None where nothing fits for sure: neither signature nor example, or no example for a signature that leaves open
    more than the batch size or has objects. A model may refuse zeros: a warm-up with them that raises says nothing
    about requests.

    Args:
        example: body of a `/invocations` request, as `mlmodel.input_example` gives it; None for none.
    """
    if arguments := _example_inputs(signature, rows, example):
        return arguments
    fields = [field for field in signature.inputs if field.required]
    if signature.form == "any" or any(-1 in field.shape[1:] or field.dtype == "object" for field in fields):
        return None
    return {field.name: _zeros(field, rows) for field in fields}, signature.form, {}


def _example_inputs(signature: Signature, rows: int, example: Any) -> Arguments | None:
    """The example's first row, `rows` times."""
    if example is None:
        return None
    try:
        request = invocations.decode(orjson.dumps(example), "application/json", signature)
    except RequestError:
        return None
    return {k: np.repeat(v[:1], rows, axis=0) for k, v in request.inputs.items()}, request.form, request.params


def _zeros(field: Field, rows: int) -> np.ndarray[Any, Any]:
    shape = (rows, *field.shape[1:])
    if field.dtype in ("str", "bytes"):
        return np.full(shape, "" if field.dtype == "str" else b"", dtype=object)
    return np.zeros(shape, dtype=field.dtype)
