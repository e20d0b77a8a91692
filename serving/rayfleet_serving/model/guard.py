"""Watches over one replica, so that a model that harms itself or others is told of, and ended where that helps.

Four things end a replica, and Serve starts another in its place:

- it takes more memory than its caps, for two looks in a row, whatever it allocates with;
- its model computes one call without an end;
- its model keeps nearly all the memory it may take and cannot answer a single row, after it has answered others.
  That may be a leak of days, so it is worth a new start; once in five minutes at most;
- its model has left so little memory that requests can be neither taken nor answered. Whoever sends some loses them.

A model that never had room for a row is only told of: another replica would fare the same.

The process ends itself. Serve would wait for a graceful end, which a device thread that never returns does not allow,
and until then what it holds is nobody's. Requests that wait in it are answered by another replica; those of a call
without an end have been answered 504 before.

It looks in a thread of its own, which is there before the model is: later there may be no memory for one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Callable

from rayfleet_serving.config import STUCK_AFTER_S
from rayfleet_serving.link.call import Trouble
from rayfleet_serving.model.calls import Calls
from rayfleet_serving.model.share import LOSSES, Share

logger = logging.getLogger(__name__)

LOOK_S = 1.0
LOOKS = 2
"""Over a cap for so many looks in a row. One may fall between an allocation that fails and what it gave back."""
LIVES_S = 300.0
"""How long a replica lives before it ends because its model keeps everything: one that does so at once would do so
again, and to start a replica takes seconds of a CPU from its neighbours."""
LONGEST_LOOK_S = 2.0
"""What counts of the time between two looks. A process that was stopped, or had no CPU, has not computed meanwhile."""
WARM_UP_S = 1800.0
"""A warm-up that takes so long has no end. A library may compile or tune for many minutes; and nobody waits for it but
where `maxBatchSize` was changed in place."""
QUIET_S = 60.0
"""A model that lacked memory is told of until it did not for so long: between large rows there may be small ones."""
STARVED = 3
"""Calls of single rows in a row that found no memory. Fewer may be one caller's huge rows."""
TELL_S = 3.0
"""For the event loop to tell the routers; it may be at work, or have no CPU."""
FAREWELL_S = 0.2
"""For what they are told to leave."""
EXIT_CODE = 13


class ReplicaEndsError(Exception):
    """What Serve's health check is told, and writes to its log."""


Tell = Callable[[Trouble | None], threading.Event]
"""Tells the routers, from any thread; the event is set once they were told."""


def in_loop(loop: asyncio.AbstractEventLoop, tell: Callable[[Trouble | None], None]) -> Tell:
    """`tell` of an event loop's own thread, for any."""

    def from_any_thread(trouble: Trouble | None) -> threading.Event:
        told = threading.Event()

        def there() -> None:
            try:
                tell(trouble)
            finally:
                told.set()

        loop.call_soon_threadsafe(there)
        return told

    return from_any_thread


