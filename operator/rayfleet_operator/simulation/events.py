"""What is still to happen."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Events:
    """In order of time; what happens at the same time, in the order in which it was put in. Times in seconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[Any, float], None], Any]] = []
        self._number = 0

    def at(self, time: float, action: Callable[[Any, float], None], what: Any) -> None:
        """Call `action(what, time)` then."""
        self._number += 1
        heappush(self._heap, (time, self._number, action, what))

    @property
    def next(self) -> float:
        """When the next one happens; infinite where there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def happen(self) -> None:
        """Let the next one happen."""
        time, _, action, what = heappop(self._heap)
        action(what, time)
