"""The same JSON gives the same arrays as MLflow's own scoring server reads, and the same predictions as it writes."""

from __future__ import annotations

import base64
import datetime
import io
from typing import Any

import mlflow.pyfunc.scoring_server as mlflow_server
import numpy as np
import orjson
import pandas as pd
import pytest
from mlflow.models.utils import _enforce_schema
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from rayfleet_serving.model.flavors import containers
from rayfleet_serving.protocol import invocations
from rayfleet_serving.protocol.message import InferenceRequest
from rayfleet_serving.signature import Field, Signature

UNNAMED = Signature(form="tensor", inputs=(Field(name="input", dtype="float32", shape=(-1, 3)),))
NAMED = Signature(
    form="tensors",
    inputs=(Field(name="a", dtype="int64", shape=(-1, 2)), Field(name="b", dtype="float32", shape=(-1,))),
)
SINGLE = Signature(form="tensors", inputs=(Field(name="a", dtype="uint8", shape=(-1, 2, 2)),))
COLUMNS = Signature(
    form="frame",
    inputs=(
        Field(name="n", dtype="int64"),
        Field(name="i", dtype="int32"),
        Field(name="x", dtype="float64"),
        Field(name="f", dtype="float32"),
        Field(name="s", dtype="str"),
        Field(name="t", dtype="bool"),
    ),
)
DATED = Signature(form="frame", inputs=(Field(name="when", dtype="datetime64[ns]"), Field(name="raw", dtype="bytes")))
ONE = Signature(form="frame", inputs=(Field(name="x", dtype="float64"),))
MATRIX = Signature(form="tensor", inputs=(Field(name="input", dtype="object", shape=(-1, 2)),))
CUBES = Signature(form="tensors", inputs=(Field(name="a", dtype="object", shape=(-1, 2, 1)),))

SCHEMAS = {
    id(UNNAMED): Schema([TensorSpec(np.dtype("float32"), (-1, 3))]),
    id(NAMED): Schema([TensorSpec(np.dtype("int64"), (-1, 2), "a"), TensorSpec(np.dtype("float32"), (-1,), "b")]),
    id(SINGLE): Schema([TensorSpec(np.dtype("uint8"), (-1, 2, 2), "a")]),
    id(COLUMNS): Schema(
        [
            ColSpec(kind, name)
            for kind, name in zip(
                (DataType.long, DataType.integer, DataType.double, DataType.float, DataType.string, DataType.boolean),
                "nixfst",
                strict=True,
            )
        ]
    ),
    id(DATED): Schema([ColSpec(DataType.datetime, "when"), ColSpec(DataType.binary, "raw")]),
    id(MATRIX): Schema([TensorSpec(np.dtype("object"), (-1, 2))]),
    id(CUBES): Schema([TensorSpec(np.dtype("object"), (-1, 2, 1), "a")]),
    id(ONE): Schema([ColSpec(DataType.double, "x")]),
}
ROW = {"n": 2**53 + 1, "i": -5, "x": 0.1, "f": 0.1, "s": "é", "t": True}
ROWS = [ROW, {"n": 0, "i": 2**31 - 1, "x": -1e300, "f": 3, "s": "", "t": False}]
SPLIT = {"columns": list(ROW), "data": [list(row.values()) for row in ROWS]}
STAMP = {"when": "2024-02-29T12:30:00", "raw": base64.encodebytes(b"\x00" * 100).decode()}

