"""What every protocol decodes into and encodes from: named arrays with the batch on axis 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rayfleet_serving.signature import InputForm, OutputForm


@dataclass(slots=True)
class InferenceRequest:
    """One decoded request, independent of the protocol it came by."""

    inputs: dict[str, np.ndarray]
    """Batch on axis 0, every array of the same length; a column is one-dimensional. Names come from the signature;
    `UNNAMED_INPUT` for one unnamed tensor."""
    rows: int
    form: InputForm
    """"tensor", "tensors" or "frame", never "any": without a signature the request itself decides."""
    params: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    """The Open Inference Protocol's request id, echoed in its response."""
    outputs: tuple[str, ...] = ()
    """Outputs asked for; empty means all."""


@dataclass(slots=True)
class InferenceResult:
    """A model's answer to one request, or to a batch of them."""

    outputs: dict[str, np.ndarray]
    """Batch on axis 0."""
    form: OutputForm


class RequestError(Exception):
    """An answer other than 200: what happened, in which field, and what would be right."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        allow: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        """One CamelCase word, e.g. "InvalidInput"."""
        self.message = message
        self.field = field
        """JSON path or input name."""
        self.retry_after = retry_after
        """Seconds, for the Retry-After header."""
        self.allow = allow
        """Methods, for the Allow header of a 405."""
