"""A tiny HTTP server in place of MLflow, for answers that a healthy MLflow does not give."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class StandIn:
    uri: str
    requests: list[str] = field(default_factory=list)
    """Head of each request, as it came."""
    connections: int = 0
    """How many there were."""


Reply = Callable[[str], bytes | None]
"""From a request's head to the whole answer; None for silence."""


@asynccontextmanager
async def stand_in(reply: Reply, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[StandIn]:
    seen = StandIn("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        try:
            keep = True
            while keep:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                seen.requests.append(head)
                answer = reply(head)
                if answer is None:
                    await reader.read()  # until the client gives up
                    return
                writer.write(answer)
                await writer.drain()
                keep = head.startswith("GET") and b"\r\nConnection: keep-alive\r\n" in answer
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        seen.uri = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield seen


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body
