"""What is asked only to be told costs no version: the registry answers, and its artifact store hangs. Both are a
stand-in, since a real MLflow server hangs on nobody's word."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from rayfleet_operator.api.types import Model
from rayfleet_operator.plan.observed import Noted
from rayfleet_operator.registry import besides, known
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_serving.config import ModelIdentity

RUN = "a" * 32
LATE = b"utc_time_created: '2026-11-28 12:00:00.000000'\n"


@dataclass
class Server:
    """Registered models whose versions are artifacts of a run."""

    url: str = ""
    hangs: bool = False
    asked: Counter[str] = field(default_factory=Counter)

    async def version(self, request: web.Request) -> web.Response:
        self.asked["version"] += 1
        location = f"mlflow-artifacts:/1/{RUN}/artifacts/{request.query['name']}"
        version = {"name": request.query["name"], "version": "1", "source": location, "status": "READY"}
        return web.json_response({"model_version": {**version, "current_stage": "None", "creation_timestamp": 1000}})

    async def location(self, request: web.Request) -> web.Response:
        return web.json_response({"artifact_uri": f"mlflow-artifacts:/1/{RUN}/artifacts/{request.query['name']}"})

    async def artifact(self, _: web.Request) -> web.Response:
        self.asked["artifact"] += 1
        if self.hangs:
            await asyncio.Event().wait()
        return web.Response(body=LATE)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/api/2.0/mlflow/model-versions/get", server.version)
    app.router.add_get("/api/2.0/mlflow/model-versions/get-download-uri", server.location)
    app.router.add_get("/get-artifact", server.artifact)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


def models(server: Server, number: int) -> dict[int, Model]:
    registry = {"trackingUri": server.url}
    return {each: Model.model_validate({"uri": f"models:/m{each}/1", "registry": registry}) for each in range(number)}


async def test_a_store_that_hangs_costs_no_model_its_version(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(besides, "WITHIN_S", 0.3)
    server.hangs = True
    async with Resolver(all_s=15) as resolver:
        found = await resolver.resolve_all(models(server, 120))
        assert all(isinstance(each, ModelIdentity) for each in found.values())
        assert server.asked["artifact"] <= 8, "one wait is enough for all"


async def test_what_was_told_is_told_on_while_the_store_hangs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(besides, "WITHIN_S", 0.3)
    monkeypatch.setattr(known, "KNOWN_S", 0.0)
    async with Resolver() as resolver:
        first = (await resolver.resolve_all(models(server, 1)))[0]
        assert isinstance(first, Noted)
        assert [notice.reason for notice in first.notices] == ["ArtifactsChanged"]
        server.hangs = True
        assert (await resolver.resolve_all(models(server, 1)))[0] == first
        assert server.asked["artifact"] == 2, "it was asked again"
