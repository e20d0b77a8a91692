"""kopf's watches when kinds go and come back. The API server is a stand-in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from fake_clock import Clock
from kube_stand_in import api_server, refusal

from rayfleet_operator import handlers
from rayfleet_operator.handlers import Observe, Watches
from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.kinds import Kind


class Cluster:
    """As much of an API server as watches need: its kinds, without objects, and what its watches say at first."""

    def __init__(self) -> None:
        self.kinds = set(kinds.ALL)
        self.events: dict[Kind, list[dict[str, Any]]] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/api":
            return web.json_response({"versions": ["v1"]})
        if request.path == "/apis":
            groups = {kind.group: {"version": kind.version} for kind in self.kinds if kind.group}
            found = [{"name": name, "versions": [it], "preferredVersion": it} for name, it in groups.items()]
            return web.json_response({"groups": found})
        if resources := [_resource(kind) for kind in self.kinds if kind.root == request.path]:
            return web.json_response({"resources": [*resources, _resource(NAMESPACES)]})
        watched = [kind for kind in self.kinds if kind.path("ml") == request.path]
        if not watched:
            return refusal(404, "NotFound")
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        response = web.StreamResponse()
        await response.prepare(request)
        for obj in self.events.pop(watched[0], []):
            await response.write(json.dumps({"type": "ADDED", "object": obj}).encode() + b"\n")
        await until(lambda: watched[0] not in self.kinds)
        return response


NAMESPACES = Kind("", "v1", "Namespace", "namespaces")


def _resource(kind: Kind) -> dict[str, Any]:
    verbs = ["list", "watch"]
    return {"name": kind.plural, "kind": kind.name, "singularName": "", "namespaced": True, "verbs": verbs}


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(cluster: Cluster, clock: Clock, observe: Observe = lambda *_: None) -> AsyncIterator[Watches]:
    async with api_server(cluster.answer) as connection, KubeClient(connection) as client:
        watches = Watches(connection, client, namespaces=("ml",), observe=observe, clock=clock)
        running = asyncio.create_task(watches.run())
        try:
            await until(lambda: watches.waits_for() is None)
            yield watches
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_kinds_that_are_gone_for_long_are_no_reason_to_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "LOOK_S", 0.05)
    cluster, clock = Cluster(), Clock()
    async with watching(cluster, clock) as watches:
        clock.forward(3600)
        assert "have not been renewed" in str(watches.dead())

        cluster.kinds.remove(kinds.RAY_CLUSTER)
        await until(lambda: "the cluster has no RayCluster" in str(watches.waits_for()))
        clock.forward(3600)
        assert watches.dead() is None

        cluster.kinds.add(kinds.RAY_CLUSTER)
        await until(lambda: watches.waits_for() is None)
        assert watches.dead() is None


async def test_an_event_that_cannot_be_passed_on_is_logged_and_the_next_one_is_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster, heard = Cluster(), list[str]()
    without_name = {"metadata": {"namespace": "ml", "uid": "1", "resourceVersion": "2"}}
    cluster.events[kinds.RAY_SERVICE] = [
        without_name,
        {"metadata": {"namespace": "ml", "name": "vision", "uid": "2", "resourceVersion": "3"}},
    ]
    async with watching(cluster, Clock(), lambda _, obj, __: heard.append(obj["metadata"]["name"])):
        await until(lambda: bool(heard))

    assert heard == ["vision"]
    (said,) = [record for record in caplog.records if "could not be passed on" in record.message]
    assert said.name == handlers.__name__
    assert "KeyError: 'name'" in str(caplog.text)
