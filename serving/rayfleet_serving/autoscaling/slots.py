"""Sums over a time that slides: cut into slots, of which the oldest is dropped when a new one begins.

With twenty slots the time is known to a twentieth, however long it is, and what is kept is as little for ten minutes as
for one second.
"""

from __future__ import annotations

from collections import deque

SLOTS = 20


class Slots:
    """Sums by key over the last `period_s` seconds, to within a slot. Times are of a clock that never goes back."""

    def __init__(self, period_s: float, now: float) -> None:
        self.period_s = period_s
        self.slot_s = period_s / SLOTS
        self._slots: deque[tuple[int, dict[int, float]]] = deque(maxlen=SLOTS)
        self._began = now

    def add(self, key: int, value: float, now: float) -> None:
        """Add `value` to the sum of `key`."""
        self._add(self._index(now), key, value)

    def spread(self, key: int, rate: float, since: float, now: float) -> None:
        """Add `rate` for each second from `since` to `now`."""
        since = max(since, now - self.period_s)
        for index in range(self._index(since), self._index(now) + 1):
            length = min(now, (index + 1) * self.slot_s) - max(since, index * self.slot_s)
            if length > 0:
                self._add(index, key, rate * length)

    def _add(self, index: int, key: int, value: float) -> None:
        if not self._slots or self._slots[-1][0] < index:
            self._slots.append((index, {}))
        # What is told of a slot before the newest one, as of a batch that took long, goes where it belongs.
        for at, slot in reversed(self._slots):
            if at <= index:
                slot[key] = slot.get(key, 0.0) + value
                return

    def slot_end(self, now: float) -> float:
        """When the slot ends that `now` is in."""
        return (self._index(now) + 1) * self.slot_s

    def sums(self, now: float) -> dict[int, float]:
        """Everything that was added within the time, by key."""
        oldest = self._index(now) - SLOTS
        sums: dict[int, float] = {}
        for index, slot in self._slots:
            if index > oldest:
                for key, value in slot.items():
                    sums[key] = sums.get(key, 0.0) + value
        return sums

    def covered_s(self, now: float) -> float:
        """Seconds that the sums are about: less than `period_s` at first, and more than 0."""
        slot = now - self._index(now) * self.slot_s
        return max(1e-6, min(now - self._began, (SLOTS - 1) * self.slot_s + slot))

    def _index(self, now: float) -> int:
        return int(now / self.slot_s)
