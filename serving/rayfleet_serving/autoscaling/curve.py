"""How long batches take by their size, as measured: what a replica could do if its batches were fuller.

A batcher never lets the device idle while something waits, so under a light load it computes all the time, in batches
of one row. How much of the time it computes then says nothing about how much more it could take.
"""

from __future__ import annotations

from dataclasses import dataclass

SMOOTHING = 0.1
"""Weight of the newest batch in the mean of its size."""
FEW = 5
"""Batches of a size before they count: one that was quick by chance would make the model look quick."""
KEPT_S = 900.0
"""How long they count after the newest of them. Requests that come today may not let batches fill as others did, and
the device may have got another neighbour."""


@dataclass(slots=True)
class _Size:
    """Batches of one size."""

    batches: int = 0
    rows: float = 0.0
    seconds: float = 0.0
    newest: float = 0.0
    """When it ended."""


class Curve:
    """Means by batch size, those from one power of two to the next together. Times are of a clock that never
    goes back."""

    def __init__(self) -> None:
        self._measured: dict[int, _Size] = {}
        self._guessed: dict[int, tuple[float, float]] = {}
        """Written in the device thread."""

    def guess(self, rows: int, seconds: float) -> None:
        """A first run of this size, which may have allocated and compiled: it counts while nothing better is known. May
        be called in any thread."""
        self._guessed.setdefault(rows.bit_length(), (rows, seconds))

    def measured(self, rows: int, seconds: float, now: float) -> None:
        """A batch of so many rows, all of them answered, took so long until `now`."""
        size = self._measured.get(rows.bit_length())
        if size is None or now - size.newest > KEPT_S:
            size = self._measured[rows.bit_length()] = _Size()
        size.batches += 1
        size.newest = now
        weight = max(SMOOTHING, 1 / size.batches)
        size.rows += weight * (rows - size.rows)
        size.seconds += weight * (seconds - size.seconds)

    def seconds_for_a_row(self, within_s: float, now: float, *, proven: bool = False) -> float | None:
        """The least, of batches small enough to be answered within this: a request waits for the one before, and for
        its own. None where none is.

        `proven`: of sizes that batches of requests had lately. Where they never fill, whatever waits, it tells nothing
        what a full one would take.
        """
        known = {} if proven else self._guessed.copy()
        for key, size in self._measured.items():
            if size.batches >= FEW and now - size.newest <= KEPT_S:
                known[key] = size.rows, size.seconds
        costs = [seconds / rows for rows, seconds in known.values() if rows and 2 * seconds <= within_s]
        return min(costs, default=None)
