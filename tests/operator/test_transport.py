"""Requests to an API server that is busy, restarts, or takes the credentials no more. The server is a stand-in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from kube_stand_in import api_server, refusal

from rayfleet_operator.kube import errors
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.config import Credentials
from rayfleet_operator.kube.kinds import CONFIG_MAP, SECRET
from rayfleet_operator.kube.transport import of_status
from rayfleet_operator.metrics import Metrics

OBJECT = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ml", "name": "a"}}


class Script:
    """Answers one request after the other, and the last one for ever; keeps what was asked."""

    def __init__(self, *answers: Callable[[], web.Response]) -> None:
        self._answers = list(answers)
        self.asked: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        return self._answers[min(len(self.asked), len(self._answers)) - 1]()


def good() -> web.Response:
    return web.json_response(OBJECT)


def busy() -> web.Response:
    return refusal(429, "TooManyRequests", Retry_After="0")


def broken() -> web.Response:
    return refusal(503, "ServiceUnavailable")


async def test_a_busy_server_is_asked_again_when_it_says_whatever_the_request() -> None:
    script = Script(lambda: refusal(429, "TooManyRequests", Retry_After="1"), busy, good)
    began = time.monotonic()
    async with api_server(script.answer) as connection, KubeClient(connection) as client:
        assert await client.create(OBJECT) == OBJECT

    assert [request.method for request in script.asked] == ["POST"] * 3
    assert time.monotonic() - began >= 1


async def test_patience_with_a_busy_server_ends() -> None:
    script = Script(busy)
    async with api_server(script.answer) as connection, KubeClient(connection) as client:
        with pytest.raises(errors.TooManyRequests):
            await client.get(CONFIG_MAP, "ml", "a")
    assert len(script.asked) == 5


async def test_a_long_wait_is_left_to_the_caller() -> None:
    script = Script(lambda: refusal(429, "TooManyRequests", Retry_After="60"))
    async with api_server(script.answer) as connection, KubeClient(connection) as client:
        with pytest.raises(errors.TooManyRequests) as refused:
            await client.get(CONFIG_MAP, "ml", "a")
    assert refused.value.retry_after_s == 60
    assert len(script.asked) == 1


async def test_what_only_reads_is_tried_again_and_what_writes_is_not() -> None:
    script = Script(broken, broken, good)
    async with api_server(script.answer) as connection, KubeClient(connection) as client:
        assert await client.get(CONFIG_MAP, "ml", "a") == OBJECT

    script = Script(broken, good)
    async with api_server(script.answer) as connection, KubeClient(connection) as client:
        with pytest.raises(errors.Unreachable, match="cannot create configmaps in namespace ml: no"):
            await client.create(OBJECT)
    assert len(script.asked) == 1


TYPED = "failed to create typed patch object (ml/a; ray.io/v1, Kind=RayService): .spec.env: element 0: no map"


async def test_an_object_of_the_wrong_types_is_told_apart_from_a_server_that_does_not_work() -> None:
    for message, expected in (
        (TYPED, errors.Invalid),
        ("failed to convert new object (ml/a; v1, Kind=ConfigMap) to smd typed: .data: expected map", errors.Invalid),
        (f"{TYPED.partition(': ')[0]}: no corresponding type for ray.io/v1, Kind=RayService", errors.Unreachable),
        ("failed to convert new object (ml/a; v1, Kind=ConfigMap) to proper version: webhook", errors.Unreachable),
        ("etcdserver: failed to create typed patch object", errors.Unreachable),
    ):
        script = Script(lambda message=message: web.json_response({"kind": "Status", "message": message}, status=500))  # type: ignore[misc]
        async with api_server(script.answer) as connection, KubeClient(connection) as client:
            with pytest.raises(errors.KubeError) as caught:
                await client.apply(OBJECT, field_manager="rayfleet", force=True)
        assert type(caught.value) is expected, message
        assert message in caught.value.message


async def test_a_server_that_is_not_there_is_named() -> None:
    async with api_server(Script(good).answer) as connection:
        pass
    async with KubeClient(connection) as client:
        with pytest.raises(errors.Unreachable, match=connection.server):
            await client.get(CONFIG_MAP, "ml", "a")


async def test_something_else_at_that_address_is_told_apart() -> None:
    async with (
        api_server(Script(lambda: web.Response(text="<html>")).answer) as connection,
        KubeClient(connection) as client,
    ):
        with pytest.raises(errors.KubeError, match="does not answer as an API server does"):
            await client.get(CONFIG_MAP, "ml", "a")


async def test_a_token_that_was_replaced_is_read_anew_at_once(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["authorization"])
        return good() if seen[-1] == "Bearer second" else refusal(401, "Unauthorized")

    async with api_server(answer, Credentials(token_file=token)) as connection, KubeClient(connection) as client:
        with pytest.raises(errors.Unauthorized):
            await client.get(CONFIG_MAP, "ml", "a")
        token.write_text("second\n")
        assert await client.get(CONFIG_MAP, "ml", "a") == OBJECT
        assert await client.get(CONFIG_MAP, "ml", "a") == OBJECT
    assert seen == ["Bearer first", "Bearer first", "Bearer second", "Bearer second"]


async def test_the_pace_is_kept_over_time() -> None:
    script = Script(good)
    began = time.monotonic()
    async with api_server(script.answer) as connection, KubeClient(connection, qps=20, burst=5) as client:
        for _ in range(11):
            await client.get(CONFIG_MAP, "ml", "a")
    assert time.monotonic() - began >= 0.25


async def test_requests_are_counted_as_client_go_does() -> None:
    metrics = Metrics()
    script = Script(good, lambda: refusal(404, "NotFound"), broken)
    async with api_server(script.answer) as connection, KubeClient(connection, metrics=metrics.requests) as client:
        await client.get(CONFIG_MAP, "ml", "a")
        await client.get(CONFIG_MAP, "ml", "b")
        with pytest.raises(errors.Unreachable):
            await client.create(OBJECT)
    async with KubeClient(connection, metrics=metrics.requests) as client:
        with pytest.raises(errors.Unreachable):
            await client.create(OBJECT)

    host = connection.server.removeprefix("http://")

    def count(code: str, method: str) -> float | None:
        labels = {"code": code, "method": method, "host": host}
        return metrics.registry.get_sample_value("rest_client_requests_total", labels)

    assert (count("200", "GET"), count("404", "GET")) == (1, 1)
    assert (count("503", "POST"), count("<error>", "POST")) == (1, 1)


async def test_a_list_whose_pages_are_too_old_is_read_at_once() -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        if "continue" in request.query:
            return refusal(410, "Expired")
        items = [{"metadata": {"name": "a"}}] if "limit" in request.query else [{"metadata": {"name": "b"}}]
        more = {"continue": "token"} if "limit" in request.query else {}
        return web.json_response({"metadata": {"resourceVersion": "7"} | more, "items": items})

    async with api_server(answer) as connection, KubeClient(connection) as client:
        found = await client.list(SECRET, "ml", labels="a=b", cached=False, page=1)

    assert [(each["kind"], each["metadata"]["name"]) for each in found] == [("Secret", "b")]
    assert asked == [
        {"labelSelector": "a=b", "limit": "1"},
        {"labelSelector": "a=b", "limit": "1", "continue": "token"},
        {"labelSelector": "a=b"},
    ]


async def test_what_the_server_warns_of_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def warning() -> web.Response:
        return web.json_response(OBJECT, headers={"Warning": '299 - "unknown field \\"spec.x\\""'})

    async with api_server(Script(warning).answer) as connection, KubeClient(connection) as client:
        for _ in range(3):
            await client.create(OBJECT)
    assert [record.message for record in caplog.records if "warns" in record.message] == [
        'The API server warns: unknown field "spec.x"'
    ]


def test_the_near_end_of_a_broken_connection_is_no_news() -> None:
    text = "failed calling webhook: read tcp 10.0.0.1:{}->10.0.0.2:443: connection reset by peer"
    one, two = (str(of_status({"message": text.format(port)}, code=500, about="apply")) for port in (41234, 52345))
    assert one == two
    assert "10.0.0.1->10.0.0.2:443" in one
