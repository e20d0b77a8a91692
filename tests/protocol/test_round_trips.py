"""What one side writes the other reads back unchanged, in every dtype and over every protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from protocol.models import DIGITS, HOUSES, PAIR, metadata

from rayfleet_serving.protocol import invocations, oip, predict
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult, RequestError
from rayfleet_serving.signature import Field, Signature

TENSOR_DTYPES = ["float16", "float32", "float64", "bool"] + [f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64)]


def encoded(outputs: dict[str, np.ndarray], request: InferenceRequest | None = None) -> dict[str, Any]:
    request = request or InferenceRequest({}, 1, "tensors")
    result, names = InferenceResult(outputs, "tensors"), {"model_name": "m", "model_version": "7"}
    body = oip.encode(result, request, Signature(), **names, request_id="given")
    document: dict[str, Any] = orjson.loads(body)
    return document


@given(data=st.data(), dtype=st.sampled_from(TENSOR_DTYPES), nested=st.booleans())
@settings(max_examples=200, deadline=None)
def test_oip_outputs_read_back_as_inputs(data: st.DataObject, dtype: str, nested: bool) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else None
    array = data.draw(hnp.arrays(dtype, shape, elements=elements))
    (tensor,) = encoded({"x": array})["outputs"]
    if nested:
        tensor["data"] = np.array(tensor["data"], dtype=object).reshape(shape).tolist()
    row = tuple(shape[1:])
    signature = Signature(form="tensors", inputs=(Field(name="x", dtype=dtype, shape=(-1, *row)),))
    for known in (signature, Signature()):
        (back,) = oip.decode(orjson.dumps({"inputs": [tensor]}), known).inputs.values()
        np.testing.assert_array_equal(back, array, strict=True)


@given(array=hnp.arrays("float32", st.integers(1, 20), elements={"allow_nan": False, "allow_infinity": False}))
@settings(deadline=None)
def test_float32_answers_keep_their_value_over_every_protocol(array: np.ndarray) -> None:
    result = InferenceResult({"output": array}, "array")
    scored = orjson.loads(invocations.encode(result))["predictions"]
    plain = orjson.loads(predict.encode(result, model_name="m", model_version="1", classification=None, labels=()))[
        "predictions"
    ]
    np.testing.assert_array_equal(np.array(scored, np.float32), array)
    np.testing.assert_array_equal(np.array(plain, np.float32), array)


def test_what_oip_has_no_datatype_for_travels_in_bytes() -> None:
    answer = encoded(
        {
            "text": np.array(["a", "é"]),
            "maybe": np.array(["a", None], dtype=object),
            "raw": np.array([b"\x00\xff", b""], dtype=object),
            "when": np.array(["2024-01-01T00:00:00.5", "NaT"], dtype="datetime64[ns]"),
            "any": np.array([{"a": [1]}, "b"], dtype=object),
            "nan": np.array([np.nan, np.inf], dtype=np.float32),
            "swapped": np.array([1, 2], dtype=">i4"),
        }
    )
    read = {
        output["name"]: (output["datatype"], output["data"], output.get("parameters")) for output in answer["outputs"]
    }
    assert read == {
        "text": ("BYTES", ["a", "é"], None),
        "maybe": ("BYTES", ["a", None], None),
        "raw": ("BYTES", ["AP8=", ""], {"content_type": "base64"}),
        "when": ("BYTES", ["2024-01-01T00:00:00.500000", None], {"content_type": "datetime"}),
        "any": ("BYTES", ['{"a":[1]}', '"b"'], {"content_type": "json"}),
        "nan": ("FP32", [None, None], None),
        "swapped": ("INT32", [1, 2], None),
    }


def test_oip_columns_take_one_axis_or_two_and_every_content() -> None:
    tensors = [
        ("rooms", [2, 1], "INT32", [[3], [4.0]], {}),
        ("area", [2], "FP64", [80.5, None], {}),
        ("city", [2], "BYTES", ["Paris", None], {"content_type": "str"}),
        ("garden", [2], "BOOL", [True, False], {}),
        ("photo", [2], "BYTES", ["AP8=", "AA=="], {"content_type": "base64"}),
        ("sold", [2], "BYTES", ["2024-01-01T12:00:00+02:00", None], {}),
    ]
    keys = ("name", "shape", "datatype", "data", "parameters")
    request = oip.decode(orjson.dumps({"inputs": [dict(zip(keys, tensor, strict=True)) for tensor in tensors]}), HOUSES)
    assert list(request.inputs) == ["rooms", "area", "city", "garden", "sold", "photo"]
    assert (request.rows, request.form) == (2, "frame")
    assert request.inputs["rooms"].tolist() == [3, 4]
    assert np.isnan(request.inputs["area"][1])
    assert request.inputs["city"].tolist() == ["Paris", None]
    assert request.inputs["photo"].tolist() == [b"\x00\xff", b"\x00"]
    assert request.inputs["sold"][0] == np.datetime64("2024-01-01T10:00:00")
    assert np.isnat(request.inputs["sold"][1])


def test_oip_request_brings_id_parameters_and_wanted_outputs() -> None:
    tensors = [
        {"name": "right", "shape": [1], "datatype": "FP64", "data": [1]},
        {"name": "left", "shape": [1, 3], "datatype": "UINT8", "data": [1, 2, 3]},
    ]
    body = {"id": "mine", "inputs": tensors, "outputs": [{"name": "product"}], "parameters": {"headers": {}}}
    request = oip.decode(orjson.dumps(body), PAIR)
    assert (request.id, request.outputs, request.params, list(request.inputs)) == (
        "mine",
        ("product",),
        {},
        ["left", "right"],
    )
    outputs = {"sum": np.array([7.0]), "product": np.array([[1.0, 2.0, 3.0]])}
    answer = encoded(outputs, request)
    assert answer == {
        "model_name": "m",
        "model_version": "7",
        "id": "mine",
        "outputs": [{"name": "product", "datatype": "FP64", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}],
    }
    assert encoded(outputs)["id"] == "given"
    with pytest.raises(RequestError, match="no output"):
        encoded({"sum": np.array([7.0])}, request)


def test_an_unnamed_input_goes_by_any_name() -> None:
    tensor = {"name": "input-0", "shape": [2, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 128}
    request = oip.decode(orjson.dumps({"inputs": [tensor]}), DIGITS)
    assert {name: array.shape for name, array in request.inputs.items()} == {"input": (2, 1, 8, 8)}


def test_metadata_tells_what_infer_takes() -> None:
    answer = orjson.loads(oip.model_metadata(metadata("houses"), ["3", "4"]))
    assert (answer["name"], answer["versions"], answer["platform"]) == ("houses", ["3", "4"], "mlflow_pyfunc")
    assert answer["inputs"][0] == {"name": "rooms", "datatype": "INT32", "shape": [-1]}
    assert answer["inputs"][4] == {
        "name": "sold",
        "datatype": "BYTES",
        "shape": [-1],
        "parameters": {"content_type": "datetime", "optional": True},
    }
    assert answer["outputs"] == [{"name": "output", "datatype": "FP64", "shape": [-1]}]
    assert orjson.loads(oip.server_metadata("1.2")) == {"name": "rayfleet", "version": "1.2", "extensions": []}


PLAIN = [
    ("one row alone", DIGITS, [[[0.5] * 8] * 8], 1),
    ("rows alone", DIGITS, [[[[0.5] * 8] * 8]] * 2, 2),
    ("instances", DIGITS, {"instances": [[[[0.5] * 8] * 8]] * 3}, 3),
    ("one instance", DIGITS, {"instances": [[[0.5] * 8] * 8]}, 1),
    ("inputs", DIGITS, {"inputs": [[[[0.5] * 8] * 8]]}, 1),
    ("one record of tensors", PAIR, {"left": [1, 2, 3], "right": 0.5}, 1),
    ("tensors by name", PAIR, {"left": [[1, 2, 3], [4, 5, 6]], "right": [0.5, 1]}, 2),
    ("records of tensors", PAIR, [{"left": [1, 2, 3], "right": 0.5}] * 2, 2),
    ("instances of tensors", PAIR, {"instances": [{"left": [1, 2, 3], "right": 0.5}]}, 1),
    ("inputs by name", PAIR, {"inputs": {"left": [1, 2, 3], "right": 0.5}}, 1),
    ("a record", HOUSES, {"rooms": 3, "area": 1, "city": "Rome", "garden": True}, 1),
    ("records", HOUSES, [{"rooms": 3, "area": 1, "city": "Rome", "garden": True}] * 2, 2),
    ("columns", HOUSES, {"rooms": [3, 4], "area": [1, 2], "city": ["Rome", "Oslo"], "garden": [True, False]}, 2),
    ("wrapped records", HOUSES, {"instances": [{"rooms": 3, "area": 1, "city": "Rome", "garden": True}]}, 1),
    ("no signature, array", Signature(), [[1, 2]], 1),
    ("no signature, record of arrays", Signature(), {"a": [1, 2], "b": [[1], [2]]}, 2),
]


@pytest.mark.parametrize(("signature", "document", "rows"), [case[1:] for case in PLAIN], ids=[c[0] for c in PLAIN])
def test_predict_takes_rows_in_every_plain_form(signature: Signature, document: Any, rows: int) -> None:
    request = predict.decode_json(orjson.dumps(document), signature)
    assert request.rows == rows
    for field in signature.inputs:
        if field.required:
            array = request.inputs[field.name]
            assert array.shape == (rows, *field.shape[1:])
            assert array.dtype == np.dtype(object if field.dtype == "str" else field.dtype)


def test_parameters_come_in_their_declared_types() -> None:
    row = {"rooms": 3, "area": 1, "city": "Rome", "garden": True}
    body = orjson.dumps({"instances": [row], "params": {"discount": 1, "cities": ["Oslo"]}})
    for request in (predict.decode_json(body, HOUSES), invocations.decode(body, None, HOUSES)):
        assert request.params == {"discount": 1.0, "cities": ["Oslo"]}
        assert type(request.params["discount"]) is float


def test_predict_gives_one_prediction_for_each_row() -> None:
    def predictions(outputs: dict[str, np.ndarray], form: Any) -> Any:
        body = predict.encode(
            InferenceResult(outputs, form), model_name="m", model_version="2", classification=None, labels=()
        )
        answer = orjson.loads(body)
        assert (answer["model"], answer["version"]) == ("m", "2")
        return answer["predictions"]

    matrix = np.array([[1.5, np.nan], [3, 4]])
    half = np.array([0.5, 1], np.float16)
    assert predictions({"output": matrix}, "array") == [[1.5, None], [3.0, 4.0]]
    assert predictions({"a": matrix, "b": half}, "tensors") == [
        {"a": [1.5, None], "b": 0.5},
        {"a": [3.0, 4.0], "b": 1.0},
    ]
    assert predictions({"x": half, "y": np.array(["u", None], object)}, "frame") == [
        {"x": 0.5, "y": "u"},
        {"x": 1, "y": None},
    ]
    assert predictions({"output": np.array([{"label": "cat"}], object)}, "list") == [{"label": "cat"}]
