"""What becomes of each request, and the sums over time that autoscaling looks at."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import IntEnum

from rayfleet_serving.autoscaling.need import REFUSED
from rayfleet_serving.config import latency_bucket


class Outcome(IntEnum):
    """How a request ended."""

    OPEN = 0
    """Not yet."""
    ANSWERED = 1
    REFUSED = 2
    """429: too many wait."""
    LATE = 3
    """504: its deadline passed, or would have before its answer."""
    UNAVAILABLE = 4
    """503: no replica was there until its deadline."""


class Level:
    """A number that changes, and its sum over time: a mean between two moments is the difference of the sums at both,
    divided by the time between."""

    __slots__ = ("_since", "_sum", "now")

    def __init__(self, began: float = 0.0) -> None:
        self.now = 0
        self._sum = 0.0
        self._since = began

    def add(self, change: int, time: float) -> None:
        """It changes by `change` at `time`, in seconds; times do not go back."""
        self._sum += self.now * (time - self._since)
        self._since = time
        self.now += change

    def sum(self, time: float) -> float:
        """Its sum until `time`, in seconds times what is counted."""
        return self._sum + self.now * (time - self._since)


class Ledger:
    """Of the requests of one run, by their index, and of the replicas."""

    def __init__(
        self, arrivals: Sequence[float], rows: Sequence[int] | None, timeout_s: float, hop_s: float = 0.0
    ) -> None:
        """`arrivals`: seconds, ascending. `rows` of each request; None: one each. `hop_s`: see `simulator.Setup`."""
        self.arrivals = arrivals
        self.rows = rows
        self.timeout_s = timeout_s
        self.hop_s = hop_s
        self.outcomes = bytearray(len(arrivals))
        self.seconds = array("d", bytes(8 * len(arrivals)))
        """From each arrival to its end, whatever the end was."""
        self.open = Level()
        """Requests that wait or are under way."""
        self.computing = Level()
        """Replicas that run a batch."""
        self.running = Level()
        """Replicas that are sent requests."""
        self.paid = Level()
        """Replicas that take up their resources: starting, running, or answering their last requests."""
        self.counts_from = 0.0
        """Of requests that came before, latency is not counted."""
        self._latency: dict[int, int] = {}

    def deadline(self, request: int) -> float:
        """When the request is given up."""
        return self.arrivals[request] + self.timeout_s

    def size(self, request: int) -> int:
        """Rows of the request."""
        return 1 if self.rows is None else self.rows[request]

    def end(self, request: int, outcome: Outcome, now: float) -> None:
        """A request has ended that was counted in `open`."""
        self.open.add(-1, now)
        self.outcomes[request] = outcome
        seconds = now - self.arrivals[request]
        # Routers count from when a request is there as a whole; its caller has waited for the way as well.
        self.seconds[request] = seconds + self.hop_s if outcome == Outcome.ANSWERED else seconds
        if self.arrivals[request] >= self.counts_from:
            bucket = latency_bucket(seconds) if outcome == Outcome.ANSWERED else REFUSED
            self._latency[bucket] = self._latency.get(bucket, 0) + 1

    def refuse(self, request: int) -> None:
        """A request is answered 429 as it arrives."""
        self.outcomes[request] = Outcome.REFUSED
        self._latency[REFUSED] = self._latency.get(REFUSED, 0) + 1

    def take_latency(self) -> dict[int, int]:
        """Requests that ended since the last time, by the index of their bucket, see `need.Load`."""
        taken, self._latency = self._latency, {}
        return taken
