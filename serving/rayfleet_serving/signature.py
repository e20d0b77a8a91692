"""What a model takes and gives, free of MLflow: the router reads it without importing a model library.

A model's inputs are always named arrays with the batch on axis 0. `form` says how the model itself wants them:
"tensor" (one unnamed array), "tensors" (a dict of arrays), "frame" (a DataFrame), or "any" (no signature: the
request decides).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

InputForm = Literal["tensor", "tensors", "frame", "any"]
OutputForm = Literal["array", "tensors", "frame", "list"]
"""How the model's own answer was shaped, so that `/invocations` can give back MLflow's own JSON."""

UNNAMED_INPUT = "input"
UNNAMED_OUTPUT = "output"


class Field(BaseModel):
    """One input, output or parameter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dtype: str
    """numpy name: "bool", "int32", "float32", "datetime64[ns]", …; "str" and "bytes" for text and binary;
    "object" for MLflow's Array, Object, Map and Any columns."""
    shape: tuple[int, ...] = (-1,)
    """Batch axis first; -1 is any size. A column is (-1,)."""
    required: bool = True
    default: Any = None
    """Parameters only."""


class Signature(BaseModel):
    """A model's inputs, outputs and parameters. Empty inputs with form "any": the model has no signature."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: InputForm = "any"
    inputs: tuple[Field, ...] = ()
    outputs: tuple[Field, ...] = ()
    params: tuple[Field, ...] = ()


class ModelMetadata(BaseModel):
    """What a model replica tells the routers about the version it serves."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    name: str
    version: str
    model_id: str
    flavor: str
    """pytorch, onnx, sklearn, xgboost, transformers or pyfunc."""
    signature: Signature
    static_batch: int | None = None
    """The only batch size the model takes, where its graph fixes one."""
    max_batch_size: int = 32
    labels: tuple[str, ...] = ()
    """Contents of the transform's labels file."""
    input_example: Any = None
    """JSON form of the model's logged example, for the docs page; None where it has none."""
