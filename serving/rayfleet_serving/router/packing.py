"""Requests into one call, and its reply apart again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import numpy as np

from rayfleet_serving.link.call import Call, Failure, Kind, Reply, Timing
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult, RequestError


@dataclass(slots=True, eq=False)
class Item:
    """One request that waits for its answer."""

    request: InferenceRequest
    answer: asyncio.Future[tuple[InferenceResult, Timing]]
    kind: Kind
    queued_at: float
    deadline: float
    nbytes: int
    losses: int = 0
    alone: bool = False
    """A call with it in it could not be sent or answered: it goes alone, so that it fails alone."""
    at_once: bool = False
    """Nobody waited when it came, and it left in that moment."""
    expiry: asyncio.TimerHandle | None = None


def pack(items: list[Item]) -> Call:
    """One call with all requests; they are of one kind."""
    first = items[0].request
    now = time.monotonic()
    if len(items) == 1:
        inputs = first.inputs
    else:
        inputs = {name: np.concatenate([item.request.inputs[name] for item in items]) for name in first.inputs}
    return Call(
        inputs=inputs,
        sizes=[item.request.rows for item in items],
        form=first.form,
        params=first.params,
        budgets=[item.deadline - now for item in items],
    )


def unpack(items: list[Item], reply: Reply, sent_at: float) -> None:
    """Give each request its part of the reply, or its failure."""
    row = 0
    for index, (item, rows) in enumerate(zip(items, reply.rows, strict=True)):
        end = row + rows
        if not item.answer.done():
            failure = reply.failures.get(index) if reply.failures else None
            if failure:
                item.answer.set_exception(_error(failure))
            else:
                outputs = {name: array[row:end] for name, array in reply.outputs.items()}
                timing = reply.timing._replace(queue=reply.timing.queue + sent_at - item.queued_at)
                item.answer.set_result((InferenceResult(outputs, reply.form), timing))
        row = end


def _error(failure: Failure) -> RequestError:
    if failure.code == "DeadlineExceeded":
        return late(failure.message)
    return RequestError({"ModelError": 422, "OutOfMemory": 413}[failure.code], failure.code, failure.message)


def late(message: str) -> RequestError:
    """The refusal of a request whose deadline passed, or will."""
    return RequestError(504, "DeadlineExceeded", message, retry_after=1.0)
