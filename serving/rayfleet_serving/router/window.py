"""What a router counts of one version while a rollout looks at it.

Plain numbers that begin anew with each window: the control path reads them with the table, so they need no store, and a
router that is restarted loses what it has counted and nothing else.
"""

from __future__ import annotations

import random
from collections import Counter

from rayfleet_serving.config import NAMELESS, WindowCount, latency_bucket
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.router import decisions

TELLING = frozenset({422, 429})
"""Client errors that tell of the version: its model raised, or it was too slow for what came."""

GONE = 499
"""The caller left. Whether it would have been answered nobody knows, and that it took so long is certain."""


class Window:
    """Counts of one version. Not thread-safe: it belongs to the event loop."""

    def __init__(self, name: str, *, predictions: bool = False) -> None:
        """`predictions`: whether they are counted, too."""
        self.name = name
        self._predictions: Counter[str] | None = Counter() if predictions else None
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

    def predicted(self, result: InferenceResult, *, scores: bool = False) -> None:
        """Count what was predicted for one row, taken by chance: the rows of one request are often alike, and what
        follows from the counts takes each for an answer of its own. One that has no name is counted as such: left out,
        a version would be judged by the rest of its answers, however few these are.

        Args:
            scores: several numbers a row are scores, whatever they look like.
        """
        if self._predictions is None:
            return
        name, first = next(iter(result.outputs.items()), ("", None))
        key = NAMELESS
        if first is not None and first.ndim and len(first):
            row = random.randrange(len(first))  # noqa: S311 - a sample, not a secret
            decided = decisions.decisions(InferenceResult({name: first[row : row + 1]}, result.form), scores=scores)
            if decided is not None:
                key = decisions.key(decided[0])
        self._predictions[key] += 1

    def count(self) -> WindowCount:
        """What was counted so far."""
        return WindowCount(
            window=self.name,
            requests=self._requests,
            failed=self._failed,
            latency=dict(sorted(self._latency.items())),
            predictions=dict(sorted((self._predictions or {}).items())),
        )
