"""What a router counts of one version while a rollout looks at it.

Plain numbers that begin anew with each window: the control path reads them with the table, so they need no store, and a
router that is restarted loses what it has counted and nothing else.
"""

from __future__ import annotations

from collections import Counter

from rayfleet_serving.config import WindowCount, latency_bucket

TELLING = frozenset({422, 429})
"""Client errors that tell of the version: its model raised, or it was too slow for what came."""

GONE = 499
"""The caller left. Whether it would have been answered nobody knows, and that it took so long is certain."""


class Window:
    """Counts of one version. Not thread-safe: it belongs to the event loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._requests = 0
        self._failed = 0
        self._latency: Counter[int] = Counter()

    def answered(self, status: int, seconds: float) -> None:
        """Count one answer by its HTTP status."""
        failed = status >= 500 or status in TELLING
        if status < 400 or failed:
            self._requests += 1
            self._failed += failed
        elif status != GONE:
            return
        self._latency[latency_bucket(seconds)] += 1

    def count(self) -> WindowCount:
        """What was counted so far."""
        return WindowCount(
            window=self.name, requests=self._requests, failed=self._failed, latency=dict(sorted(self._latency.items()))
        )
