"""Asking again until it is so."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(what: str, done: Callable[[], bool], seconds: float = 60, every: float = 0.1) -> None:
    """Return once `done()` is true. Raises TimeoutError, which says `what` was waited for."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not so after {seconds:.0f} s")
        time.sleep(every)
