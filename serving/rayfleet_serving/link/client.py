"""The router's end of one connection to a replica."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import count
from typing import Any, cast

from rayfleet_serving.config import Wanted
from rayfleet_serving.link import frame
from rayfleet_serving.link.call import Call, Reply, RouterLoad, Trouble
from rayfleet_serving.link.frame import Reader, Type
from rayfleet_serving.link.server import Endpoint

logger = logging.getLogger(__name__)

MOST_BUFFERED = 64 * 1024 * 1024
"""Bytes that may wait for the network before a load is not told."""
TOLD_S = 5.0
"""How long what a replica told holds: it tells once a second."""


class ReplicaLostError(Exception):
    """The replica died with the call in it. Inference is idempotent, so the requests may run once elsewhere."""


class CallError(Exception):
    """The replica could not answer the call as a whole."""


class Link(asyncio.Protocol):
    """One connection; `ongoing` calls are on it. `on_lost` is called once, when it is gone."""

    def __init__(self, endpoint: Endpoint, on_lost: Callable[[Link], None]) -> None:
        self.endpoint = endpoint
        self._on_lost = on_lost
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._reader = Reader(self._on_frame, limit=frame.MAX_FRAME)
        self._transport: asyncio.Transport | None = None
        self.trouble: Trouble | None = None
        """What the replica last said of itself."""
        self._wanted: tuple[float, Wanted] | None = None

    @classmethod
    async def connect(cls, endpoint: Endpoint, on_lost: Callable[[Link], None]) -> Link:
        """Raises `OSError`."""
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(lambda: cls(endpoint, on_lost), endpoint.host, endpoint.port)
        return link

    @property
    def connected(self) -> bool:
        """Whether calls can be sent."""
        return self._transport is not None

    @property
    def ongoing(self) -> int:
        """Calls without an answer."""
        return len(self._waiting)

    @property
    def wanted(self) -> Wanted | None:
        """How many replicas this one says that there must be; None where it has said nothing for `TOLD_S`."""
        if self._wanted is None or time.monotonic() - self._wanted[0] > TOLD_S:
            return None
        return self._wanted[1]

    def tell(self, load: RouterLoad) -> None:
        """Tell the replica what this router has seen."""
        # Behind so many calls it would come too late, and make the queue longer.
        if self._transport is not None and self._transport.get_write_buffer_size() < MOST_BUFFERED:
            self._transport.writelines(frame.load(load))

    async def infer(self, call: Call) -> Reply:
        """Raises `ReplicaLostError` or `CallError`; a cancelled caller cancels the call in the replica."""
        if self._transport is None:
            raise ReplicaLostError(f"replica {self.endpoint.replica} is gone")
        number = next(self._numbers)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._transport.writelines(frame.call(number, call))
            return await answer
        except asyncio.CancelledError:
            if self._transport is not None:
                self._transport.writelines(frame.cancel(number))
            raise
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Close the connection; calls on it are lost."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not an assertion: uvloop's transport, which Ray uses, is no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.writelines(frame.hello(self.endpoint.token))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ReplicaLostError(f"replica {self.endpoint.replica} closed the connection"))
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)

    def _on_frame(self, header: list[Any], body: memoryview) -> None:
        if header[0] == Type.TROUBLE:
            try:
                self.trouble = frame.read_trouble(header)
            except Exception as error:
                logger.warning("What ails replica %s cannot be read: %s", self.endpoint.replica, error)
            return
        if header[0] == Type.NEED:
            try:
                self._wanted = time.monotonic(), frame.read_need(header)
            except Exception as error:
                logger.warning("Replica %s says no number of replicas: %s", self.endpoint.replica, error)
            return
        answer = self._waiting.get(header[1])
        if answer is None or answer.done():
            return
        if header[0] == Type.REPLY:
            try:
                answer.set_result(frame.read_reply(header, body))
            except Exception as error:
                # One odd answer must not cost the other calls their connection.
                answer.set_exception(CallError(f"the answer cannot be read: {type(error).__name__}: {error}"))
        elif header[0] == Type.ERROR:
            answer.set_exception(CallError(header[2]))
