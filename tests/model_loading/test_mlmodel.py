"""What a model directory says about itself, read without MLflow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property
from model_loading import models

from rayfleet_serving.model import mlmodel
from rayfleet_serving.model.errors import LoadError
from rayfleet_serving.model.flavors import load, run_example, warmup_inputs
from rayfleet_serving.signature import Field


def write(path: Path, signature: ModelSignature | None) -> mlmodel.MLmodel:
    model = Model(signature=signature, model_id="m-" + "1" * 32)
    model.add_flavor("python_function", loader_module="nowhere")
    model.save(str(path / "MLmodel"))
    return mlmodel.read(path)


def test_columns_of_every_type(tmp_path: Path) -> None:
    columns = [ColSpec(kind, kind.name) for kind in DataType]
    columns += [
        ColSpec(Array(DataType.double), "array"),
        ColSpec(Object([Property("p", DataType.string)]), "object", required=False),
        ColSpec(Map(DataType.long), "map"),
        ColSpec(AnyType(), "any"),
    ]
    signature = write(tmp_path, ModelSignature(Schema(columns), Schema([ColSpec("double")]))).signature
    assert signature.form == "frame"
    assert {field.name: field.dtype for field in signature.inputs} == {
        "boolean": "bool",
        "integer": "int32",
        "long": "int64",
        "float": "float32",
        "double": "float64",
        "string": "str",
        "binary": "bytes",
        "datetime": "datetime64[ns]",
        "array": "object",
        "object": "object",
        "map": "object",
        "any": "object",
    }
    assert [field.name for field in signature.inputs if not field.required] == ["object"]
    assert all(field.shape == (-1,) for field in signature.inputs)
    assert signature.outputs == (Field(name="output", dtype="float64"),)


TENSORS = [
    ([TensorSpec(np.dtype("float32"), (-1, 3, 8, 8))], "tensor", [("input", "float32", (-1, 3, 8, 8))], None),
    ([TensorSpec(np.dtype("uint8"), (-1,), "x")], "tensors", [("x", "uint8", (-1,))], None),
    (
        [TensorSpec(np.dtype("str"), (-1,), "text"), TensorSpec(np.dtype("datetime64[ns]"), (-1, 2), "when")],
        "tensors",
        [("text", "str", (-1,)), ("when", "datetime64[ns]", (-1, 2))],
        None,
    ),
    ([TensorSpec(np.dtype("float32"), (8, 4))], "tensor", [("input", "float32", (-1, 4))], 8),
    (
        [TensorSpec(np.dtype("float32"), (8, 4), "a"), TensorSpec(np.dtype("float32"), (2, 4), "b")],
        "tensors",
        [("a", "float32", (-1, 4)), ("b", "float32", (-1, 4))],
        None,
    ),
]


@pytest.mark.parametrize(("specs", "form", "fields", "static_batch"), TENSORS)
def test_tensors(
    specs: list[TensorSpec], form: str, fields: list[Any], static_batch: int | None, tmp_path: Path
) -> None:
    read = write(tmp_path, ModelSignature(Schema(specs)))
    assert read.signature.form == form
    assert [(field.name, field.dtype, field.shape) for field in read.signature.inputs] == fields
    assert read.static_batch == static_batch


def test_parameters(tmp_path: Path) -> None:
    params = ParamSchema(
        [ParamSpec("temperature", DataType.double, 0.5), ParamSpec("ids", DataType.long, [1, 2], (-1,))]
    )
    signature = write(tmp_path, ModelSignature(Schema([ColSpec("string")]), params=params)).signature
    assert signature.params == (
        Field(name="temperature", dtype="float64", shape=(), required=False, default=0.5),
        Field(name="ids", dtype="int64", shape=(-1,), required=False, default=[1, 2]),
    )


def test_columns_named_by_numbers_or_not_at_all(tmp_path: Path) -> None:
    read = write(tmp_path, ModelSignature(Schema([ColSpec("double", 7), ColSpec("double", 9)])))
    assert read.labels == {"7": 7, "9": 9}
    read = write(tmp_path, ModelSignature(Schema([ColSpec("double"), ColSpec("double")])))
    assert read.labels == {"0": 0, "1": 1}


def test_no_signature(tmp_path: Path) -> None:
    read = write(tmp_path, None)
    assert (read.signature.form, read.signature.inputs, read.model_id) == ("any", (), "m-" + "1" * 32)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lists no flavors"),
        ("{", "cannot be read"),
        ("[1, 2]", "lists no flavors"),
        ("flavors: {onnx: 3}", "lists no flavors"),
        ("flavors: {onnx: {}}\nsignature: {inputs: '[{]'}", "signature: JSONDecodeError"),
        ("flavors: {onnx: {}}\nsignature: {inputs: '[3]'}", "expected a list of typed fields"),
        ('flavors: {onnx: {}}\nsignature: {inputs: \'[{"type": "tensor"}]\'}', "signature: KeyError"),
        ("flavors: {onnx: {}}\nsignature: [1]", "signature: AttributeError"),
        ("flavors: {onnx: !!python/object/apply:os.getcwd []}", "cannot be read"),
    ],
)
def test_corrupt_file(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(LoadError, match=says) as refused:
        load(tmp_path, allow_code_execution=False, gpu_memory_bytes=None)
    assert refused.value.reason == "CorruptModel"
    assert str(tmp_path / "MLmodel") in refused.value.message


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="not an MLflow model directory"):
        mlmodel.read(tmp_path)


def test_an_example_shows_one_row_and_is_run_as_it_was_logged(saved: Any) -> None:
    images = mlmodel.input_example(saved(models.pytorch_pt2))
    assert images is not None
    assert (np.shape(images.row["inputs"]), np.shape(images.body["inputs"])) == ((1, 1, 9, 9), (4, 1, 9, 9))
    table = mlmodel.input_example(saved(models.sklearn_frame))
    assert table is not None
    rows = models.TABLE[:2].to_numpy().tolist()
    assert table.row == {"dataframe_split": {"columns": list("abcd"), "data": rows[:1]}}
    assert table.body == {"dataframe_split": {"columns": list("abcd"), "data": rows}}
    texts = mlmodel.input_example(saved(models.transformers_text))
    assert texts == mlmodel.InputExample({"inputs": ["a good film", "bad"]}, True, {"inputs": ["a good film"]})
    assert mlmodel.input_example(saved(models.sklearn_no_signature)) is None


def test_of_a_large_example_some_rows_are_run(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(models.onnx_tensor)
    many = mlmodel.input_example(path)
    assert many is not None
    assert (many.whole, len(many.body["inputs"]), len(many.row["inputs"])) == (False, 32, 1)
    monkeypatch.setattr(mlmodel, "EXAMPLE_CHARACTERS", 100)
    wide = mlmodel.input_example(path)
    assert wide is not None
    assert (wide.whole, len(wide.body["inputs"])) == (False, 1)


def test_reading_imports_neither_mlflow_nor_a_model_library(saved: Any) -> None:
    program = (
        "import sys, pathlib; from rayfleet_serving.model import mlmodel\n"
        "mlmodel.read(pathlib.Path(sys.argv[1]))\n"
        "print([name for name in ('mlflow', 'torch', 'pandas', 'sklearn') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(saved(models.pytorch_pt2))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


WARMED_BY_EXAMPLE = [models.pytorch_pt2, models.sklearn_frame, models.transformers_text, models.onnx_tensor]
WARMED_BY_ZEROS = [models.sklearn_probabilities, models.xgboost_classifier]


@pytest.mark.parametrize("build", WARMED_BY_EXAMPLE + WARMED_BY_ZEROS, ids=lambda build: build.__name__)
def test_warmup_runs_the_model(build: Any, saved: Any) -> None:
    path = saved(build)
    model = load(path, allow_code_execution=False, gpu_memory_bytes=None)
    example = mlmodel.input_example(path)
    assert (example is not None) == (build in WARMED_BY_EXAMPLE)
    run_example(model, example)
    for rows in (1, 4):
        arguments = warmup_inputs(model.signature, rows, example.row if example else None)
        assert arguments is not None
        result = model.predict(*arguments)
        assert {len(array) for array in result.outputs.values()} == {rows}


@pytest.mark.parametrize("kind", [Array(DataType.double), AnyType()])
def test_nothing_to_warm_up_with(kind: Any, tmp_path: Path) -> None:
    assert warmup_inputs(write(tmp_path, ModelSignature(Schema([ColSpec(kind, "x")]))).signature, 2, None) is None
    assert warmup_inputs(write(tmp_path, None).signature, 2, None) is None
    open_length = Schema([TensorSpec(np.dtype("int64"), (-1, -1))])
    assert warmup_inputs(write(tmp_path, ModelSignature(open_length)).signature, 2, None) is None


def test_zeros_of_every_dtype(tmp_path: Path) -> None:
    columns = Schema([ColSpec(kind, kind.name) for kind in DataType] + [ColSpec("double", "optional", required=False)])
    arguments = warmup_inputs(write(tmp_path, ModelSignature(columns)).signature, 3, None)
    assert arguments is not None
    inputs, form, params = arguments
    assert (form, params) == ("frame", {})
    assert list(inputs) == [kind.name for kind in DataType]  # without the optional one
    assert all(array.shape == (3,) for array in inputs.values())
    assert json.dumps(inputs["string"].tolist()) == '["", "", ""]'
    assert inputs["binary"].tolist() == [b""] * 3
    assert pd.DataFrame(inputs)["datetime"].dt.year.tolist() == [1970] * 3
