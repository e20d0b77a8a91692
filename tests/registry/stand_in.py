"""A tiny HTTP server in place of MLflow, for answers that a healthy MLflow does not give."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class StandIn:
    uri: str
    requests: list[str] = field(default_factory=list)
    """Head of each request, as it came."""


Reply = Callable[[str], bytes | None]
"""From a request's head to the whole answer; None for silence."""


@asynccontextmanager
async def stand_in(reply: Reply) -> AsyncIterator[StandIn]:
    seen = StandIn("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            seen.requests.append(head)
            answer = reply(head)
            if answer is None:
                await reader.read()  # until the client gives up
            else:
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        seen.uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield seen


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body
