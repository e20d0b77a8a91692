"""How many of a version's requests are let in while it yields to another model.

Additive increase, multiplicative decrease: as long as the other model is pressed, the share falls by three tenths each
second, down to a floor; afterwards it grows by ten points a second. That alone would be a saw: too much half of the
time, as what is too much shows only some seconds later. So it stays for a while at seven tenths of what was too much,
twice as long each time that it finds no more room, and then feels its way.

The share is of what was answered before, and not of what comes: callers that are refused come again at once, and a
share of that would be as much as ever. Who is let in is left to chance, for each request anew, so it is not always the
same callers who wait.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from rayfleet_serving.protocol.message import RequestError

DECREASE = 0.7
"""What is left of the share after each second in which somebody is pressed."""
INCREASE = 0.1
"""By how much it grows in each second in which nobody is."""
KNOWN_GOOD = 0.7
"""Of the share at which somebody was pressed, how much is taken to be none too much."""
STAY_S, MOST_STAY_S = 10.0, 40.0
"""How long the share stays there: at first, and at most."""
FEEL = 0.02
"""By how much it grows in each second afterwards."""
FLOOR = 0.05
"""The share never falls below: nobody is starved to nothing."""
BURST = 2.0
"""Chance goes by what came in the second before. Where many more come in this one, no more than so many times as many
as should be are let in."""
LEAST_PER_S = 1.0
"""A version that answered hardly anything when it began to yield is taken to have answered so much in this router."""
MOST_S = 2.0
"""A look that comes later counts as so long: nothing is known of the time between."""


class YieldedError(RequestError):
    """429 of a request that never reached its version. It tells nothing of it."""

    def __init__(self, why: str, retry_after: float) -> None:
        super().__init__(429, "Yielded", why, retry_after=retry_after)


class Restraint:
    """Not thread-safe: it belongs to the event loop. `ratio` is 1.0 while everybody is let in: look there first."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self.ratio = 1.0
        """Share of what was answered before it began to yield."""
        self._clock = clock
        self._chance = chance
        self._looked = clock()
        self._pressed = False
        self._known_good = 1.0
        self._stay_s = self._stays_s = 0.0
        """How long it stays at what is known to be good, and how much of that is left."""
        self._before_per_s = 0.0
        self._let_in = 1.0
        """Chance of a request to be let in."""
        self._came = 0
        self._room = 0.0
        """Requests that may be let in until the next look, however few came before."""
        self._why = ""

    def look(self, why: str, *, answered_per_s: float, came_per_s: float) -> float:
        """To be called about once a second. Returns the share of those that wait which are to be refused now.

        Args:
            why: to whom it yields, for people; "" while nobody is pressed.
            answered_per_s: requests that were answered lately.
            came_per_s: requests that came lately. Asked only as it begins to yield; then it counts for itself.
        """
        now = self._clock()
        seconds, self._looked = now - self._looked, now
        before, gone_by = self.ratio, max(0.0, min(seconds, MOST_S))
        if why:
            self._why = why
            if not self._pressed:
                self._too_much(before)
            self.ratio = max(FLOOR, before * DECREASE**gone_by)
        elif before < 1.0:
            self.ratio = self._grown(gone_by)
        self._pressed = bool(why)
        if before == 1.0:
            self._before_per_s = max(LEAST_PER_S, answered_per_s)
        elif seconds > 0:
            came_per_s = self._came / seconds
        self._came = 0
        should_per_s = self.ratio * self._before_per_s
        self._let_in = min(1.0, should_per_s / came_per_s) if came_per_s > 0 else 1.0
        self._room = max(1.0, BURST * should_per_s)
        return max(0.0, 1 - self.ratio / before)

    def _too_much(self, ratio: float) -> None:
        if ratio == 1.0:
            self._stay_s = STAY_S
        elif ratio > self._known_good:
            self._stay_s = min(2 * self._stay_s, MOST_STAY_S)
        self._known_good = max(FLOOR, KNOWN_GOOD * ratio)
        self._stays_s = self._stay_s

    def _grown(self, seconds: float) -> float:
        """What the share is after so many seconds in which nobody is pressed."""
        if self.ratio < self._known_good:
            return min(self._known_good, self.ratio + INCREASE * seconds)
        if self._stays_s > 0:
            self._stays_s -= seconds
            return self.ratio
        return min(1.0, self.ratio + FEEL * seconds)

    def admit(self) -> None:
        """One more request, while `ratio` is below 1. Raises `YieldedError` where it is not let in."""
        self._came += 1
        if self._room < 1.0 or self._chance() >= self._let_in:
            raise self.error()
        self._room -= 1.0

    def error(self) -> YieldedError:
        """To be told to whoever is not let in."""
        # Less than it takes until everybody is let in: some of those that come earlier are as well.
        return YieldedError(self._why, retry_after=max(1.0, math.ceil((1 - self.ratio) / INCREASE)))
