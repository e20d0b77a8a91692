"""Answers of pods in which anybody's code may run: too long, packed, without an end, or sent elsewhere."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from certificates import authority

from rayfleet_operator.exchange import MIB
from rayfleet_operator.ray import routers, serve
from rayfleet_operator.ray.connections import SERVE_TIMEOUT_S, Connections
from rayfleet_operator.ray.routers import RouterClient
from rayfleet_operator.ray.serve import ServeClient, ServeUnreachable
from rayfleet_serving.config import RouterState, TrafficReport

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]

NOTHING = json.dumps({"applications": {}}).encode()
ROUTER = RouterState(replica="r1", table="0" * 16, models={}, versions={})
REPORT = TrafficReport(routers=[ROUTER]).model_dump_json().encode()


@asynccontextmanager
async def server(answer: Answering) -> AsyncIterator[str]:
    """An HTTP server that answers everything so; yields its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def whole(body: bytes, **headers: str) -> Answering:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def endless(sent: list[int], chunk: bytes, pause_s: float) -> Answering:
    """A body of `chunk` after `chunk`, for ever; `sent` counts its bytes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(chunk)
            sent.append(len(chunk))
            await asyncio.sleep(pause_s)

    return answer


async def refusal(answer: Answering, *, within_s: float = 30.0) -> str:
    """What the Serve client says to such an answer; the routers' client says nothing."""
    async with server(answer) as url:
        async with ServeClient(url, within_s=within_s) as client:
            with pytest.raises(ServeUnreachable, match="/api/serve/applications/") as caught:
                await client.applications()
        async with RouterClient(url) as client_of_routers:
            assert await client_of_routers.states() == ()
    return str(caught.value)


async def test_nobody_asks_for_a_packed_answer() -> None:
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers["accept-encoding"])
        return web.Response(body=NOTHING)

    async with server(answer) as url, ServeClient(url, token="t") as client, RouterClient(url) as of_routers:
        await client.applications()
        await client.put(b"{}")
        await client.delete()
        await of_routers.states()
    assert asked == ["identity"] * 4


async def test_a_packed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(b"[" + b" " * 64 * MIB + b"]")
    assert "packed ('gzip')" in await refusal(whole(bomb, Content_Encoding="gzip"))


async def test_an_answer_as_long_as_allowed_is_read() -> None:
    async with server(whole(NOTHING.ljust(serve.LONGEST))) as url, ServeClient(url) as client:
        assert await client.applications() == {}
    async with server(whole(REPORT.ljust(routers.LONGEST))) as url, RouterClient(url) as of_routers:
        assert await of_routers.states() == (ROUTER,)


async def test_a_longer_one_is_not() -> None:
    assert "longer than 16 MiB" in await refusal(whole(NOTHING.ljust(serve.LONGEST + 1)))
    async with server(whole(REPORT.ljust(routers.LONGEST + 1))) as url, RouterClient(url) as of_routers:
        assert await of_routers.states() == ()


async def test_one_without_an_end_is_left_soon_after_the_limit() -> None:
    sent: list[int] = []
    assert "longer than 16 MiB" in await refusal(endless(sent, b" " * 65536, 0))
    # What lies in the sockets' buffers was sent, too.
    assert sum(sent) < 2 * (serve.LONGEST + routers.LONGEST)


async def test_one_that_drips_for_ever_is_left_in_time() -> None:
    began = time.monotonic()
    # Each byte comes long before the limit between two of them.
    assert "no whole answer within 0.5 s" in await refusal(endless([], b" ", 0.05), within_s=0.5)
    assert time.monotonic() - began < 5 * (0.5 + routers.TIMEOUT_S)


async def test_the_operator_waits_for_no_dashboard_longer_than_it_may() -> None:
    connections = Connections()
    began = time.monotonic()
    async with server(endless([], b" ", 0.05)) as url:
        with pytest.raises(ServeUnreachable, match=f"within {SERVE_TIMEOUT_S:g} s"):
            await connections.serve(url, "token").applications()
        await connections.close()
    assert time.monotonic() - began < 5 * SERVE_TIMEOUT_S


async def test_many_clients_share_one_set_of_authorities() -> None:
    def contexts() -> int:
        return sum(issubclass(type(each), ssl.SSLContext) for each in gc.get_objects())

    connections = Connections()
    before = contexts()
    for number in range(20):
        connections.serve(f"http://127.0.0.1:{number + 1}", "token")
        connections.routers(f"http://127.0.0.1:{number + 1}")
    assert contexts() <= before + 1
    await connections.close()


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    listener = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=authority(tmp_path).server
    )
    async with listener, ServeClient(f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(ServeUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await client.applications()


@pytest.mark.parametrize("code", [301, 302, 307, 308])
async def test_nobody_is_sent_elsewhere(code: int) -> None:
    asked = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(body=NOTHING)

    async with server(elsewhere) as other:

        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(status=code, headers={"Location": f"{other}/secret"})

        assert f"{code}: it sends elsewhere" in await refusal(answer)
    assert asked == []


async def test_brackets_without_end_are_no_answer() -> None:
    assert "is not answered as Ray Serve does" in await refusal(whole(b"[" * MIB))
    assert "is not answered as Ray Serve does" in await refusal(whole(b'{"applications":' * MIB))


async def test_an_error_of_any_length_is_told_in_short() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500, body=b"x" * MIB + b"\xff the end")

    said = await refusal(answer)
    assert said.endswith(" the end")
    assert len(said) < 3000