SAME = [
    ("unnamed tensor, instances", UNNAMED, {"instances": [[1, 2.5, -3e10], [0, 0, 0]]}),
    ("unnamed tensor, inputs", UNNAMED, {"inputs": [[1, 2.5, 3]]}),
    ("unnamed tensor, split", UNNAMED, {"dataframe_split": {"data": [[1, 2, 3.5]], "columns": [0, 1, 2]}}),
    (
        "unnamed tensor, split, names",
        UNNAMED,
        {"dataframe_split": {"data": [[1, 2, 3]], "columns": ["x", "y", "z"]}},
    ),
    ("unnamed tensor, records", UNNAMED, {"dataframe_records": [{"x": 1, "y": 2.0, "z": 3.5}]}),
    ("named tensors, instances", NAMED, {"instances": [{"a": [1, 2], "b": 0.5}, {"b": 1.5, "a": [3, 4]}]}),
    ("named tensors, inputs", NAMED, {"inputs": {"b": [0.5, 1.5], "a": [[1, 2], [3, 4]]}}),
    ("named tensors, records", NAMED, {"dataframe_records": [{"a": [1, 2], "b": 0.5}]}),
    ("named tensors, split", NAMED, {"dataframe_split": {"columns": ["a", "b"], "data": [[[1, 2], 0.5]]}}),
    ("one named tensor, array", SINGLE, {"inputs": [[[1, 2], [3, 4]]]}),
    ("one named tensor, instances", SINGLE, {"instances": [[[1, 2], [3, 4]]]}),
    ("one named tensor, flat cells", SINGLE, {"dataframe_split": {"columns": ["a"], "data": [[[1, 2, 3, 4]]]}}),
    ("objects, inputs", MATRIX, {"inputs": [["a", 1.5], [{"b": 1}, None]]}),
    ("objects, instances", MATRIX, {"instances": [["a", 1.5]]}),
    ("named objects, instances", CUBES, {"instances": [{"a": [["a"], [1.5]]}, {"a": [[True], [None]]}]}),
    ("columns, split", COLUMNS, {"dataframe_split": SPLIT}),
    ("columns, split with index", COLUMNS, {"dataframe_split": SPLIT | {"index": [5, 7]}}),
    ("columns, records", COLUMNS, {"dataframe_records": ROWS}),
    ("columns, records in another order", COLUMNS, {"dataframe_records": [dict(reversed(ROW.items()))]}),
    ("columns, instances", COLUMNS, {"instances": ROWS}),
    ("columns, inputs by column", COLUMNS, {"inputs": {name: [row[name] for row in ROWS] for name in ROW}}),
    ("columns, one record", COLUMNS, {"inputs": ROW}),
    ("columns, missing float", COLUMNS, {"dataframe_records": [*ROWS, ROW | {"x": None}]}),
    ("dates and bytes, records", DATED, {"dataframe_records": [STAMP]}),
    ("dates and bytes, split", DATED, {"dataframe_split": {"columns": ["when", "raw"], "data": [[*STAMP.values()]]}}),
    ("dates in nanoseconds", DATED, {"dataframe_records": [STAMP | {"when": "2024-02-29T12:30:00.123456789"}]}),
    ("one column, plain values", ONE, {"inputs": [1.5, 2]}),
]


@pytest.mark.parametrize(("signature", "document"), [case[1:] for case in SAME], ids=[case[0] for case in SAME])
def test_json_is_read_as_mlflow_reads_it(signature: Signature, document: dict[str, Any]) -> None:
    schema = SCHEMAS[id(signature)]
    theirs = _enforce_schema(mlflow_server.infer_and_parse_data(orjson.loads(orjson.dumps(document)), schema), schema)
    request = invocations.decode(orjson.dumps(document), "application/json", signature)
    assert_same(native(request), theirs)


CSV = [
    ("plain", pd.DataFrame([ROW, ROWS[1] | {"s": "b"}]).to_csv(index=False)),
    ("with index", pd.DataFrame([ROW]).to_csv()),
    ("missing float", pd.DataFrame([ROW, ROW | {"x": None, "s": "a,b"}]).to_csv(index=False)),
    ("Windows lines", pd.DataFrame([ROW]).to_csv(index=False, lineterminator="\r\n")),
]


@pytest.mark.parametrize("text", [case[1] for case in CSV], ids=[case[0] for case in CSV])
def test_csv_is_read_as_mlflow_reads_it(text: str) -> None:
    schema = SCHEMAS[id(COLUMNS)]
    theirs = _enforce_schema(mlflow_server.parse_csv_input(io.StringIO(text), schema), schema)
    request = invocations.decode(text.encode(), "text/csv; charset=utf-8", COLUMNS)
    assert_same(native(request), theirs)


def test_without_a_signature_the_json_decides() -> None:
    tensor = invocations.decode(b'{"instances": [[1, 2], [3, 4]]}', None, Signature())
    assert (tensor.form, tensor.rows, tensor.inputs["input"].dtype) == ("tensor", 2, np.int64)
    tensors = invocations.decode(b'{"inputs": {"a": [1.5], "b": [[true]]}}', None, Signature())
    assert (tensors.form, tensors.inputs["b"].shape, tensors.inputs["b"].dtype) == ("tensors", (1, 1), np.bool_)
    frame = invocations.decode(b'{"dataframe_records": [{"a": 1, "b": null}, {"a": 2, "b": "x"}]}', None, Signature())
    assert (frame.form, frame.inputs["a"].tolist(), frame.inputs["b"].tolist()) == ("frame", [1, 2], [None, "x"])
    text = invocations.decode(b"a,b,c\n1,x,true\n2.5,,false\n", "text/csv", Signature())
    assert {name: column.tolist() for name, column in text.inputs.items()} == {
        "a": [1.0, 2.5],
        "b": ["x", None],
        "c": [True, False],
    }


