"""A stand-in for Prometheus: an HTTP server that answers each query as it is told, and knows no PromQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Json = dict[str, Any]


def vector(*values: str) -> Json:
    """One series for each value."""
    series = [{"metric": {"pod": f"p{number}"}, "value": [1772366400.1, each]} for number, each in enumerate(values)]
    return success("vector", series)


def scalar(value: str) -> Json:
    return success("scalar", [1772366400.1, value])


def success(kind: str, result: Any) -> Json:
    return {"status": "success", "data": {"resultType": kind, "result": result}}


def error(kind: str, text: str) -> Json:
    return {"status": "error", "errorType": kind, "error": text}


class StandIn:
    """Answers `POST <prefix>/api/v1/query`."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: dict[str, Json] = {}
        """By query; another one is answered by `body`."""
        self.body: bytes = json.dumps(vector()).encode()
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.pause = asyncio.Event()
        """No request is answered while it is not set."""
        self.pause.set()
        self.endless = False
        self.asked: list[Mapping[str, str]] = []
        """The form of each request, with its path and what it showed."""

    def say(self, body: Json, status: int = 200) -> None:
        self.body, self.status = json.dumps(body).encode(), status

    def queries(self) -> list[str]:
        return [form["query"] for form in self.asked]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        shown = request.headers.get("authorization", "")
        self.asked.append({**form, "path": request.path, "shown": shown})
        await self.pause.wait()
        if self.endless:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" " * 65536)
        if (answer := self.answers.get(form.get("query", ""))) is not None:
            return web.json_response(answer)
        return web.Response(body=self.body, status=self.status, headers=self.headers)


@asynccontextmanager
async def stand_in(prefix: str = "") -> AsyncIterator[StandIn]:
    """Without anything else at its address."""
    found = StandIn()
    app = web.Application()
    app.router.add_post(f"{prefix}/api/v1/query", found._answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}"
        yield found
    finally:
        found.pause.set()
        await runner.cleanup()
