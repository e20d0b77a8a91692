"""The MLmodel file: what a model directory says about itself, read without MLflow, the network, or running anything.

`read` is the only way in. Everything it returns was written by whoever saved the model and is not to be trusted:
paths are resolved with `inside`, which refuses to leave the model's directory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rayfleet_serving.model.errors import LoadError
from rayfleet_serving.signature import UNNAMED_INPUT, UNNAMED_OUTPUT, Field, InputForm, Signature

MLMODEL_FILE = "MLmodel"

EXAMPLE_ROWS = 32
"""Most rows of an example that are run: one call of the model has no more by default."""
EXAMPLE_CHARACTERS = 64 * 1024 * 1024
"""Of an example with more JSON one row is run: the arrays of it all take many seconds to read."""

COLUMN_DTYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "str",
    "binary": "bytes",
    "datetime": "datetime64[ns]",
}
"""MLflow's scalar column types (mlflow.types.DataType) as numpy names; Array, Object, Map and Any become "object"."""


@dataclass(frozen=True, slots=True)
class MLmodel:
    """A parsed MLmodel file."""

    root: Path
    flavors: Mapping[str, Mapping[str, Any]]
    signature: Signature
    """Batch axes are all -1; a size the file fixes is in `static_batch`."""
    static_batch: int | None
    """The batch size the signature fixes, None where it leaves it open."""
    labels: Mapping[str, Any]
    """DataFrame label of each input: its name, but a number where the file names it by one, or not at all."""
    model_id: str | None
    """`model_id` ("m-…"), else `model_uuid`."""
    type_hints: bool
    """The signature was inferred from the type hints of a PythonModel's predict, which then takes lists, not frames."""
    example_files: Mapping[str, Any]
    """MLflow's `saved_input_example_info`."""

    def inside(self, relative: object) -> Path:
        """The path of one of the model's own files.

        Raises:
            LoadError: CorruptModel where it is not a string, does not exist, or leads out of the directory.
        """
        if not isinstance(relative, str):
            raise LoadError(
                "CorruptModel", f"{self.root / MLMODEL_FILE} names no file where one is needed: {relative!r}"
            )
        path = (self.root / relative).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise LoadError(
                "CorruptModel", f"{self.root / MLMODEL_FILE} points out of the model's directory: {relative!r}"
            )
        if not path.exists():
            raise LoadError("CorruptModel", f"{self.root / MLMODEL_FILE} names {relative!r}, which is not there")
        return path


@dataclass(frozen=True, slots=True)
class InputExample:
    """The logged input example, as bodies of `/invocations` requests."""

    body: Any
    """As it was logged, but without rows beyond what is run."""
    whole: bool
    """Whether all rows are in `body`."""
    row: Any
    """Its first row, where rows can be told apart: examples may be large, and one row shows the form."""


def read(root: Path) -> MLmodel:
    """Reads `root`/MLmodel.

    Raises:
        LoadError: CorruptModel where the file is missing or is not what MLflow writes.
    """
    path = root / MLMODEL_FILE
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise LoadError("CorruptModel", f"{path} is missing: not an MLflow model directory") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise LoadError("CorruptModel", f"{path} cannot be read: {e}") from None
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict) or not flavors or not all(isinstance(conf, dict) for conf in flavors.values()):
        raise LoadError("CorruptModel", f"{path} lists no flavors")
    try:
        inputs = _specs((document.get("signature") or {}).get("inputs"))
        signature, static_batch = parse_signature(document.get("signature") or {})
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise LoadError("CorruptModel", f"{path}: signature: {type(e).__name__}: {e}") from None
    example_files = document.get("saved_input_example_info")
    model_id = document.get("model_id") or document.get("model_uuid")
    return MLmodel(
        root=root,
        flavors=flavors,
        signature=signature,
        static_batch=static_batch,
        labels={f.name: spec.get("name", i) for i, (f, spec) in enumerate(zip(signature.inputs, inputs, strict=True))},
        model_id=str(model_id) if model_id else None,
        type_hints=bool(document.get("is_signature_from_type_hint")),
        example_files=example_files if isinstance(example_files, dict) else {},
    )