class Guard:
    """Looks after one replica; `end` ends the process."""

    def __init__(
        self,
        name: str,
        *,
        tell: Tell,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self.stuck_after_s = STUCK_AFTER_S
        self._name = name
        self._tell = tell
        self._end = end
        self._watched: tuple[Calls, Share, float] | None = None
        self._looks_over = 0
        self._looked = -math.inf
        self._call: float | None = None
        self._computed_s = 0.0
        self._starvations = 0
        self._starved_at = -math.inf
        self._lacking: Trouble | None = None
        self._losses = 0
        self._lost_at = -math.inf
        self._told: Trouble | None = None
        self._ending: Trouble | None = None
        self._stopped = False
        self._heard = threading.Event()
        """The routers were told what there was to tell."""
        self._heard.set()

    def start(self) -> None:
        """Have the thread, which looks once there is something to `watch`, until `stop`."""
        threading.Thread(target=self._run, name="guard", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True

    def watch(self, calls: Calls, share: Share, *, began: float | None = None) -> None:
        """Look at these from now on. `began` is when the replica was ready, by `time.perf_counter()`."""
        self._watched = calls, share, time.perf_counter() if began is None else began

    def check(self) -> None:
        """For Serve's health check. Raises `ReplicaEndsError` where the replica ends itself."""
        if self._ending is not None:
            raise ReplicaEndsError(self._ending.message)

    def look(self, now: float) -> Trouble | None:
        """What ails the replica at this moment of `time.perf_counter()`. Call it once each `LOOK_S`."""
        if self._watched is None:
            return None
        calls, share, began = self._watched
        over = share.over()
        self._looks_over = self._looks_over + 1 if over else 0
        stuck = self._stuck(calls, now)
        lacking = self._lacks(calls, share, now)
        if over and self._looks_over >= LOOKS:
            self._ending = Trouble("OutOfMemory", f"{self._name} {over}; its replica was replaced")
        elif stuck:
            self._ending = Trouble("Stuck", f"{self._name} {stuck}, without an end; its replica was replaced")
        elif self._loses(share, now):
            self._ending = Trouble(
                "OutOfMemory",
                f"{self._name} left no memory, of its {share.text}, to take requests and answer them; its replica was "
                "replaced",
            )
        elif calls.starved >= STARVED and calls.answered and calls.full and now - began > LIVES_S:
            self._ending = Trouble(
                "OutOfMemory",
                f"{self._name} kept nearly all of its {share.text} and could not answer a single row any more; "
                "its replica was replaced",
            )
        return self._ending or lacking

    def _stuck(self, calls: Calls, now: float) -> str:
        """For how long it has been seen to compute, where that is too long; else ""."""
        call, warming = calls.since, calls.warming_since
        under_way = call if call is not None else warming
        if under_way is None or under_way != self._call:
            self._computed_s = 0.0
        else:
            self._computed_s += min(now - self._looked, LONGEST_LOOK_S)
        self._call, self._looked = under_way, now
        if call is not None and self._computed_s > self.stuck_after_s:
            return f"computed one batch for more than {self.stuck_after_s:g} s, twice its requestTimeout and more"
        if call is None and self._computed_s > WARM_UP_S:
            return f"computed one batch to warm up for more than {WARM_UP_S:g} s"
        return ""

    def _lacks(self, calls: Calls, share: Share, now: float) -> Trouble | None:
        """What is told of a model without room for a row, in the words of the first one: libraries name other numbers
        each time."""
        if calls.starvations != self._starvations:
            self._starvations, self._starved_at = calls.starvations, now
        if self._lacking is None and calls.starved >= (STARVED if calls.answered else 1):
            text = f"{self._name} needs more than its {share.text} for a single row: {calls.lacking}"
            self._lacking = Trouble("OutOfMemory", text)
        elif calls.starved == 0 and now - self._starved_at > QUIET_S:
            self._lacking = None
        return self._lacking

    def _loses(self, share: Share, now: float) -> bool:
        """Whether requests were lost for want of memory, again and again."""
        if share.losses != self._losses:
            if now - self._lost_at > QUIET_S:
                share.losses -= self._losses
            self._losses, self._lost_at = share.losses, now
        return share.losses >= LOSSES

    def _run(self) -> None:
        while not self._stopped:
            time.sleep(LOOK_S)
            watched = self._watched
            if watched is None:
                continue
            share = watched[1]
            try:
                with share.answers():
                    self._act(self.look(time.perf_counter()), share)
            except MemoryError:
                share.lacked()
                if share.losses >= LOSSES:
                    share.part()  # for the next look, which will be the last
            except Exception:
                logger.exception("The replica could not be looked after.")

    def _act(self, trouble: Trouble | None, share: Share) -> None:
        if self._stopped:
            return
        if self._ending is not None:
            share.part()
        if trouble != self._told:
            self._told = trouble
            self._heard = self._tell(trouble)
        if self._ending is not None:
            logger.error("%s.", self._ending.message)
            self._heard.wait(TELL_S)
            time.sleep(FAREWELL_S)
            self._end(EXIT_CODE)
