"""How kopf's requests prove who they are, and what they say of its watches. The API server is a stand-in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from kube_stand_in import api_server, refusal

from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.config import Credentials
from rayfleet_operator.kube.exchanges import Exchanges
from rayfleet_operator.kube.kinds import SECRET


async def test_watches_take_a_token_that_was_replaced(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["authorization"])
        return web.json_response({}) if seen[-1] == "Bearer second" else refusal(401, "Unauthorized")

    async with (
        api_server(answer, Credentials(token_file=token)) as connection,
        Exchanges(connection, []).session() as session,
    ):
        assert (await session.get(f"{connection.server}/version")).status == 401
        token.write_text("second")
        assert (await session.get(f"{connection.server}/version")).status == 200

    assert seen == ["Bearer first", "Bearer first", "Bearer second"]


async def test_what_its_requests_say_of_each_watch(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/forbidden":
            return refusal(403, "Forbidden", "secrets is forbidden")
        return web.json_response({})

    async with api_server(answer) as connection:
        exchanges = Exchanges(connection, ["/watched", "/listed", "/forbidden", "/forgotten"])
        exchanges.anew()
        async with exchanges.session() as session:
            for path in ("/watched", "/forbidden", "/watched?watch=true", "/listed", "/forbidden", "/other?watch=true"):
                await session.get(connection.server + path)

    assert exchanges.waiting() == {"/listed", "/forbidden", "/forgotten"}
    assert exchanges.forgotten() == {"/listed", "/forgotten"}
    assert exchanges.refused() == {"/forbidden"}
    assert exchanges.silent(3600) == set()
    assert exchanges.silent(-1) == {"/watched", "/listed", "/forbidden", "/forgotten"}
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "/forbidden cannot be watched, and is tried again and again: secrets is forbidden"
    ]
    exchanges.anew()
    assert "/watched" in exchanges.waiting()


async def test_a_server_below_a_path_of_its_host_has_the_same_watches() -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"resources": []})

    async with api_server(answer) as host:
        connection = replace(host, server=f"{host.server}/k8s/clusters/c-1")
        exchanges = Exchanges(connection, [SECRET.path("ml")])
        exchanges.anew()
        async with exchanges.session() as session, KubeClient(connection) as client:
            await session.get(f"{connection.server}{SECRET.path('ml')}?watch=true")
            await client.serves(SECRET)

    assert exchanges.waiting() == set()
    assert asked == ["/k8s/clusters/c-1/api/v1/namespaces/ml/secrets", "/k8s/clusters/c-1/api/v1"]


async def test_a_watch_that_fails_and_recovers_is_mentioned_twice(caplog: pytest.LogCaptureFixture) -> None:
    answers = [web.Response(status=502), web.Response(status=502), web.json_response({}), web.json_response({})]

    async def answer(request: web.Request) -> web.Response:
        return answers.pop(0)

    async with api_server(answer) as connection:
        exchanges = Exchanges(connection, ["/watched"])
        with caplog.at_level("INFO"):
            async with exchanges.session() as session:
                while answers:
                    await session.get(f"{connection.server}/watched?watch=true")

    assert [record.message for record in caplog.records] == [
        "/watched cannot be watched, and is tried again and again: 502 Bad Gateway",
        "/watched can be watched again",
    ]
