"""What versions of one MLflow server are, so that only what a URI points to is asked for each time."""

from __future__ import annotations

import random
import time

from rayfleet_operator.registry.answers import Version
from rayfleet_serving.config import ModelIdentity

KNOWN_S = 600.0
"""A registered version never changes what it is, but an administrator may move where it lies."""
KNOWN_VERSIONS = 4096


class KnownVersions:
    """At most `KNOWN_VERSIONS` versions, each for about `KNOWN_S` seconds."""

    def __init__(self) -> None:
        self._known: dict[Version, tuple[float, ModelIdentity]] = {}

    def get(self, version: Version) -> ModelIdentity | None:
        until, identity = self._known.get(version, (0.0, None))
        return identity if until > time.monotonic() else None

    def put(self, version: Version, identity: ModelIdentity) -> None:
        if len(self._known) >= KNOWN_VERSIONS:
            self._known.clear()
        # Spread, so that what was learned at once is not asked for again at once.
        self._known[version] = time.monotonic() + KNOWN_S * random.uniform(0.5, 1), identity  # noqa: S311
