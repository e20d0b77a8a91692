"""JSON Schemas (2020-12) of what each protocol takes and gives, from a model's signature.

Where the protocol allows more than a schema can say (rows of equal number in several arrays, a declared shape that
agrees with the data), the schema describes the part it can say exactly and the description tells the rest, so that
every body made from a schema is accepted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rayfleet_serving.config import Transform
from rayfleet_serving.protocol import dtypes
from rayfleet_serving.signature import Field, Signature

Schema = dict[str, Any]

DATE_PATTERN = "^(1[7-9]|2[01])[0-9]{2}-"
"""Years that fit into 64 bits of nanoseconds, from 1700 to 2199."""
BASE64_PATTERN = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def closed(properties: dict[str, Any], required: list[str]) -> Schema:
    """An object with these properties and no others."""
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def value(dtype: str, *, missing: bool = False) -> Schema:
    """One value of a dtype, or null where values may be missing."""
    schema = _value(dtype)
    return _or_null(schema) if missing and "type" in schema else schema


def rows(field: Field, *, column: bool) -> Schema:
    """Nested arrays, the batch first."""
    return {"type": "array", "minItems": 1, "items": row(field, column=column)}


def row(field: Field, *, column: bool, alone: bool = False) -> Schema:
    """One row, without the batch axis; `alone` where an array in it would be taken for that axis."""
    schema = value(field.dtype, missing=column and _may_miss(field))
    if alone and not column and field.dtype == "object":
        schema = {"type": ["object", "string", "number", "boolean", "null"]}
    for size in reversed(field.shape[1:]):
        schema = {"type": "array", "items": schema, "minItems": max(size, 1)}
        if size >= 0:
            schema["maxItems"] = size
    return schema


def record(signature: Signature, *, alone: bool = False) -> Schema:
    """One row as an object by input name; `alone` as of `row`."""
    column = signature.form == "frame"
    return closed(
        {field.name: row(field, column=column, alone=alone) for field in signature.inputs},
        [field.name for field in signature.inputs if field.required],
    )


def predict(signature: Signature) -> Schema:
    """A JSON body of `/predict`."""
    array = {"type": "array", "minItems": 1}
    match signature.form:
        case "tensor":
            alone = [rows(signature.inputs[0], column=False)]
            if len(signature.inputs[0].shape) > 1:
                alone.append(row(signature.inputs[0], column=False, alone=True))
        case "any":
            alone = [array]
        case _:
            alone = [array | {"items": record(signature)}, record(signature, alone=True)]
    wrapped = [_with_params(signature, {key: {"anyOf": alone}}) for key in ("instances", "inputs")]
    return {"anyOf": [*wrapped, *alone]}


def invocations(signature: Signature) -> Schema:
    """A JSON body of `/invocations`."""
    records = {"type": "array", "minItems": 1, "items": record(signature)}
    match signature.form:
        case "tensor":
            bodies = [{key: rows(signature.inputs[0], column=False)} for key in ("instances", "inputs")]
        case "any":
            bodies = [{key: {"type": "array", "minItems": 1}} for key in ("instances", "inputs")]
        case "tensors":
            bodies = [{key: records} for key in ("instances", "inputs", "dataframe_records")]
        case _:
            bodies = [{key: records} for key in ("dataframe_records", "instances", "inputs")]
            bodies.append({"dataframe_split": _split(signature)})
    return {"anyOf": [_with_params(signature, body) for body in bodies]}


def infer(signature: Signature) -> Schema:
    """A request of the Open Inference Protocol with one row."""
    tensors = [_oip_tensor(field, signature) for field in signature.inputs]
    inputs: Schema = {"type": "array", "minItems": max(1, len(tensors)), "maxItems": len(tensors)}
    if tensors and all(field.required for field in signature.inputs):
        inputs |= {"prefixItems": tensors, "items": False}
    elif tensors:
        required = [tensor for tensor, field in zip(tensors, signature.inputs, strict=True) if field.required]
        inputs |= {
            "minItems": max(1, len(required)),
            "maxItems": len(required),
            "prefixItems": required,
            "items": False,
        }
    else:
        inputs = {"type": "array", "minItems": 1, "items": {"type": "object"}}
    names = [field.name for field in signature.outputs]
    output = closed({"name": {"enum": names} if names else {"type": "string"}}, ["name"])
    body = {
        "id": {"type": ["string", "null"], "maxLength": 256, "description": "Echoed in the response."},
        "parameters": parameters(signature),
        "inputs": inputs,
        "outputs": {
            "type": ["array", "null"],
            "items": output,
            "uniqueItems": True,
            "description": "Outputs wanted, each at most once; all where this is left out or empty.",
        },
    }
    return closed(body, ["inputs"])


def parameters(signature: Signature) -> Schema:
    """Inference parameters by name."""
    properties = {}
    for field in signature.params:
        schema = value(field.dtype)
        properties[field.name] = {"type": "array", "items": schema} if field.shape else schema
        if field.default is not None:
            properties[field.name]["default"] = field.default
    return _or_null(closed(properties, []))


def inferred() -> Schema:
    """A response of the Open Inference Protocol."""
    tensor = {
        "name": {"type": "string"},
        "datatype": {"enum": sorted(dtypes.BY_OIP)},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array", "description": "Flat, in row-major order; NaN and infinities are null."},
        "parameters": {"type": "object"},
    }
    body: Schema = {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": closed(tensor, ["name", "datatype", "shape", "data"])},
    }
    return closed(body, list(body))


def predicted(transform: Transform) -> Schema:
    """A response of `/predict`."""
    prediction: Schema = {}
    if transform.classification is not None:
        label = {"label": {"type": "string"}, "confidence": {"type": ["number", "null"]}}
        best = {"type": "array", "items": closed(label, list(label)), "description": "Best first."}
        prediction = closed(label | {"top": best}, [*label, "top"])
    body = {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "predictions": {"type": "array", "items": prediction, "description": "One for each row."},
    }
    return closed(body, list(body))


def _value(dtype: str) -> Schema:
    name = dtypes.of(dtype).name
    if name.startswith("float"):
        largest = np.finfo(name)
        if name == "float64":
            return {"type": "number", "minimum": float(largest.min), "maximum": float(largest.max)}
        # Half a step over the largest value is the first that rounds to infinity.
        limit = float(largest.max) + float(largest.max - np.nextafter(largest.max, largest.dtype.type(0))) / 2
        return {"type": "number", "exclusiveMinimum": -limit, "exclusiveMaximum": limit}
    if name.startswith(("int", "uint")):
        limits = np.iinfo(name)
        return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    if name.startswith("datetime64"):
        return {"type": "string", "format": "date-time", "pattern": DATE_PATTERN}
    return {
        "bool": {"type": "boolean"},
        "str": {"type": "string"},
        "bytes": {"type": "string", "contentEncoding": "base64", "pattern": BASE64_PATTERN},
    }.get(name, {})


def _or_null(schema: Schema) -> Schema:
    return schema | {"type": [schema["type"], "null"]}


def _may_miss(field: Field) -> bool:
    return not field.dtype.startswith(("int", "uint", "bool"))


def _with_params(signature: Signature, body: dict[str, Any]) -> Schema:
    params = {"params": parameters(signature)} if signature.params else {}
    return closed(body | params, list(body))


def _split(signature: Signature) -> Schema:
    """All columns, in the signature's order."""
    names = [field.name for field in signature.inputs]
    cells = [row(field, column=True) for field in signature.inputs]
    data = {"type": "array", "prefixItems": cells, "items": False, "minItems": len(cells), "maxItems": len(cells)}
    return closed(
        {"columns": {"enum": [names]}, "data": {"type": "array", "minItems": 1, "items": data}}, ["columns", "data"]
    )


def _oip_tensor(field: Field, signature: Signature) -> Schema:
    column = signature.form == "frame"
    shape = [max(size, 1) for size in field.shape]
    size = math.prod(shape)
    dtype = "str" if field.dtype in ("bytes", "object") else field.dtype
    missing = column and _may_miss(field)
    flat = {"type": "array", "items": value(dtype, missing=missing), "minItems": size, "maxItems": size}
    nested = row(Field(name=field.name, dtype=dtype, shape=(-1, *shape)), column=column)
    unnamed = signature.form == "tensor"
    many = ["n", *shape[1:]]
    return closed(
        {
            "name": {"type": "string", "examples": [field.name]} if unnamed else {"const": field.name},
            "shape": {
                "enum": [shape],
                "description": f"This is for one row. For n rows: [{', '.join(map(str, many))}], and the data of all.",
            },
            "datatype": {"const": dtypes.of(field.dtype).oip},
            "parameters": _or_null(closed({} if dtype == "str" else {"content_type": {"type": "string"}}, [])),
            "data": {"anyOf": [flat, nested]} if len(shape) > 1 else flat,
        },
        ["name", "shape", "datatype", "data"],
    )
