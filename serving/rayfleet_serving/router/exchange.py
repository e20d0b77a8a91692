"""One HTTP request under way, and what is sent back: ASGI messages in and out.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rayfleet_serving.config import REQUEST_ID_HEADER, TIMEOUT_HEADER, VERSION_HEADER
from rayfleet_serving.protocol import errors
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.router.version import LiveVersion

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

T = TypeVar("T")

JSON = b"application/json"
MAX_REQUEST_ID = 128

LOOK_AFTER_S = 0.02
"""When to begin to look whether a client is still there. Computing for nobody for so long costs less than looking."""


@dataclass(slots=True)
class Response:
    """What is sent back."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class Exchange:
    """One HTTP request under way."""

    scope: Scope
    receive: Receive
    request_id: str
    headers: dict[bytes, bytes]
    version: LiveVersion | None = None
    """Set once a version was chosen: its label goes into the answer's headers and into the metrics."""
    protocol: str = ""
    direct: bool = False
    """Serve has no part in it: the request id and a client that leaves are ours to see to."""
    client_gone: bool = False

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> Exchange:
        """Begin one."""
        headers = dict(scope["headers"])
        return cls(scope, receive, _request_id(headers), headers)

    @property
    def names_version(self) -> bool:
        """Whether its header says which version is to answer."""
        return VERSION_HEADER.encode() in self.headers

    async def body(self, limit: int) -> bytes:
        """The request's body. Raises `RequestError` 413 over `limit` bytes, before it is read where it is announced."""
        announced = self.headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(limit)
        message = await self.receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts, size = [body], len(body)
            while message.get("more_body"):
                message = await self.receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise _too_large(limit)
            body = b"".join(parts)
        if message["type"] == "http.disconnect":
            raise RequestError(499, "ClientGone", "The client went away before its request was complete.")
        if len(body) > limit:
            raise _too_large(limit)
        return body

    async def while_client_stays(self, answer: Awaitable[T]) -> T:
        """Await `answer`. Where nobody else does, cancel the running task once its client has left.

        To be called when the body is read. Most requests are answered before it begins to look.
        """
        if not self.direct:
            return await answer
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        looking: list[asyncio.Task[None]] = []

        async def look() -> None:
            while (await self.receive())["type"] != "http.disconnect":
                pass
            self.client_gone = True
            if task is not None:
                task.cancel()

        timer = loop.call_later(LOOK_AFTER_S, lambda: looking.append(loop.create_task(look())))
        try:
            return await answer
        finally:
            timer.cancel()
            for watch in looking:
                watch.cancel()

    @property
    def content_type(self) -> str | None:
        """The Content-Type header."""
        value = self.headers.get(b"content-type")
        return value.decode("latin-1") if value is not None else None

    def timeout(self, limit: float) -> float:
        """Seconds this request may take: the model's limit, or less where the caller asks for less."""
        given = self.headers.get(TIMEOUT_HEADER.encode())
        if given is None:
            return limit
        try:
            seconds = float(given)
        except ValueError:
            seconds = -1.0
        if not seconds > 0:
            text = f"{TIMEOUT_HEADER} takes a positive number of seconds."
            raise RequestError(400, "InvalidHeader", text, field=TIMEOUT_HEADER)
        return min(limit, seconds)


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    """The caller's id, or the one Serve gave the request, or a new one."""
    given = headers.get(REQUEST_ID_HEADER.encode())
    if given and len(given) <= MAX_REQUEST_ID and given.isascii() and given.decode("ascii").isprintable():
        return given.decode("ascii")
    return uuid.uuid4().hex


def _too_large(limit: int) -> RequestError:
    return RequestError(413, "RequestTooLarge", f"The body is over this model's limit of {limit} bytes.", field="body")


def error_response(error: RequestError, request_id: str) -> Response:
    """The answer to a request that failed."""
    response = Response(errors.body(error, request_id), error.status)
    if error.retry_after is not None:
        response.headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    if error.allow:
        response.headers.append((b"allow", ", ".join(error.allow).encode()))
    if error.status == 413:
        # The rest of the body stays unread.
        response.headers.append((b"connection", b"close"))
    return response


async def send_response(send: Send, response: Response, *, head: bool) -> None:
    """Send it; without its body where the request was HEAD."""
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", str(len(response.body)).encode()),
        *response.headers,
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else response.body})


async def lifespan(receive: Receive, send: Send) -> None:
    """Nothing to do at start or end."""
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
