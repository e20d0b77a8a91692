"""The two small HTTP servers of the operator: whether it is well, and what it counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from rayfleet_operator import listening

Check = Callable[[], str | None]
"""What is wrong; None when nothing is."""

STALL_S = 300.0
"""A key that is ready for so long while workers are idle was lost by the queue."""


class Health:
    """Checks by name.

    `live` ones are for what a restart would mend, `ready` ones for what has to be waited for. `known` ones are for what
    is wrong and keeps nobody from being ready: somebody else has to mend it.
    """

    def __init__(self) -> None:
        self.live: dict[str, Check] = {}
        self.ready: dict[str, Check] = {}
        self.known: dict[str, Check] = {}


def problems(checks: Mapping[str, Check]) -> list[str]:
    """What is wrong, in words."""
    found = ((name, check()) for name, check in checks.items())
    return [f"{name}: {problem}" for name, problem in found if problem is not None]


class Queue(Protocol):
    """What a check needs of the work queue."""

    @property
    def active(self) -> int: ...
    def longest_wait(self) -> float: ...
    def longest_work(self) -> float: ...


def workers(queue: Queue, *, concurrency: int, deadline_s: float) -> Check:
    """Whether keys are being worked on. `deadline_s` is that of one piece of work; twice as long means it is stuck."""

    def check() -> str | None:
        if queue.longest_work() > 2 * deadline_s:
            return f"a reconcile has been running for {queue.longest_work():.0f} s, its deadline is {deadline_s:g} s"
        if queue.longest_wait() > STALL_S and queue.active < concurrency:
            return f"a fleet has been ready for {queue.longest_wait():.0f} s, and workers are idle"
        return None

    return check


@asynccontextmanager
async def serve_health(health: Health, port: int) -> AsyncIterator[int]:
    """GET /healthz and /readyz: 200 and `ok`, or 500 and what is wrong, one problem a line. Gives the port.

    /readyz goes on with the problems that are known and keep nobody from being ready.
    """

    async def healthz(_: web.Request) -> web.Response:
        return _answer(problems(health.live))

    async def readyz(_: web.Request) -> web.Response:
        return _answer(problems(health.ready), problems(health.known))

    async with _served({"/healthz": healthz, "/readyz": readyz}, port) as bound:
        yield bound


def _answer(found: Sequence[str], known: Sequence[str] = ()) -> web.Response:
    lines = [*(found or ["ok"]), *known]
    return web.Response(status=500 if found else 200, text="\n".join(lines) + "\n")


@asynccontextmanager
async def serve_metrics(exposition: Callable[[], bytes], port: int) -> AsyncIterator[int]:
    """GET /metrics, in Prometheus' text format. Gives the port."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=exposition(), headers={"content-type": CONTENT_TYPE_LATEST})

    async with _served({"/metrics": handle}, port) as bound:
        yield bound


@asynccontextmanager
async def _served(
    routes: Mapping[str, Callable[[web.Request], Awaitable[web.Response]]], port: int
) -> AsyncIterator[int]:
    app = web.Application()
    for path, handle in routes.items():
        app.router.add_get(path, handle)
    async with listening.serve(app, port) as bound:
        yield bound
