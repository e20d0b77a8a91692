"""Connections to MLflow servers that outlive one question: models are asked for again and again, for as long as they
are served, and each new connection costs handshakes and a set of authorities to trust."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Self

import httpx

from rayfleet_operator.registry.credentials import Tls
from rayfleet_operator.registry.errors import NotAllowed
from rayfleet_operator.registry.known import Known
from rayfleet_operator.registry.server import Bounds

CONCURRENT = 8
"""Resolutions at a time for one server, and so connections to it."""
IDLE_S = 300.0
"""After so long without a question a server's connections are closed; nobody may follow its models any more."""
KEEP_ALIVE_S = 60.0
"""How long a connection waits for the next question, if the server lets it."""

Stamp = tuple[Tls, int]


@dataclass
class Line:
    """One server, whoever asks it."""

    client: httpx.AsyncClient
    known: Known = field(default_factory=Known)
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT))
    used: float = 0.0
    """On the monotonic clock."""


class Connections:
    """To every server that was asked lately; within one event loop. Closed at the end of `async with`."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._lines: dict[tuple[str, Stamp], Line] = {}
        self._contexts: dict[Stamp, ssl.SSLContext] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(list(self._lines))

    def to(self, uri: str, tls: Tls) -> Line:
        """The server at a tracking URI, whose certificate is checked by `tls`.

        Raises:
            NotAllowed: the certificates of `tls` cannot be used.
        """
        stamp = tls.stamp()
        line = self._lines.get((uri, stamp))
        if line is None:
            line = self._lines[uri, stamp] = Line(self._client(tls, stamp))
        line.used = time.monotonic()
        return line

    async def close_idle(self, idle_s: float = IDLE_S) -> None:
        """Forget servers that nobody asked for `idle_s` seconds."""
        before = time.monotonic() - idle_s
        await self._close([key for key, line in self._lines.items() if line.used < before])

    def _client(self, tls: Tls, stamp: Stamp) -> httpx.AsyncClient:
        if stamp not in self._contexts:
            try:
                self._contexts[stamp] = tls.context()
            except OSError as error:
                raise NotAllowed(f"{tls} holds no certificates as PEM that can be read: {error}.") from error
        return httpx.AsyncClient(
            verify=self._contexts[stamp],
            timeout=httpx.Timeout(self._bounds.total_s, connect=self._bounds.connect_s),
            limits=httpx.Limits(max_connections=CONCURRENT, keepalive_expiry=KEEP_ALIVE_S),
            follow_redirects=False,
            # None are kept: a session begun with one model's credentials must not answer for another model.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def _close(self, keys: list[tuple[str, Stamp]]) -> None:
        lines = [self._lines.pop(key) for key in keys]
        used = {stamp for _, stamp in self._lines}
        self._contexts = {stamp: context for stamp, context in self._contexts.items() if stamp in used}
        for line in lines:
            await line.client.aclose()
