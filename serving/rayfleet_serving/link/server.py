"""The replica's end: takes calls from any number of routers."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol, cast

from rayfleet_serving.config import Wanted
from rayfleet_serving.link import frame
from rayfleet_serving.link.call import Call, Failure, Reply, RouterLoad, Timing, Trouble
from rayfleet_serving.link.frame import Buffers, Reader, Type
from rayfleet_serving.link.room import Room

logger = logging.getLogger(__name__)

UNKNOWN_BYTES = 1024
UNKNOWN_S = 5.0
"""What a connection may send, and how long it may last, before it has shown the token."""
READ_BYTES = 256 * 1024
"""What is read from a router at a time."""

RETRY_S = 0.05
PATIENCE_S = 5.0
"""How long a call waits for memory to be read: other calls that are answered free theirs."""
ANSWER_PATIENCE_S = 2.0
"""How long an answer waits for it."""
LARGE = 16 * 1024 * 1024
"""Bytes of a call that may find no memory without anything being wrong with the replica."""


class Endpoint(NamedTuple):
    """Where a replica takes calls."""

    replica: str
    host: str
    port: int
    token: str


class Audience(Protocol):
    """Who is told what routers see. A router is any object that tells it from the others."""

    def told(self, router: object, load: RouterLoad) -> Wanted | None:
        """Take what a router has seen; answer how many replicas there must be, where that is known."""

    def gone(self, router: object) -> None:
        """The router is not connected any more."""


class LinkServer:
    """Listens until it is closed; `infer` answers each call, and `audience` is told what routers see."""

    def __init__(
        self,
        infer: Callable[[Call], Awaitable[Reply]],
        *,
        replica: str,
        host: str,
        audience: Audience | None = None,
        room: Room | None = None,
    ) -> None:
        self._infer = infer
        self._audience = audience
        self._room = room if room is not None else Room()
        self._replica = replica
        self._host = host
        self._token = secrets.token_hex(16)
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self.trouble: Trouble | None = None

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

    def tell(self, trouble: Trouble | None) -> None:
        """Say to every router, and to those that connect later, what ails this replica; None: nothing any more."""
        self.trouble = trouble
        with self._room.answers():
            for connection in self._connections:
                connection.tell(trouble)

    def close(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    def _connection(self) -> _Connection:
        return _Connection(
            self._infer, self._token, self._connections, self._audience, lambda: self.trouble, self._room
        )


class _Connection(asyncio.BufferedProtocol):
    """One router.

    It has a buffer of its own to read into: where there is no memory for a call, nothing that was read is lost, and no
    more is read until there is.
    """

    def __init__(
        self,
        infer: Callable[[Call], Awaitable[Reply]],
        token: str,
        connections: set[_Connection],
        audience: Audience | None,
        trouble: Callable[[], Trouble | None],
        room: Room,
    ) -> None:
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._audience = audience
        self._infer = infer
        self._token = token
        self._connections = connections
        self._trouble = trouble
        self._room = room
        self._known = False
        # Nobody unknown gets memory or time: a token is short, and comes first.
        self._reader = Reader(self._on_frame, limit=UNKNOWN_BYTES)
        self._space = memoryview(bytearray(UNKNOWN_BYTES))
        self._unread = 0
        self._short_since: float | None = None
        self._answered_before = 0
        self.answered = 0
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
        if self._audience is not None:
            self._audience.gone(self)
        for task in self.tasks.values():
            task.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._space

    def buffer_updated(self, nbytes: int) -> None:
        self._unread = nbytes
        self._take()

    def _take(self) -> None:
        """Take what was read, as far as there is memory for it."""
        if self._transport is None:
            return
        try:
            with self._room.reserve():
                if self._unread:
                    self._reader.add(self._space[: self._unread])
                    self._unread = 0
                self._reader.cut()
                if self._short_since is not None:
                    self._short_since = None
                    self._transport.resume_reading()
        except MemoryError:
            self._wait(self._transport)
        except Exception as error:
            # Whoever sends this is no router of ours, or one that cannot be answered any more.
            logger.warning("A connection was closed: %s: %s", type(error).__name__, error)
            self._transport.abort()

    def _wait(self, transport: asyncio.Transport) -> None:
        """There is no memory for the call that arrives: try again soon, and give it up after a while if it is large.

        Where there is none for a small one, and no call is answered meanwhile, the replica is of no use, and ends.
        Until then it is to say so here.
        """
        loop = asyncio.get_running_loop()
        try:
            with self._room.answers():
                answered = sum(connection.answered for connection in self._connections)
                if self._short_since is None:
                    self._short_since, self._answered_before = loop.time(), answered
                    transport.pause_reading()
                elif loop.time() - self._short_since > PATIENCE_S:
                    if self._reader.arriving > LARGE:
                        self._give_up(transport)
                    elif answered == self._answered_before:
                        self._room.lacked(for_long=True)
                    self._short_since, self._answered_before = loop.time(), answered
                loop.call_later(RETRY_S, self._take)
        except (MemoryError, frame.FrameError):
            self._room.lacked()
            transport.abort()

    def _give_up(self, transport: asyncio.Transport) -> None:
        """Answer the call that arrives, unread. Raises `FrameError` where it cannot be told what it is."""
        size = self._reader.arriving
        begin = self._reader.drop()
        if len(begin) < 3 or begin[0] != Type.CALL:
            raise frame.FrameError("no call, or one that does not begin with its sizes")
        _, number, sizes = begin
        text = f"The replica had no memory to take in a call of {size} bytes."
        if len(sizes) == 1:
            nothing = Reply({}, [0], "array", {0: Failure("OutOfMemory", text)}, Timing(0, 0, 0))
            transport.writelines(frame.reply(number, nothing))
        else:  # they are sent again, each alone
            transport.writelines(frame.error(number, text))

    def _on_frame(self, header: list[Any], body: memoryview) -> None:
        kind, number = header[0], header[1]
        if not self._known:
            if kind != Type.HELLO or not hmac.compare_digest(str(header[2]).encode(), self._token.encode()):
                raise frame.FrameError("it did not begin with this replica's token")
            self._known = True
            self._reader.limit = frame.MAX_FRAME
            self._space = memoryview(bytearray(READ_BYTES))
            if self._doorman is not None:
                self._doorman.cancel()
            if (trouble := self._trouble()) is not None:
                self.tell(trouble)
        elif kind == Type.CALL:
            try:
                call = frame.read_call(header, body)
                task = asyncio.get_running_loop().create_task(self._answer(number, call))
                self.tasks[number] = task
                # Not in `_answer` itself: a task that is cancelled before it begins runs nothing of it.
                task.add_done_callback(lambda _: self.tasks.pop(number, None))
            except MemoryError as error:
                self._room.lacked()
                raise frame.FrameError("there was no memory to begin with a call") from error
        elif kind == Type.CANCEL and number in self.tasks:
            self.tasks[number].cancel()
        elif kind == Type.LOAD and self._audience is not None:
            self._tell(self._audience, header)

    def _tell(self, audience: Audience, header: list[Any]) -> None:
        """What is odd about it costs no call its connection: it is not what calls need."""
        try:
            wanted = audience.told(self, frame.read_load(header))
        except Exception as error:
            logger.warning("What a router says of its load cannot be read: %s: %s", type(error).__name__, error)
            return
        if wanted is not None and self._transport is not None:
            self._transport.writelines(frame.need(wanted))

    def tell(self, trouble: Trouble | None) -> None:
        """Nothing to whoever has not shown the token."""
        if self._known and self._transport is not None:
            self._transport.writelines(frame.trouble(trouble))

    async def _answer(self, number: int, call: Call) -> None:
        try:
            try:
                reply = await self._infer(call)
                buffers = await self._framed(lambda: frame.reply(number, reply))
            except Exception as error:
                text = f"{type(error).__name__}: {error}"[:2000]
                with self._room.answers():
                    logger.exception("A call failed.")
                buffers = await self._framed(lambda: frame.error(number, text))
            if self._transport is not None:
                with self._room.answers():
                    self._transport.writelines(buffers)
            self.answered += 1
        except MemoryError:
            # Its router would wait for an answer that cannot be written.
            self._room.lacked(for_long=True)
            if self._transport is not None:
                self._transport.abort()

    async def _framed(self, make: Callable[[], Buffers]) -> Buffers:
        """Raises what `make` does, `MemoryError` only where it does so for `ANSWER_PATIENCE_S`."""
        until = asyncio.get_running_loop().time() + ANSWER_PATIENCE_S
        while True:
            try:
                with self._room.answers():
                    return make()
            except MemoryError:
                if asyncio.get_running_loop().time() > until:
                    raise
            await asyncio.sleep(RETRY_S)
