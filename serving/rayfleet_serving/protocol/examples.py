"""An example body for each protocol: the model's logged input example where it has one, zeros where not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from rayfleet_serving.protocol import expected as expectations
from rayfleet_serving.protocol import invocations, oip, outputs, tables
from rayfleet_serving.protocol.message import InferenceRequest, RequestError
from rayfleet_serving.signature import Field, ModelMetadata, Signature

LARGEST = 4096
"""Numbers in an example; a browser takes seconds to show an image's worth."""

PLACEHOLDERS = {"bool": False, "str": "text", "bytes": "AA==", "datetime64[ns]": "2024-01-31T12:00:00", "object": {}}


def of(meta: ModelMetadata) -> dict[str, Any]:
    """Examples by protocol: "predict", "invocations" and "infer". Empty where there is nothing to show."""
    logged = _logged(meta)
    if logged is None:
        rows = sum(math.prod(max(1, size) for size in field.shape) for field in meta.signature.inputs)
        if rows > LARGEST:
            return _too_large(meta.signature)
        logged = _zeros(meta.signature)
    if logged is None:
        return {}
    rows_by_name = _plain({name: _column(array) for name, array in logged.inputs.items()})
    if logged.form == "tensor":
        (instances,) = rows_by_name.values()
    else:
        instances = [dict(zip(rows_by_name, row, strict=True)) for row in zip(*rows_by_name.values(), strict=True)]
    params = {"params": _plain(logged.params)} if logged.params else {}
    key = "dataframe_records" if logged.form == "frame" else "instances"
    return {
        "predict": {"instances": instances} | params,
        "invocations": {key: instances} | params,
        "infer": _plain(oip.request_document(logged)),
    }


def _logged(meta: ModelMetadata) -> InferenceRequest | None:
    """The logged example, where it fits the signature and a page."""
    if not isinstance(meta.input_example, Mapping):
        return None
    try:
        request = invocations.decode(orjson.dumps(meta.input_example), None, meta.signature)
    except (RequestError, orjson.JSONEncodeError):
        return None
    return request if sum(array.size for array in request.inputs.values()) <= LARGEST else None


def _zeros(signature: Signature) -> InferenceRequest | None:
    if not signature.inputs:
        return None
    one = {field.name: _zero(field) for field in signature.inputs}
    rows = next(iter(one.values())) if signature.form == "tensor" else one
    try:
        return tables.from_values([rows], expectations.of(signature), "example")
    except RequestError:
        return None


def _zero(field: Field) -> Any:
    value: Any = PLACEHOLDERS.get(field.dtype, 0)
    for size in reversed(field.shape[1:]):
        value = [value] * max(size, 1)
    return value


def _too_large(signature: Signature) -> dict[str, Any]:
    shapes = {field.name: f"{field.dtype} of shape {list(field.shape[1:])}" for field in signature.inputs}
    row = next(iter(shapes.values())) if signature.form == "tensor" else shapes
    return {"predict": {"instances": [row]}, "invocations": {"instances": [row]}}


def _column(array: outputs.Array) -> Any:
    return (
        [outputs.plain(value) if isinstance(value, bytes) else value for value in array]
        if array.dtype == object
        else (outputs.jsonable(array))
    )


def _plain(value: Any) -> Any:
    """Without numpy."""
    return orjson.loads(outputs.dumps(value))
