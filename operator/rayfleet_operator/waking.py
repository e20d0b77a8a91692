"""Waiting until something is due, or somebody says that what is due has changed."""

from __future__ import annotations

import asyncio
import contextlib

LEAST_S = 0.05
"""So that a moment that is nearly there is not looked at in a busy loop."""


async def until_due(wake: asyncio.Event, due_in: float | None) -> None:
    """Return when `wake` is set from now on, or after `due_in` seconds; None waits for `wake` alone."""
    wake.clear()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if due_in is None else max(due_in, LEAST_S)):
            await wake.wait()
