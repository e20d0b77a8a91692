"""What a model is run on before the first request: its logged example, else zeros in the shapes it declares."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import orjson

from rayfleet_serving.model.errors import LoadError, describe, out_of_memory
from rayfleet_serving.model.execution import Predict
from rayfleet_serving.model.flavors.base import Arrays, LoadedModel
from rayfleet_serving.model.mlmodel import InputExample
from rayfleet_serving.protocol import invocations
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.signature import Field, InputForm, Signature

logger = logging.getLogger(__name__)

Arguments = tuple[Arrays, InputForm, dict[str, Any]]
"""Of `LoadedModel.predict`."""


def run_example(
    model: LoadedModel, example: InputExample | None, predict: Predict | None = None, share: str = "the memory here"
) -> None:
    """Predicts the model's own example once. An example of unusual form, or none, proves nothing and is left alone.

    Nor does a failure prove anything where it was not the example that failed but a part of it, or where memory ran
    out for several rows: requests of fewer rows may well be answered. It is logged.

    Args:
        predict: calls the model; its own method by default.
        share: what it may take, for people.

    Raises:
        LoadError: WarmUpFailed where the model cannot answer what it was logged with, so no request of that form;
            OutOfMemory where it lacks the memory for a single row of it.
    """
    arguments = _example_inputs(model.signature, example.body) if example else None
    if example is None or arguments is None:
        return
    inputs, form, params = arguments
    rows = logged = len(next(iter(inputs.values())))
    if model.static_batch:
        rows = model.static_batch  # the last row fills it, as in `Execution`
        inputs = {name: array[np.minimum(np.arange(rows), logged - 1)] for name, array in inputs.items()}
    try:
        (predict or model.predict)(inputs, form, params)
    except BaseException as error:  # as in `Execution.run`
        why = describe(error)[:1000]
        lacking = out_of_memory(error)
        if example.whole and lacking and rows <= (model.static_batch or 1):
            raise LoadError("OutOfMemory", f"it needs more than {share} for a single row: {why}") from None
        if example.whole and rows == logged and not lacking:
            raise LoadError("WarmUpFailed", f"the model raised on its own input example: {why}") from error
        logger.warning("The model raised on %d rows made from its own input example: %s", rows, why)


def warmup_inputs(signature: Signature, rows: int, example: Any) -> Arguments | None:
    """Arguments of `LoadedModel.predict` with `rows` rows.

    None where nothing fits for sure: neither signature nor example, or no example for a signature that leaves open
    more than the batch size or has objects. A model may refuse zeros: a warm-up with them that raises says nothing
    about requests.

    Args:
        example: body of a `/invocations` request, whose first row is taken `rows` times; None for none.
    """
    if arguments := _example_inputs(signature, example):
        inputs, form, params = arguments
        return {name: np.repeat(array[:1], rows, axis=0) for name, array in inputs.items()}, form, params
    fields = [field for field in signature.inputs if field.required]
    if signature.form == "any" or any(-1 in field.shape[1:] or field.dtype == "object" for field in fields):
        return None
    return {field.name: _zeros(field, rows) for field in fields}, signature.form, {}


def _example_inputs(signature: Signature, example: Any) -> Arguments | None:
    if example is None:
        return None
    try:
        request = invocations.decode(orjson.dumps(example), "application/json", signature)
    except RequestError:
        return None
    return request.inputs, request.form, request.params


def _zeros(field: Field, rows: int) -> np.ndarray[Any, Any]:
    shape = (rows, *field.shape[1:])
    if field.dtype in ("str", "bytes"):
        return np.full(shape, "" if field.dtype == "str" else b"", dtype=object)
    return np.zeros(shape, dtype=field.dtype)
