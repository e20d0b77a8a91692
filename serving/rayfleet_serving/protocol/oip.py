"""Open Inference Protocol v2 REST, JSON.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

Tensors come as nested arrays or flat in row-major order, and always leave flat. What the protocol has no datatype
for travels in BYTES: text as it is, dates as ISO 8601, objects as JSON text, binary data as UTF-8 or, where the
tensor's `content_type` parameter says "base64" (as in MLServer), as base64. Columns of a DataFrame are tensors of
shape [n] or [n, 1]; null is a missing value in them and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rayfleet_serving.protocol import dtypes, jsontext, outputs
from rayfleet_serving.protocol import expected as expectations
from rayfleet_serving.protocol.dtypes import Array, Dtype
from rayfleet_serving.protocol.errors import invalid
from rayfleet_serving.protocol.expected import MAX_RANK, Expected, Input, convert, flatten, listed, same_rows
from rayfleet_serving.protocol.jsontext import kind, show
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult
from rayfleet_serving.signature import UNNAMED_INPUT, UNNAMED_OUTPUT, Field, InputForm, ModelMetadata, Signature

REQUEST_KEYS = frozenset({"id", "parameters", "inputs", "outputs"})
TENSOR_KEYS = frozenset({"name", "shape", "datatype", "parameters", "data"})
OUTPUT_KEYS = frozenset({"name", "parameters"})
HINTS = frozenset({"content_type", "headers", "binary_data", "binary_data_output"})
"""Parameters that clients of MLServer and Triton send by themselves, and that change nothing here: the signature says
what the content is, and outputs are always JSON."""
MAX_ID = 256


def decode(body: bytes, signature: Signature) -> InferenceRequest:
    """An inference request. The `parameters` of the request are the model's own.

    Raises:
        RequestError: 400.
    """
    document = jsontext.parse(body)
    expected = expectations.of(signature)
    if type(document) is not dict or not document.keys() <= REQUEST_KEYS:
        raise _wrong_keys(document, REQUEST_KEYS, "the request", None)
    tensors = document.get("inputs")
    if type(tensors) is not list or not tensors:
        raise invalid("inputs must be an array with one tensor for each input of the model.", "inputs")
    inputs, form = _inputs(tensors, expected)
    request = InferenceRequest(inputs, same_rows(inputs, "inputs"), form)
    # Null is as good as left out: clients built on pydantic send it.
    if document.get("id") is not None:
        request.id = _id(document["id"])
    if document.get("parameters") is not None:
        request.params = _parameters(document["parameters"], expected)
    if document.get("outputs") is not None:
        request.outputs = _outputs(document["outputs"], signature)
    return request


def encode(
    result: InferenceResult,
    request: InferenceRequest,
    signature: Signature,
    *,
    model_name: str,
    model_version: str,
    request_id: str,
) -> bytes:
    """An inference response with the outputs asked for, in the order asked for.

    Raises:
        RequestError: 400 for an output that the model does not give.
    """
    given = _named(result.outputs, signature)
    for name in request.outputs:
        if name not in given:
            raise invalid(f"There is no output {show(name)}; the model gives {listed(list(given))}.", "outputs")
    names = request.outputs or tuple(given)
    document = {
        "model_name": model_name,
        "model_version": model_version,
        "id": request.id if request.id is not None else request_id,
        "outputs": [_tensor(name, given[name]) for name in names],
    }
    return outputs.dumps(document)


def server_metadata(version: str) -> bytes:
    """Body of `GET /v2`."""
    return orjson.dumps({"name": "rayfleet", "version": version, "extensions": []})


def model_metadata(meta: ModelMetadata, versions: Sequence[str]) -> bytes:
    """Body of `GET /v2/models/{name}`: `versions` are all that are live, inputs and outputs are those of `meta`."""
    document = {
        "name": meta.name,
        "versions": list(versions),
        "platform": f"mlflow_{meta.flavor}",
        "inputs": [_metadata(field) for field in meta.signature.inputs],
        "outputs": [_metadata(field) for field in meta.signature.outputs],
    }
    return orjson.dumps(document)


def request_document(request: InferenceRequest) -> dict[str, Any]:
    """A request as its JSON document, values flat: what `decode` reads, for examples and clients."""
    document: dict[str, Any] = {"inputs": [_tensor(name, array) for name, array in request.inputs.items()]}
    if request.params:
        document["parameters"] = request.params
    return document


def _inputs(tensors: list[Any], expected: Expected) -> tuple[dict[str, Array], InputForm]:
    """Arrays by input name, in the signature's order, and the form they have."""
    given: dict[str, Array] = {}
    for index, tensor in enumerate(tensors):
        where = f"inputs[{index}]"
        name = _tensor_name(tensor, where)
        if expected.only is not None and expected.unnamed and len(tensors) == 1:
            name = expected.only.name  # an unnamed input goes by any name
        if name in given:
            raise invalid(f"Input {show(name)} comes twice.", f"{where}.name")
        if expected.form == "any":
            given[name] = _undeclared(tensor, name, where)
        elif name in expected.inputs:
            given[name] = _declared(tensor, expected.inputs[name], where)
        else:
            raise invalid(
                f"There is no input {show(name)}; this model takes {listed(expected.names)}.", f"{where}.name"
            )
    if expected.form != "any":
        if len(given) < len(expected.inputs):
            expected.check_names(given, "inputs")
            given = {name: given[name] for name in expected.names if name in given}
        elif list(given) != expected.names:
            given = {name: given[name] for name in expected.names}
        return given, expected.form
    if len(given) == 1:
        return {UNNAMED_INPUT: next(iter(given.values()))}, "tensor"
    return given, "tensors"


