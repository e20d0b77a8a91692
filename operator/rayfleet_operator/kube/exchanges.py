"""kopf's HTTP session: our credentials, our metrics, and what its requests tell about its watches.

kopf says little of how its watches fare. Each one lists, then asks for changes again every few minutes, so what becomes
of these requests tells whether it has begun, fails or is dead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import aiohttp

from rayfleet_operator.kube.config import ConfigError, Connection
from rayfleet_operator.kube.transport import USER_AGENT
from rayfleet_operator.metrics import RequestMetrics

logger = logging.getLogger(__name__)


class Exchanges:
    """Knows of the watches of `paths`, below the server's address. Written in kopf's thread, read in any."""

    def __init__(
        self,
        connection: Connection,
        paths: Iterable[str],
        metrics: RequestMetrics | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._metrics = metrics
        self._clock = clock
        address = urlsplit(connection.server)
        self._host = address.netloc
        self._prefix = address.path
        self._paths = frozenset(paths)
        self._began: set[str] = set()
        self._failing: set[str] = set()
        self._refused: set[str] = set()
        self._tried: dict[str, float] = {}

    def anew(self) -> None:
        """Every watch is about to begin."""
        self._began.clear()
        self._tried = dict.fromkeys(self._paths, self._clock())

    def rest(self) -> None:
        """Nothing is watched until `anew`, and that is as it should be."""
        self._tried = {}

    def waiting(self) -> set[str]:
        """Watches that have not begun."""
        return set(self._paths - self._began)

    def forgotten(self) -> set[str]:
        """Watches that have not begun and do not fail either."""
        return self.waiting() - self._failing

    def refused(self) -> set[str]:
        """Watches that the API server does not allow."""
        return set(self._refused)

    def silent(self, seconds: float) -> set[str]:
        """Watches that have not even been tried for so long."""
        now = self._clock()
        return {path for path, tried in self._tried.items() if now - tried > seconds}

    def session(self) -> aiohttp.ClientSession:
        """A session for kopf. Belongs to the loop that runs."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._connection.tls),
            headers={"user-agent": USER_AGENT},
            middlewares=(self._exchange,),
            trust_env=False,
        )

    async def _exchange(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Around each request."""
        path = request.url.path.removeprefix(self._prefix)
        # The thread of watches that ended may go on for a while; what it still tries says nothing.
        if path in (tried := self._tried):
            tried[path] = self._clock()
        try:
            response = await self._authorized(request, handler)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._note(path, str(error) or type(error).__name__)
            raise
        self._refused.discard(path)
        if response.status == 403 and path in self._paths:
            self._refused.add(path)
        self._note(path, None if response.ok else await _message(response))
        if response.ok and request.url.query.get("watch") == "true":
            self._began.add(path)
        return response

    async def _authorized(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        credentials = self._connection.credentials
        try:
            header = await credentials.header()
            response = await self._send(request, handler, header)
            # A token that was replaced a moment ago is no reason to fail.
            if response.status == 401 and (other := await credentials.header(refused=header)) != header:
                response.close()
                response = await self._send(request, handler, other)
        except ConfigError as error:
            # As something that kopf tries again.
            raise aiohttp.ClientConnectionError(str(error)) from error
        return response

    async def _send(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType, header: str | None
    ) -> aiohttp.ClientResponse:
        if header is not None:
            request.headers["authorization"] = header
        began, code = time.perf_counter(), None
        try:
            response = await handler(request)
            code = response.status
        finally:
            if self._metrics is not None:
                self._metrics.answered(
                    method=request.method, host=self._host, code=code, seconds=time.perf_counter() - began
                )
        return response

    def _note(self, path: str, problem: str | None) -> None:
        """Say once that a watch fails, and once that it works again; kopf would say each try."""
        if problem is None:
            if path in self._failing:
                self._failing.discard(path)
                logger.info("%s can be watched again", path)
        elif path in self._paths and path not in self._failing:
            self._failing.add(path)
            logger.warning("%s cannot be watched, and is tried again and again: %s", path, problem)


async def _message(response: aiohttp.ClientResponse) -> str:
    """Why the API server refuses; kopf reads it again."""
    try:
        return str((await response.json())["message"])
    except (aiohttp.ClientError, ValueError, TypeError, KeyError):
        return f"{response.status} {response.reason}"