WHEN = pd.Timestamp("2024-02-29T12:30:00.5")
ANSWERS = [
    ("matrix", np.arange(6, dtype=np.float32).reshape(2, 3) / 7),
    ("float64 vector", np.array([0.1, 1e300, -0.0])),
    ("integers", np.array([2**63 - 1, -5])),
    ("booleans", np.array([True, False])),
    ("text", np.array(["a", "é"])),
    ("objects", np.array(["a", None, 3], dtype=object)),
    ("dates", np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[ns]")),
    ("float16", np.array([0.5, 2.0], dtype=np.float16)),
    ("dict", {"a": np.array([[1.5, 2], [3, 4]]), "b": np.array([1, 2])}),
    ("table", pd.DataFrame({"x": [0.5, 1.5], "n": [1, 2], "s": ["a", "b"], "t": [True, False]})),
    ("nullable table", pd.DataFrame({"x": [0.5, 1], "n": [1, 2], "t": [True, False]}).convert_dtypes()),
    ("nullable table with missing", pd.DataFrame({"n": [1, None], "t": [None, True]}).convert_dtypes()),
    ("table with dates", pd.DataFrame({"when": [WHEN, WHEN.floor("D")], "x": [1, 2]})),
    ("table with bytes", pd.DataFrame({"raw": [b"\x00" * 60, b""]})),
    ("table of lists", pd.DataFrame({"v": [[1, 2], [3]]})),
    ("series", pd.Series([1.5, 2.5], name="score")),
    ("unnamed series", pd.Series([1.5, 2.5])),
    ("list of text", ["a", "b"]),
    ("list of dicts", [{"label": "cat", "score": 0.5, "when": datetime.datetime(2024, 1, 1)}]),
    ("list of numbers", [1.5, 2.5]),
]


@pytest.mark.parametrize("answer", [case[1] for case in ANSWERS], ids=[case[0] for case in ANSWERS])
def test_predictions_are_written_as_mlflow_writes_them(answer: Any) -> None:
    theirs = io.StringIO()
    mlflow_server.predictions_to_json(answer, theirs)
    ours = orjson.loads(invocations.encode(containers.result(answer, Signature())))
    assert_json(ours, orjson.loads(theirs.getvalue()), single=getattr(answer, "dtype", None) == np.float32)


def test_nullable_columns_are_numbers_where_numpy_can_hold_them() -> None:
    answer = pd.DataFrame(
        {
            "n": pd.array([1, 2], dtype="Int64"),
            "byte": pd.array([1, 2], dtype="UInt8"),
            "x": pd.array([0.5, None], dtype="Float64"),
            "f": pd.array([0.5, 1], dtype="Float32"),
            "t": pd.array([True, False], dtype="boolean"),
            "missing": pd.array([1, None], dtype="Int64"),
            "s": pd.array(["a", None], dtype="string"),
        }
    )
    result = containers.result(answer, Signature())
    kinds = {name: array.dtype.name for name, array in result.outputs.items()}
    assert kinds == {
        "n": "int64",
        "byte": "uint8",
        "x": "float64",
        "f": "float32",
        "t": "bool",
        "missing": "object",
        "s": "object",
    }
    assert orjson.loads(invocations.encode(result))["predictions"][1] == {
        "n": 2,
        "byte": 2,
        "x": None,
        "f": 1.0,
        "t": False,
        "missing": None,
        "s": None,
    }


def test_missing_predictions_are_null() -> None:
    answer = pd.DataFrame({"x": [np.nan, np.inf], "when": [pd.NaT, WHEN], "s": [None, "a"]})
    assert orjson.loads(invocations.encode(containers.result(answer, Signature()))) == {
        "predictions": [
            {"x": None, "when": None, "s": None},
            {"x": None, "when": "2024-02-29T12:30:00.500000", "s": "a"},
        ]
    }


def native(request: InferenceRequest) -> Any:
    """The request as the container MLflow hands to a model."""
    if request.form == "tensor":
        return next(iter(request.inputs.values()))
    return pd.DataFrame(request.inputs) if request.form == "frame" else request.inputs


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, pd.DataFrame):
        theirs = theirs.reset_index(drop=True)  # an index never reaches the model
        pd.testing.assert_frame_equal(ours.astype(object), theirs[list(ours.columns)].astype(object), check_dtype=True)
        numbers = [name for name in ours.columns if ours[name].dtype.kind in "biufM"]
        assert ours[numbers].dtypes.to_dict() == theirs[numbers].dtypes.to_dict()
    elif isinstance(theirs, dict):
        assert sorted(ours) == sorted(theirs)
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array, strict=True)
    else:
        np.testing.assert_array_equal(ours, theirs, strict=True)


def assert_json(ours: Any, theirs: Any, *, single: bool) -> None:
    """Equal; float32 values may be written with fewer digits."""
    if single:
        np.testing.assert_array_equal(
            np.array(ours["predictions"], np.float32), np.array(theirs["predictions"], np.float32)
        )
    else:
        assert ours == theirs
