"""The short way from the HTTP server of a router replica to its front.

Serve wraps each HTTP request of a replica in three tasks, a queue, a context and two histograms, which together cost
about as much as everything that the router itself does with it. A router needs none of it: it has its own deadlines,
limits, metrics and request ids, and notices by itself when a client leaves. Serve lets a callback name ASGI middleware
around its own app,

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=rayfleet_serving.router.shortcut:middlewares

and this one hands requests to the front of the router that runs in this process. Health checks, and everything in
processes without a router, go on to Serve. Where the variable is not set, every request goes through Serve, at a third
more CPU time in the routers; docs/http.md names what then differs for clients.

What Serve does not count, it does not wait for when a router stops; uvicorn does, so nothing is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.middleware import Middleware

if TYPE_CHECKING:
    from rayfleet_serving.router.exchange import Receive, Scope, Send
    from rayfleet_serving.router.http import Front

SERVES_OWN = "/-/"
"""Prefix of Serve's health checks."""


@dataclass
class _Here:
    """The router of this process, once it holds a table."""

    front: Front | None = None
    loop: asyncio.AbstractEventLoop | None = None


_here = _Here()


def open_to(front: Front) -> None:
    """Requests that this process's server takes on the running event loop go to `front` from now on."""
    _here.front, _here.loop = front, asyncio.get_running_loop()


class Shortcut:
    """The middleware: `app` is Serve's."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        front = _here.front
        if (
            front is None
            or scope["type"] != "http"
            or scope["path"].startswith(SERVES_OWN)
            or scope.get("root_path")
            # With user code on a thread of its own the server has another loop, and the front's futures belong to one.
            or asyncio.get_running_loop() is not _here.loop
        ):
            await self._app(scope, receive, send)
        else:
            await front.direct(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Serve's callback."""
    return [Middleware(Shortcut)]
