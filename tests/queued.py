"""A worker's side of a work queue, for tests without a loop of their own."""

from __future__ import annotations

import asyncio

from rayfleet_operator.workqueue import Key, WorkQueue


def taken(queue: WorkQueue[Key]) -> Key | None:
    """What a worker gets at once; None where it would have to wait."""
    return asyncio.run(queue.get()) if len(queue) else None
