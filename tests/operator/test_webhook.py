"""The endpoint of webhooks over real connections."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fake_clock import Clock

from rayfleet_operator import webhook
from rayfleet_operator.listening import Limits
from rayfleet_operator.metrics import WEBHOOK_RESULTS, Metrics
from rayfleet_operator.registry import deliveries
from rayfleet_operator.registry.deliveries import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, Seen
from rayfleet_operator.webhook import STATUS, Webhook

KEY = b"hush-1"
PATIENCE_S = 30.0


def event(name: str) -> bytes:
    return json.dumps({"entity": "model_version_alias", "action": "created", "data": {"name": name}}).encode()


class World:
    """An endpoint, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Metrics()
        self.clock = Clock()
        self.key_file = folder / "key"
        self.key_file.write_bytes(KEY + b"\n")
        self.webhook = Webhook(self.key_file, self.metrics.webhook, self.clock, Seen(8))
        self.woken: list[str] = []
        self.webhook.leads(self.woken.append)
        self.port = 0
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mlflow"

    def headers(self, body: bytes, *, key: bytes = KEY, name: str = "", ago: int = 0) -> dict[str, str]:
        self.sent += 1
        name, at = name or f"d-{self.sent}", f"{self.clock() - ago:.0f}"
        return {ID_HEADER: name, TIMESTAMP_HEADER: at, SIGNATURE_HEADER: deliveries.signature(key, name, at, body)}

    async def post(self, body: bytes, headers: dict[str, str]) -> int:
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
            answer = await client.post(self.url, content=body, headers=headers)
        assert answer.headers["connection"] == "close"
        assert answer.text.count("\n") == (answer.status_code != 204)
        return answer.status_code

    async def deliver(self, name: str = "digits", *, key: bytes = KEY, ago: int = 0, delivery: str = "") -> int:
        body = event(name)
        return await self.post(body, self.headers(body, key=key, name=delivery, ago=ago))

    def counted(self) -> dict[str, float]:
        """Every result that was counted."""
        name = "rayfleet_registry_webhook_deliveries_total"
        found = {each: self.metrics.registry.get_sample_value(name, {"result": each}) for each in WEBHOOK_RESULTS}
        assert None not in found.values(), "a rate can be taken from the first one on"
        return {result: count for result, count in found.items() if count}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with world.webhook.serve(0) as world.port:
        yield world


def test_every_refusal_has_a_status_and_is_counted() -> None:
    assert set(WEBHOOK_RESULTS) == {"accepted", *STATUS}


async def test_a_right_delivery_wakes_its_model(world: World) -> None:
    assert await world.deliver("digits") == 204
    assert await world.deliver("a b/☃") == 204
    assert world.woken == ["digits", "a b/☃"]
    assert world.counted() == {"accepted": 2}


async def test_an_event_of_something_else_wakes_nobody(world: World) -> None:
    body = b'{"entity": "budget_policy", "action": "exceeded", "data": {}}'
    assert await world.post(body, world.headers(body)) == 204
    assert world.woken == []


async def test_whoever_has_another_key_or_none_is_refused(world: World) -> None:
    assert await world.deliver(key=b"hush-2") == 401
    assert await world.post(event("digits"), {}) == 401
    right = world.headers(event("digits"))
    assert await world.post(event("other"), right) == 401
    assert world.woken == []
    assert world.counted() == {"signature": 3}


async def test_an_old_delivery_is_refused(world: World) -> None:
    assert await world.deliver(ago=301) == 401
    assert await world.deliver(ago=-301) == 401
    assert world.counted() == {"stale": 2}
    assert await world.deliver(ago=299) == 204


async def test_a_delivery_that_comes_again_is_refused(world: World) -> None:
    assert await world.deliver(delivery="once") == 204
    assert await world.deliver(delivery="once") == 409
    world.clock.forward(200)
    assert await world.deliver(delivery="once", ago=200) == 409
    assert world.woken == ["digits"]
    assert world.counted() == {"accepted": 1, "replayed": 2}


async def test_what_is_signed_and_no_event_is_refused(world: World) -> None:
    for body in (b"{", b"[]", b"[" * 60_000):
        assert await world.post(body, world.headers(body)) == 400
    assert world.counted() == {"malformed": 3}


