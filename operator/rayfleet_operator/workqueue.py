"""Keys that wait to be worked on, with the semantics of client-go's work queue.

A key is *dirty* from the moment it is added until a worker takes it, and *active* until that worker is done. Added
again while dirty, it is there once; added again while active, it comes back after `done`. So a key is never worked on
twice at a time, and no change after the start of its work is lost.

It belongs to one event loop; from another thread, add keys with `loop.call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from rayfleet_operator.bucket import TokenBucket

Key = TypeVar("Key", bound=Hashable)

FIRST_DELAY_S = 0.5
"""After the first failure of a key; doubled with every further one."""
LONGEST_DELAY_S = 300.0
"""After a failure, at most. A fleet that stays broken is tried more often: the resync adds every fleet again."""
JITTER = 0.2
"""Of each delay, up or down: keys that fail together do not come back together."""
RETRIES_PER_S = 10.0
RETRIES_BURST = 100
"""Over all keys, so that an API server that came back is not met by everybody at once."""


class ShutDown(Exception):  # noqa: N818 - a state, not an error
    """The queue hands out no more keys."""


class QueueMetrics(Protocol):
    """What a queue tells about itself; see `metrics.QueueMetrics`."""

    def added(self) -> None: ...
    def retried(self) -> None: ...
    def taken(self, waited_s: float) -> None: ...
    def finished(self, worked_s: float) -> None: ...


class WorkQueue(Generic[Key]):
    """`clock` gives seconds, `chance` a number in [0, 1)."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        bucket: TokenBucket | None = None,
        metrics: QueueMetrics | None = None,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._bucket = bucket if bucket is not None else TokenBucket(RETRIES_PER_S, RETRIES_BURST, clock=clock)
        self._metrics = metrics
        self._ready: OrderedDict[Key, float] = OrderedDict()  # key -> since when
        self._active: dict[Key, float] = {}  # key -> since when
        self._again: dict[Key, float] = {}  # active and dirty: key -> since when
        self._due: dict[Key, float] = {}  # not before then
        self._heap: list[tuple[float, int, Key]] = []  # of _due; entries that _due contradicts are stale
        self._order = itertools.count()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()
        self._shut = False

    def __len__(self) -> int:
        """Keys that a worker could take now."""
        self._promote()
        return len(self._ready)

    def add(self, key: Key) -> None:
        """Have the key worked on as soon as a worker is free."""
        self._promote()
        self._add(key, self._clock())

    def add_after(self, key: Key, delay_s: float) -> None:
        """Add the key in `delay_s` seconds. Of several times for one key, the earliest counts."""
        if self._shut:
            return
        due = self._clock() + max(0.0, delay_s)
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._order), key))
            self._changed.set()

    def add_rate_limited(self, key: Key) -> float:
        """Add the key after a failure, the later the more it has failed; returns the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # 2 ** 64 times the first delay is far past the longest, and keeps the power from overflowing.
        delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures, 64))
        delay *= 1 + JITTER * (2 * self._chance() - 1)
        delay = max(delay, self._bucket.take())
        if self._metrics is not None:
            self._metrics.retried()
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """The key's failures are over: the next one is its first."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The key that waits longest; `done` must follow. Raises `ShutDown` once the queue is shut down."""
        while True:
            if self._shut:
                raise ShutDown
            self._promote()
            if self._ready:
                return self._take()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._until_due()):
                    await self._changed.wait()

    def done(self, key: Key) -> None:
        """The work on the key has ended, in whatever way."""
        now = self._clock()
        began = self._active.pop(key)
        if self._metrics is not None:
            self._metrics.finished(now - began)
        if key in self._again:
            self._ready[key] = self._again.pop(key)
            self._changed.set()

    def shut_down(self) -> None:
        """Take and hand out nothing more.

        Unlike client-go's, it does not wait until the queue is empty: whoever comes next lists everything anyway.
        """
        self._shut = True
        self._changed.set()

    @property
    def active(self) -> int:
        """Keys that are being worked on."""
        return len(self._active)

    def longest_wait(self) -> float:
        """Seconds for which the first ready key has been ready; 0.0 when there is none."""
        self._promote()
        return self._clock() - next(iter(self._ready.values())) if self._ready else 0.0

    def longest_work(self) -> float:
        """Seconds for which the longest piece of work has been going on; 0.0 when there is none."""
        return self._clock() - min(self._active.values()) if self._active else 0.0

    def unfinished_work(self) -> float:
        """Seconds of work that no `finished` has reported yet, summed over the active keys."""
        now = self._clock()
        return sum(now - began for began in self._active.values())

    def _add(self, key: Key, since: float) -> None:
        if self._shut or key in self._ready or key in self._again:
            return
        if self._metrics is not None:
            self._metrics.added()
        if key in self._active:
            self._again[key] = since
        else:
            self._ready[key] = since
            self._changed.set()

    def _take(self) -> Key:
        key, since = self._ready.popitem(last=False)
        now = self._active[key] = self._clock()
        if self._metrics is not None:
            self._metrics.taken(now - since)
        return key

    def _promote(self) -> None:
        """Add every key whose time has come, as of that time."""
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key, due)

    def _until_due(self) -> float | None:
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None