def _tensor_name(tensor: Any, where: str) -> str:
    if type(tensor) is not dict or not tensor.keys() <= TENSOR_KEYS:
        raise _wrong_keys(tensor, TENSOR_KEYS, where, where)
    name = tensor.get("name")
    if type(name) is not str:
        raise invalid(f"{where}.name must be a string.", f"{where}.name")
    return name


def _declared(tensor: dict[str, Any], field: Input, where: str) -> Array:
    dtype = field.oip
    if tensor.get("datatype") != dtype.oip:
        given = show(tensor["datatype"]) if "datatype" in tensor else "none"
        raise invalid(f"{field.label}: expected datatype {dtype.oip} ({dtype.name}), got {given}.", f"{where}.datatype")
    if "parameters" in tensor and _is_base64(tensor["parameters"], where) and dtype is dtypes.TEXT_BYTES:
        dtype = dtypes.DTYPES["bytes"]
    flat, shape = _flat(tensor, field.label, where)
    if field.column and len(shape) == 2 and shape[1] == 1:
        shape = shape[:1]
    return field.fill(flat, shape, f"{where}.shape" if len(shape) != len(field.shape) else f"{where}.data", dtype)


def _undeclared(tensor: dict[str, Any], name: str, where: str) -> Array:
    """An input of a model without a signature: the request's own datatype and shape hold."""
    label = f"Input {name[:80]!r}"
    dtype: Dtype | None = dtypes.BY_OIP.get(tensor["datatype"]) if type(tensor.get("datatype")) is str else None
    if dtype is None:
        allowed = ", ".join(dtypes.BY_OIP)
        raise invalid(
            f"{label}: expected a datatype of {allowed}, got {show(tensor.get('datatype'))}.", f"{where}.datatype"
        )
    if "parameters" in tensor and _is_base64(tensor["parameters"], where) and dtype.oip == "BYTES":
        dtype = dtypes.DTYPES["bytes"]
    flat, shape = _flat(tensor, label, where)
    if 0 in shape:
        raise invalid(f"{label}: shape {show(list(shape))} holds no elements; send at least one row.", f"{where}.shape")
    return convert(flat, shape, dtype, False, label, f"{where}.data")


def _flat(tensor: dict[str, Any], label: str, where: str) -> tuple[list[Any], tuple[int, ...]]:
    """The tensor's elements and its declared shape, which agree. Nothing is allocated by the shape alone."""
    data, shape = tensor.get("data"), tensor.get("shape")
    if type(shape) is not list or not shape or not all(type(size) is int and size >= 0 for size in shape):
        given = show(shape) if "shape" in tensor else "none"
        raise invalid(f"{label}: expected a shape like [1, 4], of sizes not below 0, got {given}.", f"{where}.shape")
    if len(shape) > MAX_RANK:
        raise invalid(f"{label}: expected a shape of at most {MAX_RANK} axes, got {len(shape)}.", f"{where}.shape")
    if type(data) is not list:
        given = f"{kind(data)} ({show(data)})" if "data" in tensor else "none"
        raise invalid(f"{label}: expected data in an array, got {given}.", f"{where}.data")
    if data and type(data[0]) is list:
        flat, nested = flatten(data, label, f"{where}.data")
        if list(nested) != shape:
            raise invalid(f"{label}: shape says {show(shape)}, the data is {list(nested)}.", f"{where}.data")
        return flat, nested
    size = math.prod(shape)
    if size != len(data):
        raise invalid(
            f"{label}: shape {show(shape)} holds {show(size)} elements, the data has {len(data)}.", f"{where}.data"
        )
    return data, tuple(shape)


