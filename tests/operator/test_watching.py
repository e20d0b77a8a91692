"""Watches that end in every way that a watch can end. The API server is a stand-in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from kube_stand_in import api_server, refusal

from rayfleet_operator.kube import errors, watching
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.kinds import SECRET
from rayfleet_operator.kube.watching import Listed


def event(kind: str, version: int, name: str = "a", **more: Any) -> str:
    return (
        json.dumps({"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(version)}} | more})
        + "\n"
    )


GONE = (
    json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "old"}})
    + "\n"
)


class Api:
    """Lists with a version one higher each time; each watch is answered with the next text, and then cut off."""

    def __init__(self, *streams: str | web.Response) -> None:
        self._streams = list(streams)
        self.lists = 0
        self.watched_from: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            self.lists += 1
            metadata = {"resourceVersion": str(self.lists * 100)}
            return web.json_response({"metadata": metadata, "items": []})
        assert request.query["allowWatchBookmarks"] == "true"
        self.watched_from.append(request.query["resourceVersion"])
        stream = self._streams.pop(0) if self._streams else ""
        if isinstance(stream, web.Response):
            return stream
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(stream.encode())
        if not self._streams:
            await asyncio.sleep(60)
        return response


async def told(api: Api, number: int) -> list[str]:
    """The first events of a watch, in short."""
    found = []
    async with api_server(api.answer) as connection, KubeClient(connection) as client, asyncio.timeout(30):
        async for each in client.watch(SECRET, "ml"):
            found.append(
                f"list {each.version}"
                if isinstance(each, Listed)
                else f"{'-' if each.deleted else '+'}{each.object['metadata']['name']}"
            )
            if len(found) == number:
                break
    return found


async def test_a_watch_that_ends_goes_on_after_the_last_event_or_bookmark() -> None:
    api = Api(
        event("ADDED", 101) + event("BOOKMARK", 150),
        event("MODIFIED", 160, "b"),
        event("DELETED", 170, "b"),
    )

    assert await told(api, 4) == ["list 100", "+a", "+b", "-b"]
    assert api.watched_from == ["100", "150", "160"]


@pytest.mark.parametrize("gone", [GONE, refusal(410, "Expired")], ids=["in the stream", "as the answer"])
async def test_too_old_a_version_leads_to_a_new_list(gone: str | web.Response) -> None:
    api = Api(event("ADDED", 101), gone, event("ADDED", 201, "b"))

    assert await told(api, 4) == ["list 100", "+a", "list 200", "+b"]
    assert api.watched_from == ["100", "101", "200"]


@pytest.mark.parametrize(
    "broken",
    ['{"type": "ADD', refusal(503, "ServiceUnavailable"), refusal(429, "TooManyRequests", Retry_After="0")],
    ids=["half a line", "503", "429"],
)
async def test_an_outage_is_waited_out(broken: str | web.Response, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FIRST_PAUSE_S", 0.01)
    api = Api(event("ADDED", 101), broken, event("ADDED", 102, "b"))

    assert await told(api, 3) == ["list 100", "+a", "+b"]
    assert api.watched_from == ["100", "101", "101"]


async def test_silence_is_taken_for_a_dead_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SILENCE_S", 0.2)
    monkeypatch.setattr(watching, "FIRST_PAUSE_S", 0.01)
    asked = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "100"}, "items": []})
        asked += 1
        response = web.StreamResponse()
        await response.prepare(request)
        if asked == 2:
            await response.write(event("ADDED", 101).encode())
        await asyncio.sleep(60)
        return response

    async with api_server(answer) as connection, KubeClient(connection) as client, asyncio.timeout(30):
        watch = client.watch(SECRET, "ml")
        assert isinstance(await anext(watch), Listed)
        assert not isinstance(await anext(watch), Listed)
        await watch.aclose()
    assert asked == 2


async def test_a_refusal_ends_the_watch() -> None:
    api = Api(refusal(403, "Forbidden"))

    with pytest.raises(errors.Forbidden, match="not allowed to watch secrets in namespace ml"):
        await told(api, 2)
