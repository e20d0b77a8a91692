"""How the operator's own HTTP servers listen."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

logger = logging.getLogger(__name__)


def _of_ours(record: logging.LogRecord) -> bool:
    """Not what is no HTTP: anybody may send that, and aiohttp quotes it."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


logger.addFilter(_of_ours)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """For a server that anybody may reach."""

    connections: int
    """At a time; further ones are closed at once."""
    connection_s: float
    """How long one may last, whatever it does. aiohttp waits for the head of a request for ever."""


@asynccontextmanager
async def serve(app: web.Application, port: int, limits: Limits | None = None) -> AsyncIterator[int]:
    """Listen at every address of the pod. Gives the port; 0 chooses one.

    Raises:
        OSError: the port is taken.
    """
    # A body counts as it came: one that grows when it is unpacked would pass limits and signatures.
    runner = web.AppRunner(app, access_log=None, logger=logger, shutdown_timeout=1.0, auto_decompress=False)
    await runner.setup()
    server, loop = runner.server, asyncio.get_running_loop()
    assert server is not None  # noqa: S101 - it is there after setup

    def connected() -> RequestHandler:
        handler = server()
        if limits is not None and len(server.connections) >= limits.connections:
            handler.force_close()
        elif limits is not None:
            loop.call_later(limits.connection_s, handler.force_close)
        return handler

    try:
        listening = _listen(port)
        listener = await loop.create_server(connected, sock=listening)
        try:
            yield int(listening.getsockname()[1])
        finally:
            listener.close()
    finally:
        await runner.cleanup()


def _listen(port: int) -> socket.socket:
    """Every address of the pod, of either family."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise OSError(error.errno, f"cannot listen at port {port}: {error.strerror}") from error
