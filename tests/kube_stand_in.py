"""A stand-in for an API server that misbehaves in ways that a real one cannot be asked to."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from rayfleet_operator.kube.config import Connection, Credentials

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def api_server(answer: Answer, credentials: Credentials | None = None) -> AsyncIterator[Connection]:
    """Gives every request to `answer`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    try:
        yield Connection(
            server=f"http://127.0.0.1:{listening.getsockname()[1]}",
            tls=ssl.create_default_context(),
            credentials=credentials or Credentials(),
        )
    finally:
        await runner.cleanup()


def refusal(code: int, reason: str, message: str = "no", **headers: str) -> web.Response:
    """An answer as the API server refuses."""
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
    return web.json_response(
        status, status=code, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
