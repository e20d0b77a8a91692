"""The calls of one model, as those see them who watch over it from another thread."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from rayfleet_serving.model.errors import describe, out_of_memory
from rayfleet_serving.model.execution import Predict
from rayfleet_serving.model.share import Share
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.signature import InputForm

GIVE_BACK_S = 5.0
"""Between two times that a replica looks for memory that it only keeps for later: with a large library that takes a
tenth of a second of a CPU, and a model that has none left fails each request."""
GIVE_BACK_MOST_S = 80.0
"""The same where it helped nothing: each time it waits twice as long, until a row is answered."""


class Calls:
    """A model's `predict` within its share. Everything is written in the device thread and read in any."""

    def __init__(self, predict: Predict, share: Share, *, static_batch: int | None) -> None:
        self._predict = predict
        self._share = share
        self._fewest = static_batch or 1
        self._gave_back = -math.inf
        self._give_back_s = GIVE_BACK_S
        self.since: float | None = None
        """When the call under way began, by `time.perf_counter()`; None between calls, and in a warm-up."""
        self.warming_since: float | None = None
        """The same of a warm-up."""
        self.busy_s = 0.0
        """Seconds in calls that have ended."""
        self.out_of_memory = 0
        """Calls that ran out of memory."""
        self.answered = False
        """Whether any call has ended well."""
        self.starved = 0
        """Calls of the fewest rows there can be that ran out of memory since the last one that ended well."""
        self.starvations = 0
        """All of these."""
        self.lacking = ""
        """What the last one of these said."""
        self.full = False
        """Whether the share was full after it, with everything given back that was only kept for later."""

    def __call__(self, inputs: dict[str, np.ndarray], form: InputForm, params: dict[str, Any]) -> InferenceResult:
        """Raises whatever the model raises."""
        self.since = time.perf_counter()
        try:
            return self._call(inputs, form, params)
        finally:
            self.since = None

    def warm_up(self, inputs: dict[str, np.ndarray], form: InputForm, params: dict[str, Any]) -> InferenceResult:
        """The same, but that it may compile: nobody waits for it."""
        self.warming_since = time.perf_counter()
        try:
            return self._call(inputs, form, params)
        finally:
            self.warming_since = None

    def _call(self, inputs: dict[str, np.ndarray], form: InputForm, params: dict[str, Any]) -> InferenceResult:
        begin = time.perf_counter()
        try:
            with self._share.enforced():
                result = self._predict(inputs, form, params)
        except BaseException as error:
            why = describe(error) if out_of_memory(error) else None
            self.busy_s += time.perf_counter() - begin
            if why is None:
                raise
            self.out_of_memory += 1
            fewest = not inputs or len(next(iter(inputs.values()))) <= self._fewest
            if not fewest:
                raise
            self.lacking = why[:500]
            error.__traceback__ = None  # its frames hold what the model has allocated
        else:
            self.busy_s += time.perf_counter() - begin
            self.answered, self.starved = True, 0
            self._give_back_s = GIVE_BACK_S
            return result
        due = time.perf_counter() - self._gave_back > self._give_back_s
        if due:
            self._share.give_back()
            self._gave_back = time.perf_counter()
        self.full = self._share.full()
        if due and self.full:
            self._give_back_s = min(2 * self._give_back_s, GIVE_BACK_MOST_S)
        self.starved += 1
        self.starvations += 1
        raise MemoryError(self.lacking.removeprefix("MemoryError: "))

    def busy(self, now: float) -> float:
        """Seconds in calls, the one under way included."""
        since = self.since
        return self.busy_s + (max(0.0, now - since) if since is not None else 0.0)
