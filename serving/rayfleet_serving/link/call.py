"""What travels between a router and a model replica: one call carries many requests.

Requests in one call have the same input names, dtypes, shapes (but for the batch axis), form and parameters, so
their arrays are concatenated once by the router and cost one frame for the call, not one for each request.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rayfleet_serving.signature import InputForm, OutputForm

Kind = tuple[Any, ...]


def kind_of(inputs: dict[str, np.ndarray], form: InputForm, params: dict[str, Any]) -> Kind:
    """What two requests must share to travel in one call and run in one batch."""
    arrays = tuple((name, array.dtype, array.shape[1:]) for name, array in inputs.items())
    return (form, arrays, repr(sorted(params.items())) if params else None)


class Call(NamedTuple):
    """Requests that travel together."""

    inputs: dict[str, np.ndarray]
    """Concatenated on axis 0 in the order of `sizes`."""
    sizes: list[int]
    """Rows of each request."""
    form: InputForm
    params: dict[str, Any]
    budgets: list[float]
    """Seconds each request may still take; one that has run out is not computed."""


class Failure(NamedTuple):
    """Why one request of a call has no answer."""

    code: str
    """"ModelError" (the model raised on this input alone), "OutOfMemory" or "DeadlineExceeded"."""
    message: str


class Trouble(NamedTuple):
    """What ails a replica, for a model's status: it answers nothing, or is about to end itself."""

    reason: str
    """"OutOfMemory" or "Stuck"."""
    message: str


class Timing(NamedTuple):
    """Where a call spent its time in the replica, in seconds."""

    queue: float
    """Waiting for the device while it was busy."""
    batch_wait: float
    """Waiting on an idle device for a fuller batch."""
    compute: float
    """In the model, for the batches that held the call's requests."""


class Reply(NamedTuple):
    """The answer to a call. Rows of failed requests are absent from `outputs`."""

    outputs: dict[str, np.ndarray]
    rows: list[int]
    """Output rows of each request, 0 for a failed one."""
    form: OutputForm
    failures: dict[int, Failure]
    """By position in the call."""
    timing: Timing


class RouterLoad(NamedTuple):
    """What one router has seen of a version over the look-back period."""

    ongoing: float
    """Mean number of requests that waited or were under way."""
    latency: dict[int, int]
    """Answered requests by the index of their bucket, see `config.latency_bucket`."""
    replicas: int
    """Replicas that it is connected to."""
