"""Whether one version in one router is pressed: its requests do not get what the model's spec promises them.

Only then is the question who goes first. It looks back for a few seconds, unlike `load.Load`: what yields to it should
learn soon that it is well again.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rayfleet_serving.config import Limits, Target

SPANS = 3
"""Looks, a second each, over which shares are taken."""
ENOUGH = 20
"""Of fewer answers no share is taken. Then each counts by itself; of more, all of one batch often are slow."""
BY_CHANCE = 0.01
"""How often so many slow answers in a row may come by chance while the target is kept."""
SIGMAS = 2.0
"""By how many standard deviations slow answers must be more than may be: a few are slow by chance (Poisson)."""
STALE_S = 10.0
"""How long answers say something, where there are few."""
WAIT_PERCENTILE = 99
"""Percent of the requests that may not wait too long, of a model without a target."""
WAIT_SHARE = 0.5
"""Of `requestTimeout`: a request that has waited for longer will hardly be answered in time."""

LATE = frozenset({429, 504})
"""Answers of a version that was too slow for what came. With 503 it has no replica: nobody's yielding mends that."""
GONE = 499
NOTHING = 400
"""What a request is said to have been answered with that yielded, or that tells nothing else: invalid input."""


@dataclass(slots=True)
class _Span:
    seconds: float = 0.0
    ended: int = 0
    answered: int = 0
    judged: int = 0
    slow: int = 0


class Pressure:
    """Not thread-safe: it belongs to the event loop. Nothing is counted while it is not `on`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.on = False
        self._clock = clock
        self._span = _Span()
        self._past: deque[_Span] = deque(maxlen=SPANS)
        self._looked = clock()
        self._excess = 0.0
        """Slow answers beyond `_expected`, see there. Were only those in a row to count, a model that is asked rarely
        could be too slow twice as often as it may, and hardly ever be pressed."""
        self._judged_at = -math.inf
        self.keep_to(None, Limits())
        self._woke = -math.inf
        """Until when it had no replica: what came before waited for one, and for nobody on its device."""

    def keep_to(self, target: Target | None, limits: Limits) -> None:
        """What requests are held against from now on."""
        self._may = 1 - (target.percentile if target is not None else WAIT_PERCENTILE) / 100
        """The share of answers that may be slow."""
        self._expected = self._may * (3 - self._may) / 2
        """Half way from that to twice as often, which is 1 - (1 - may)²: of nothing but what may be, the sum would be
        at its most by chance, again and again (Page, Continuous Inspection Schemes)."""
        in_a_row = max(2, math.ceil(math.log(BY_CHANCE) / math.log(self._may)))
        self._most_excess = in_a_row * (1 - self._expected)
        """That of so many slow ones in a row as are no chance. No more is kept: a good answer is to end it at once."""
        self._total_s = target.seconds if target is not None else None
        self._wait_s = limits.request_timeout_s * WAIT_SHARE

    def ended(self, status: int, seconds: float, *, own_timeout: bool = False) -> None:
        """A request was answered after so long, or refused at the door.

        Args:
            status: of its answer, as in HTTP; 499 where its caller left.
            own_timeout: its caller gave it less time than the model does. That it was too slow is not known then.
        """
        if not self.on or self._clock() - seconds < self._woke:
            return
        self._span.ended += 1
        self._span.answered += status < 400
        if status in LATE and not own_timeout:
            self._judge(slow=True)
        elif self._total_s is not None and status not in LATE:
            slow = seconds > self._total_s
            if status < 400 or status in (422, 500) or (status == GONE and slow):
                self._judge(slow=slow)
        elif self._total_s is not None and seconds > self._total_s:
            self._judge(slow=True)

    def waited(self, seconds: float) -> None:
        """A request that was answered had waited for so long, in the router and for the device."""
        if self.on and self._total_s is None and self._clock() - seconds >= self._woke:
            self._judge(slow=seconds > self._wait_s)

    def _judge(self, *, slow: bool) -> None:
        self._span.judged += 1
        self._span.slow += slow
        self._excess = min(self._most_excess, max(0.0, self._excess + slow - self._expected))
        self._judged_at = self._clock()

    def look(self, *, awake: bool = True) -> None:
        """To be called about once a second. `awake`: it has replicas."""
        now = self._clock()
        if not awake:
            self._woke = now
        self._span.seconds = now - self._looked
        self._looked = now
        self._past.append(self._span)
        self._span = _Span()
        if not self.on:
            self._past.clear()
            self._excess = 0.0

    def pressed(self, oldest_s: float) -> bool:
        """Whether it is, as of the last look.

        Args:
            oldest_s: for how long the oldest of those that wait in this router has waited.
        """
        if not self.on:
            return False
        came = self._clock() - oldest_s
        if came >= self._woke and oldest_s > (self._total_s if self._total_s is not None else self._wait_s):
            return True
        judged, slow = sum(each.judged for each in self._past), sum(each.slow for each in self._past)
        if judged >= ENOUGH:
            return slow > self._may * judged + SIGMAS * math.sqrt(self._may * judged)
        return self._excess > self._most_excess - 1e-9 and self._clock() - self._judged_at <= STALE_S

    @property
    def answered_per_s(self) -> float:
        """Requests that were answered 200, over the last looks."""
        return sum(each.answered for each in self._past) / max(1e-3, sum(each.seconds for each in self._past))

    @property
    def ended_per_s(self) -> float:
        """Requests that came to an end in whatever way, over the last look."""
        return self._past[-1].ended / max(1e-3, self._past[-1].seconds) if self._past else 0.0
