"""Lines that say what is going on, with the seconds since the start."""

from __future__ import annotations

import time

_started = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - _started:4.0f} s] {text}", flush=True)