async def test_a_large_body_is_refused_whether_it_tells_its_length_or_not(world: World) -> None:
    body = event("x" * webhook.BODY_BYTES)
    assert await world.post(body, world.headers(body)) == 413

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(world.url, content=parts(), headers=world.headers(body))
    assert answer.status_code == 413
    assert world.counted() == {"too_large": 2}
    largest = event("x" * (webhook.BODY_BYTES - len(event(""))))
    assert await world.post(largest, world.headers(largest)) == 204


async def test_a_body_that_does_not_come_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "READ_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"POST /mlflow HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.readline()).split()[1] == b"408"
    writer.close()
    assert world.counted() == {"slow": 1}


@pytest.mark.parametrize("sent", [b"", b"POST /mlf", b"POST /mlflow HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01"])
async def test_a_connection_that_says_nothing_ends(sent: bytes) -> None:
    metrics = Metrics()
    endpoint = Webhook(Path("nowhere"), metrics.webhook)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webhook, "LIMITS", Limits(connections=2, connection_s=0.2))
        async with endpoint.serve(0) as port, asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            await reader.read()
            writer.close()


async def test_there_are_so_many_connections_at_a_time(world: World) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(webhook.LIMITS.connections)]
    with pytest.raises(httpx.TransportError):
        await world.deliver()
    for _, writer in silent:
        writer.close()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                assert await world.deliver() == 204
                break
            except httpx.TransportError:
                continue


async def test_only_post_and_one_path(world: World) -> None:
    body = event("digits")
    async with httpx.AsyncClient(trust_env=False) as client:
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            answer = await client.request(method, world.url, content=body, headers=world.headers(body))
            assert answer.status_code == 405
        other = world.url.replace("/mlflow", "/")
        assert (await client.post(other, content=body, headers=world.headers(body))).status_code == 404
    assert world.woken == []


async def test_a_key_that_changes_is_read_without_a_restart(world: World) -> None:
    world.key_file.write_bytes(b"hush-2\nhush-1\n")
    assert await world.deliver(key=b"hush-2") == 204
    assert await world.deliver(key=b"hush-1") == 204, "both hold while one replaces the other"
    world.key_file.write_bytes(b"hush-2")
    assert await world.deliver(key=b"hush-2") == 204
    assert await world.deliver(key=b"hush-1") == 401


@pytest.mark.parametrize("contents", [None, b"", b"\n\n"])
async def test_without_a_key_nobody_is_believed(world: World, contents: bytes | None) -> None:
    assert world.webhook.problem() is None
    if contents is None:
        world.key_file.unlink()
    else:
        world.key_file.write_bytes(contents)
    assert await world.deliver(key=b"") == 503
    assert str(world.key_file) in str(world.webhook.problem())
    assert world.counted() == {"no_key": 1}


async def test_who_stands_by_says_so_and_takes_the_next_try_when_it_leads(world: World) -> None:
    world.webhook.leads(None)
    body = event("digits")
    headers = world.headers(body)
    assert await world.post(body, headers) == 503
    assert await world.deliver(key=b"hush-2") == 401
    world.webhook.leads(world.woken.append)
    assert await world.post(body, headers) == 204
    assert world.woken == ["digits"]
    assert world.counted() == {"standby": 1, "signature": 1, "accepted": 1}


async def test_nothing_of_a_delivery_is_logged_and_a_flood_is_said_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(20):
        await world.deliver("hush-name", key=b"hush-3")
        await world.post(b"hush-body", world.headers(b"hush-body"))
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(b"POST /mlflow HTTP/1.1\r\nHost: x\r\nhush header\r\n\r\n")
        await reader.read()
        writer.close()
    await world.deliver("hush-name")
    lines = [record for record in caplog.records if record.name.startswith(("rayfleet_operator", "aiohttp"))]
    assert [record.getMessage().partition(":")[0] for record in lines if record.levelno >= logging.WARNING] == [
        "A webhook's delivery was refused"
    ] * 2
    own = "\n".join(logging.Formatter().format(record) for record in lines)
    assert "hush" not in own
    assert "v1," not in own


async def test_a_taken_port_is_named(world: World) -> None:
    with pytest.raises(OSError, match=f"port {world.port}"):
        async with world.webhook.serve(world.port):
            pass