def input_example(root: Path) -> InputExample | None:
    """The logged input example; None where there is none.

    Raises:
        LoadError: CorruptModel where MLmodel names an example that is not there or not JSON.
    """
    model = read(root)
    name = model.example_files.get("serving_input_path")
    if name is None:
        return None
    path = model.inside(name)
    try:
        text = path.read_text()
        body = json.loads(text)
    except ValueError as e:
        raise LoadError("CorruptModel", f"{path} is not JSON: {e}") from None
    kept = _first_rows(body, model.signature.form, EXAMPLE_ROWS if len(text) <= EXAMPLE_CHARACTERS else 1)
    return InputExample(kept, kept == body, _first_rows(body, model.signature.form, 1))


def _first_rows(body: Any, form: InputForm, count: int) -> Any:
    """The body with at most `count` rows; as it is where its rows cannot be told apart."""
    if not isinstance(body, dict):
        return body
    for key in ("inputs", "instances", "dataframe_records"):
        rows = body.get(key)
        if isinstance(rows, list):
            return body | {key: rows[:count]}
        if isinstance(rows, dict) and form == "tensors" and all(isinstance(array, list) for array in rows.values()):
            return body | {key: {name: array[:count] for name, array in rows.items()}}
    split = body.get("dataframe_split")
    if isinstance(split, dict) and isinstance(split.get("data"), list):
        return body | {"dataframe_split": split | {"data": split["data"][:count]}}
    return body


def parse_signature(document: Mapping[str, Any]) -> tuple[Signature, int | None]:
    """The `signature` entry of an MLmodel file, whose parts are JSON strings, and the batch size it fixes.

    A fixed first dimension becomes -1 in the signature, so that requests of any number of rows are accepted and cut
    to the model's size. Input dimensions disagreeing on the batch size fix none.
    """
    inputs = _specs(document.get("inputs"))
    outputs = _specs(document.get("outputs"))
    params = _specs(document.get("params"))
    sizes = {s["tensor-spec"]["shape"][0] for s in inputs if s["type"] == "tensor" and s["tensor-spec"]["shape"]}
    signature = Signature(
        form=_form(inputs),
        inputs=tuple(_field(spec, i, len(inputs), UNNAMED_INPUT) for i, spec in enumerate(inputs)),
        outputs=tuple(_field(spec, i, len(outputs), UNNAMED_OUTPUT) for i, spec in enumerate(outputs)),
        params=tuple(_param(spec) for spec in params),
    )
    size = sizes.pop() if len(sizes) == 1 else -1
    return signature, size if size > 0 else None


def _specs(text: str | None) -> list[dict[str, Any]]:
    specs = json.loads(text) if text else []
    if not isinstance(specs, list) or not all(isinstance(spec, dict) and "type" in spec for spec in specs):
        raise ValueError(f"expected a list of typed fields, got {text!r}")
    return specs


def _form(inputs: list[dict[str, Any]]) -> InputForm:
    if not inputs:
        return "any"
    if inputs[0]["type"] != "tensor":
        return "frame"
    return "tensor" if len(inputs) == 1 and "name" not in inputs[0] else "tensors"


def _field(spec: dict[str, Any], position: int, count: int, unnamed: str) -> Field:
    """Unnamed fields are called `unnamed` where there is one, by position ("0", "1", …) where there are several."""
    name = str(spec.get("name", unnamed if count == 1 else position))
    if spec["type"] != "tensor":
        return Field(name=name, dtype=COLUMN_DTYPES.get(spec["type"], "object"), required=spec.get("required", True))
    tensor = spec["tensor-spec"]
    return Field(name=name, dtype=dtype_name(np.dtype(tensor["dtype"])), shape=(-1, *tensor["shape"][1:]))


def _param(spec: dict[str, Any]) -> Field:
    """A parameter; its shape is () for a scalar and (-1,) for a list."""
    return Field(
        name=str(spec["name"]),
        dtype=COLUMN_DTYPES.get(spec["type"], "object"),
        shape=tuple(spec.get("shape") or ()),
        required=False,
        default=spec.get("default"),
    )


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name a `Field` gives a numpy dtype: "str" and "bytes" of any length, else numpy's own."""
    return {"U": "str", "S": "bytes"}.get(dtype.kind, dtype.name)
