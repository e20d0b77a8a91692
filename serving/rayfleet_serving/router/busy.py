"""How busy this router is: what the number of routers follows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

OVER_S = 5.0
"""Over how long the busy share is taken."""


class Busy:
    """Share of the time for which the thread of the event loop works, by its CPU time.

    Where CPUs are short it works for less than it could; but then another router would find none either.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock = clock
        self._cpu = cpu
        self._marks: deque[tuple[float, float]] = deque([(clock(), cpu())])
        self._share = 0.0

    def look(self) -> None:
        """To be called on the event loop, about once a second."""
        now, used = self._clock(), self._cpu()
        self._marks.append((now, used))
        while len(self._marks) > 2 and now - self._marks[0][0] > OVER_S:
            self._marks.popleft()
        since, before = self._marks[0]
        if now > since:
            self._share = min(1.0, max(0.0, (used - before) / (now - since)))

    @property
    def share(self) -> float:
        """From 0 to 1, when it was looked at last."""
        return self._share
