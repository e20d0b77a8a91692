"""What the Serve client makes of a dashboard's answers. The dashboard is a stand-in; the real one is local mode's."""

from __future__ import annotations

import json

import pytest

from rayfleet_operator.ray.serve import ServeClient, ServeError, ServeRejected, ServeUnreachable

from .stand_in import StandIn

CONFIG = {"applications": [{"name": "a-0123456789", "import_path": "x:y", "args": {"n": 1}}]}


async def test_what_is_put_is_read_back(server: StandIn) -> None:
    async with ServeClient(server.url) as serve:
        assert await serve.applications() == {}
        await serve.put(json.dumps(CONFIG).encode())
        (app,) = (await serve.applications()).values()
    assert (app.name, app.status) == ("a-0123456789", "DEPLOYING")
    assert app.entry == CONFIG["applications"][0]


async def test_delete_leaves_nothing(server: StandIn) -> None:
    async with ServeClient(server.url) as serve:
        await serve.put(json.dumps(CONFIG).encode())
        await serve.delete()
        assert await serve.applications() == {}


async def test_a_token_opens_a_cluster_that_asks_for_one(server: StandIn) -> None:
    server.token = "s3cret"
    async with ServeClient(server.url, token="s3cret") as serve:
        assert await serve.applications() == {}
    for wrong in (None, "guess"):
        async with ServeClient(server.url, token=wrong) as serve:
            with pytest.raises(ServeRejected, match="auth token") as caught:
                await serve.applications()
            assert "guess" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, b"1 validation error for ServeDeploySchema: applications.0.import_path", ServeRejected),
        (404, b"", ServeRejected),
        (500, b"Traceback: the head node is going down", ServeUnreachable),
        (503, b"The GCS may be down, please retry later", ServeUnreachable),
    ],
)
async def test_an_error_says_what_came_back(
    server: StandIn, status: int, body: bytes, expected: type[ServeError]
) -> None:
    server.answer = (status, body)
    async with ServeClient(server.url) as serve:
        for call in (serve.put(b"{}"), serve.applications(), serve.delete()):
            with pytest.raises(expected, match="/api/serve/applications/") as caught:
                await call
            assert str(status) in str(caught.value)
            assert body.decode() in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"applications": {"a": {"status": "RUNNING"}}}'])
async def test_an_answer_that_is_not_serves_is_no_empty_serve(server: StandIn, body: bytes) -> None:
    server.answer = (200, body)
    async with ServeClient(server.url) as serve:
        with pytest.raises(ServeUnreachable, match="is not answered as Ray Serve does"):
            await serve.applications()


async def test_nobody_there(closed_port: str) -> None:
    async with ServeClient(closed_port) as serve:
        with pytest.raises(ServeUnreachable, match=closed_port):
            await serve.applications()


async def test_silence_is_bounded(server: StandIn) -> None:
    server.hold = True
    async with ServeClient(server.url, timeout_s=0.2) as serve:
        with pytest.raises(ServeUnreachable, match="Timeout"):
            await serve.put(b"{}")
