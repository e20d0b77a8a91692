"""Closed-loop clients: each sends its next request when the last one is answered, and every answer is kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent and answered (`time.monotonic()`), and how."""

    sent: float
    answered: float
    status: int
    """0 when there was no answer."""
    version: str
    detail: str
    retry_after: str | None = None


@dataclass
class Load:
    """What the clients saw so far."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    def versions(self, *, sent_after: float = 0.0) -> set[str]:
        """Versions that answered requests sent after a moment."""
        return {answer.version for answer in self.answers if answer.sent > sent_after and answer.status == 200}

    def summary(self) -> str:
        """One line of figures."""
        took = np.array([answer.answered - answer.sent for answer in self.answers]) * 1e3
        p50, p99, most = np.percentile(took, [50, 99, 100])
        codes = dict(Counter(answer.status for answer in self.answers))
        return f"{len(took)} requests, by status {codes}, p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {most:.0f} ms"


@contextlib.asynccontextmanager
async def closed_loop(
    url: str, path: str, body: Any, *, clients: int = 16, pause_s: float = 0.0
) -> AsyncIterator[Load]:
    """Run `clients` until the block ends; each waits for `pause_s` after an answer other than 200."""
    load = Load()
    stop = asyncio.Event()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as client:

        async def run() -> None:
            while not stop.is_set():
                sent = time.monotonic()
                try:
                    response = await client.post(path, json=body)
                except httpx.HTTPError as error:
                    load.answers.append(Answer(sent, time.monotonic(), 0, "", repr(error)))
                    continue
                version = response.headers.get("x-rayfleet-model-version", "")
                detail = "" if response.status_code == 200 else response.text[:300]
                retry_after = response.headers.get("retry-after")
                load.answers.append(Answer(sent, time.monotonic(), response.status_code, version, detail, retry_after))
                if response.status_code != 200:
                    await asyncio.sleep(pause_s)

        tasks = [asyncio.ensure_future(run()) for _ in range(clients)]
        try:
            yield load
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def until(what: str, met: Callable[[], object], seconds: float = 90) -> None:
    """Return once `met()` is true. Raises AssertionError when it takes too long."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)
