"""The replica's end: takes calls from any number of routers."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from rayfleet_serving.link import frame
from rayfleet_serving.link.call import Call, Reply
from rayfleet_serving.link.frame import Reader, Type

logger = logging.getLogger(__name__)

UNKNOWN_BYTES = 1024
UNKNOWN_S = 5.0
"""What a connection may send, and how long it may last, before it has shown the token."""


class Endpoint(NamedTuple):
    """Where a replica takes calls."""

    replica: str
    host: str
    port: int
    token: str


class LinkServer:
    """Listens until it is closed; `infer` answers each call."""

    def __init__(self, infer: Callable[[Call], Awaitable[Reply]], *, replica: str, host: str) -> None:
        self._infer = infer
        self._replica = replica
        self._host = host
        self._token = secrets.token_hex(16)
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def start(self) -> Endpoint:
        """Bind to any free port. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, self._host, 0)
        port = self._server.sockets[0].getsockname()[1]
        return Endpoint(self._replica, self._host, port, self._token)

    @property
    def ongoing(self) -> int:
        """Calls without an answer."""
        return sum(len(connection.tasks) for connection in self._connections)

    def close(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    def _connection(self) -> _Connection:
        return _Connection(self._infer, self._token, self._connections)


class _Connection(asyncio.Protocol):
    """One router."""

    def __init__(self, infer: Callable[[Call], Awaitable[Reply]], token: str, connections: set[_Connection]) -> None:
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._infer = infer
        self._token = token
        self._connections = connections
        self._known = False
        # Nobody unknown gets memory or time: a token is short, and comes first.
        self._reader = Reader(self._on_frame, limit=UNKNOWN_BYTES)
        self._doorman: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not an assertion: uvloop's transport, which Ray uses, is no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._doorman = asyncio.get_running_loop().call_later(UNKNOWN_S, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._doorman is not None:
            self._doorman.cancel()
        self._transport = None
        for task in self.tasks.values():
            task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except Exception as error:
            # Whoever sends this is no router of ours, or one that cannot be answered any more.
            logger.warning("A connection was closed: %s: %s", type(error).__name__, error)
            if self._transport is not None:
                self._transport.abort()

    def _on_frame(self, header: list[Any], body: memoryview) -> None:
        kind, number = header[0], header[1]
        if not self._known:
            if kind != Type.HELLO or not hmac.compare_digest(str(header[2]).encode(), self._token.encode()):
                raise frame.FrameError("it did not begin with this replica's token")
            self._known = True
            self._reader.limit = frame.MAX_FRAME
            if self._doorman is not None:
                self._doorman.cancel()
        elif kind == Type.CALL:
            call = frame.read_call(header, body)
            task = asyncio.get_running_loop().create_task(self._answer(number, call))
            self.tasks[number] = task
            # Not in `_answer` itself: a task that is cancelled before it begins runs nothing of it.
            task.add_done_callback(lambda _: self.tasks.pop(number, None))
        elif kind == Type.CANCEL and number in self.tasks:
            self.tasks[number].cancel()

    async def _answer(self, number: int, call: Call) -> None:
        try:
            buffers = frame.reply(number, await self._infer(call))
        except Exception as error:
            logger.exception("A call failed.")
            buffers = frame.error(number, f"{type(error).__name__}: {error}"[:2000])
        if self._transport is not None:
            self._transport.writelines(buffers)
