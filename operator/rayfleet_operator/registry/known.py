"""What is known of one MLflow server, so that only what may have changed is asked for each time."""

from __future__ import annotations

import random
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

from rayfleet_operator.plan.observed import Notice
from rayfleet_operator.registry.answers import Version
from rayfleet_serving.config import ModelIdentity

KNOWN_S = 600.0
"""A registered version never changes what it is, but an administrator may move where it lies."""
MOST = 4096

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Memory(Generic[Key, Value]):
    """At most `MOST` answers, each for about `KNOWN_S` seconds."""

    def __init__(self) -> None:
        self._known: dict[Key, tuple[float, Value]] = {}

    def get(self, key: Key) -> Value | None:
        found = self._known.get(key)
        return found[1] if found is not None and found[0] > time.monotonic() else None

    def last(self, key: Key) -> Value | None:
        """What was known, however long ago."""
        found = self._known.get(key)
        return found[1] if found is not None else None

    def put(self, key: Key, value: Value) -> None:
        if len(self._known) >= MOST:
            self._known.clear()
        # Spread, so that what was learned at once is not asked for again at once.
        self._known[key] = time.monotonic() + KNOWN_S * random.uniform(0.5, 1), value  # noqa: S311


class Known:
    """Of one server."""

    def __init__(self) -> None:
        self.versions: Memory[Version, ModelIdentity] = Memory()
        """What each version is."""
        self.changed: Memory[Version, tuple[Notice, ...]] = Memory()
        """What there is to be told of its files."""
        self.silent_until = 0.0
        """Until when nothing is asked that is only told, on the monotonic clock: something did not answer."""
        self.stages: Memory[tuple[str, str], tuple[int, tuple[int, ...]]] = Memory()
        """Of a model's name and a stage: when something of the model last changed, and the versions in the stage then,
        the highest first."""