def _is_base64(parameters: Any, where: str) -> bool:
    """Whether a tensor's parameters say so. Raises `RequestError` 400 for what would change the tensor's meaning."""
    if parameters is None:
        return False
    if type(parameters) is not dict:
        raise invalid(f"{where}.parameters must be an object, got {kind(parameters)}.", f"{where}.parameters")
    for name in parameters.keys() - HINTS:
        hint = " The binary tensor extension is not supported: send data as JSON." if name == "binary_data_size" else ""
        raise invalid(f"Tensor parameter {show(name)} is not supported.{hint}", f"{where}.parameters.{name[:80]}")
    content_type = parameters.get("content_type", "")
    if type(content_type) is not str:
        raise invalid(f"content_type must be a string, got {show(content_type)}.", f"{where}.parameters.content_type")
    return content_type == "base64"


def _id(given: Any) -> str:
    if type(given) is not str or len(given) > MAX_ID:
        raise invalid(f"id must be a string of at most {MAX_ID} characters, got {show(given)}.", "id")
    return given


def _parameters(given: Any, expected: Expected) -> dict[str, Any]:
    if type(given) is dict:
        given = {name: value for name, value in given.items() if name not in HINTS or name in expected.params}
    return expected.parameters(given, "parameters")


def _outputs(given: Any, signature: Signature) -> tuple[str, ...]:
    if type(given) is not list:
        raise invalid(f"outputs must be an array, got {kind(given)}.", "outputs")
    names: dict[str, None] = {}
    known = [field.name for field in signature.outputs]
    for index, output in enumerate(given):
        where = f"outputs[{index}]"
        if type(output) is not dict or not output.keys() <= OUTPUT_KEYS:
            raise _wrong_keys(output, OUTPUT_KEYS, where, where)
        name = output.get("name")
        if type(name) is not str or (known and name not in known):
            raise invalid(f"There is no output {show(name)}; the model gives {listed(known)}.", f"{where}.name")
        if name in names:
            raise invalid(f"Output {show(name)} is asked for twice.", f"{where}.name")
        if "parameters" in output:
            _is_base64(output["parameters"], where)
        names[name] = None
    return tuple(names)


def _named(given: dict[str, Array], signature: Signature) -> dict[str, Array]:
    """The outputs by the names of the metadata.

    A signature's one unnamed output has a name there that the model does not know: a graph's own, or the 0 of an
    unnamed Series, is what it gives.
    """
    if len(given) == 1 and [field.name for field in signature.outputs] == [UNNAMED_OUTPUT]:
        return dict(zip([UNNAMED_OUTPUT], given.values(), strict=True))
    return given


def _wrong_keys(given: Any, allowed: frozenset[str], what: str, where: str | None) -> Exception:
    order = ", ".join(sorted(allowed))
    if type(given) is not dict:
        return invalid(f"Expected an object with {order} as {what}, got {kind(given)}.", where)
    extra = [name for name in given if name not in allowed]
    hint = " That is another protocol: POST it to /<model>/predict." if "instances" in extra else ""
    return invalid(f"Unknown {listed(extra)} in {what}; it takes {order}.{hint}", where)


def _tensor(name: str, array: Array) -> dict[str, Any]:
    datatype, data, parameters = _data(array)
    tensor = {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}
    return tensor | {"parameters": parameters} if parameters else tensor


def _data(array: Array) -> tuple[str, Any, Mapping[str, str] | None]:
    """Datatype, flat data and parameters of one tensor."""
    flat = array.reshape(-1)
    known = dtypes.DTYPES.get(array.dtype.name)
    if known is not None and known.oip != "BYTES":
        return known.oip, outputs.jsonable(flat), None
    if array.dtype.kind == "M":
        return "BYTES", outputs.instants(flat), {"content_type": "datetime"}
    values = flat.tolist()
    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {str}:
        return "BYTES", values, None
    if kinds <= {bytes}:
        return "BYTES", [_one_line(value) for value in values], {"content_type": "base64"}
    return "BYTES", [None if value is None else _json(value) for value in values], {"content_type": "json"}


def _one_line(value: bytes | None) -> str | None:
    return None if value is None else outputs.plain(value).replace("\n", "")


def _json(value: Any) -> str:
    return outputs.dumps(value).decode()


def _metadata(field: Field) -> dict[str, Any]:
    tensor: dict[str, Any] = {
        "name": field.name,
        "datatype": dtypes.of(field.dtype).oip,
        "shape": list(field.shape),
    }
    content = {"bytes": "base64", "object": "json"}.get(
        field.dtype, "datetime" if field.dtype[:8] == "datetime" else None
    )
    parameters: dict[str, Any] = {"content_type": content} if content else {}
    if not field.required:
        parameters["optional"] = True
    return tensor | {"parameters": parameters} if parameters else tensor
