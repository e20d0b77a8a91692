"""The middleware inside a real uvicorn; Serve's app and the router's front are a few lines each."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
import uvicorn
from closed_loop import until

from rayfleet_serving.router import shortcut
from rayfleet_serving.router.exchange import Exchange, Response, send_response
from rayfleet_serving.router.http import Front
from rayfleet_serving.router.shortcut import Shortcut


async def serves_app(scope: Any, receive: Any, send: Any) -> None:
    await send_response(send, Response(b"Serve"), head=False)


class StandInFront:
    """Answers at once, but at /slow when it is let go."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.ended: list[BaseException | None] = []
        self.go = asyncio.Event()

    async def direct(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange.of(scope, receive)
        exchange.direct = True
        self.exchanges.append(exchange)
        await exchange.body(1000)
        if scope["path"] == "/slow":
            try:
                await exchange.while_client_stays(self.go.wait())
            except asyncio.CancelledError as error:
                self.ended.append(error)
                return
        await send_response(send, Response(b"front"), head=False)


@pytest.fixture(autouse=True)
def nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcut, "_here", shortcut._Here())


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[str]:
    async with running() as (_, url):
        yield url


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[uvicorn.Server, str]]:
    config = uvicorn.Config(Shortcut(serves_app), port=0, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    task = asyncio.ensure_future(server.serve())
    await until("the server listens", lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


async def get(url: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(url)).text


def open_to(front: StandInFront) -> None:
    shortcut.open_to(cast("Front", front))


async def test_requests_go_to_the_front_and_health_checks_to_serve() -> None:
    async with server() as url:
        open_to(StandInFront())
        answers = [await get(url + path) for path in ("/digits/predict", "/-/healthz", "/-/routes", "/")]
    assert answers == ["front", "Serve", "Serve", "front"]


async def test_before_there_is_a_router_all_goes_to_serve() -> None:
    async with server() as url:
        assert await get(f"{url}/digits/predict") == "Serve"


async def test_a_server_on_another_event_loop_goes_to_serve() -> None:
    thread = threading.Thread(target=asyncio.run, args=(_open(),))
    thread.start()
    await asyncio.to_thread(thread.join)
    async with server() as url:
        assert await get(f"{url}/digits/predict") == "Serve"


async def _open() -> None:
    open_to(StandInFront())


async def test_a_request_is_cancelled_when_its_client_leaves() -> None:
    front = StandInFront()
    async with server() as url, httpx.AsyncClient(trust_env=False) as client:
        open_to(front)
        request = asyncio.ensure_future(client.post(f"{url}/slow", content=b"body"))
        await until("the request is there", lambda: front.exchanges)
        assert not front.ended
        request.cancel()
        await until("it is cancelled", lambda: front.ended)
        assert front.exchanges[0].client_gone
        assert await get(f"{url}/fast") == "front"


async def test_a_server_that_stops_answers_what_it_has() -> None:
    """As Serve stops it: with no request of its own counting, it tells uvicorn to end and waits for that."""
    front = StandInFront()
    async with running() as (stopping, url), httpx.AsyncClient(trust_env=False) as client:
        open_to(front)
        request = asyncio.ensure_future(client.post(f"{url}/slow", content=b"body"))
        await until("the request is there", lambda: front.exchanges)
        stopping.should_exit = True
        await until("it takes no more", lambda: not stopping.servers[0].is_serving())
        front.go.set()
        answer = await request
    assert (answer.status_code, answer.text) == (200, "front")


async def test_a_request_whose_client_stays_is_not_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    # From the first moment: the look itself must not end it.
    monkeypatch.setattr("rayfleet_serving.router.exchange.LOOK_AFTER_S", 0.0)
    front = StandInFront()
    async with server() as url, httpx.AsyncClient(trust_env=False) as client:
        open_to(front)
        request = asyncio.ensure_future(client.post(f"{url}/slow", content=b"body"))
        await until("the request is there", lambda: front.exchanges)
        for _ in range(20):
            assert await get(f"{url}/fast") == "front"
        assert not request.done()
        assert not front.ended
        request.cancel()
        await until("it is cancelled", lambda: front.ended)
