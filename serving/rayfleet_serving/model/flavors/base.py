"""What every loaded model looks like, whichever library runs it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from rayfleet_serving.model.errors import LoadError, LoadReason, OutputError
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.signature import InputForm, Signature

__all__ = ["Arrays", "LoadError", "LoadReason", "LoadedModel", "OutputError"]

Arrays = dict[str, np.ndarray[Any, Any]]
"""Named arrays, all of the same length on axis 0."""


class LoadedModel(Protocol):
    """One model version in memory. Not thread-safe: called from one worker thread at a time."""

    flavor: str
    """pytorch, onnx, sklearn, xgboost, transformers or pyfunc."""
    signature: Signature
    static_batch: int | None
    """The only number of rows `predict` takes, None where it takes any."""
    writes_inputs: bool
    """Whether code of the model's own gets the arrays that `predict` is given, and so may write into them."""

    def predict(self, inputs: Arrays, form: InputForm, params: dict[str, Any]) -> InferenceResult:
        """One answer for each row of `inputs`, where the model gives one: the caller compares the lengths.

        Args:
            inputs: batch on axis 0, in the dtypes of the signature where there is one.
            form: "tensor" (exactly one array), "tensors" or "frame" (one-dimensional columns).
            params: inference parameters by name; {} for none.

        Raises:
            OutputError: the model answered with something that has no batch axis.
            Exception: whatever the model itself raises.
        """
        ...
