"""What is found by listing, place by place. The API server is a stand-in."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from fake_clock import Clock
from kube_stand_in import api_server, refusal

from rayfleet_operator import resync
from rayfleet_operator.controller import Controller
from rayfleet_operator.kube import kinds, places
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.keys import FleetKey, Fleets
from rayfleet_operator.kube.places import Place
from rayfleet_operator.metrics import Metrics
from rayfleet_operator.resync import Resync
from rayfleet_operator.settings import Settings
from rayfleet_operator.workqueue import WorkQueue

Json = dict[str, Any]


class Namespaces:
    """An API server with models, in namespaces of which some are closed to us."""

    def __init__(self, **models: list[str]) -> None:
        self.models = models
        self.closed: set[str] = set()
        self.lists = 0

    async def answer(self, request: web.Request) -> web.Response:
        namespace, plural = request.path.split("/")[-2:]
        self.lists += 1
        if namespace in self.closed:
            return refusal(403, "Forbidden", f"{plural} is forbidden")
        # Of models it matters what they say, of others that they are there.
        assert ("PartialObjectMetadata" in request.headers["accept"]) == (plural != kinds.MODEL_DEPLOYMENT.plural)
        names = self.models[namespace] if plural == kinds.MODEL_DEPLOYMENT.plural else []
        return web.json_response({"metadata": {}, "items": [model(namespace, name) for name in names]})


def model(namespace: str, name: str, fleet: str | None = None) -> Json:
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"fleet": fleet} if fleet else {}}


@asynccontextmanager
async def resynced(server: Namespaces, every_s: float = 3600) -> AsyncIterator[Controller]:
    """A controller of every namespace of the server, which lists them again and again."""
    controller = Controller(Settings(namespaces=tuple(server.models), resync_s=every_s), Metrics())
    async with api_server(server.answer) as connection, KubeClient(connection) as client:
        running = asyncio.create_task(controller.resync.run(client))
        try:
            yield controller
        finally:
            running.cancel()
            await asyncio.wait([running])


async def keys(controller: Controller, number: int) -> set[FleetKey]:
    """The next ones that a worker gets."""
    found = set()
    async with asyncio.timeout(30):
        for _ in range(number):
            key = await controller.queue.get()
            controller.queue.done(key)
            found.add(key)
    return found


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.01)


async def test_fleets_come_all_at_once_and_then_spread_over_the_whole_time() -> None:
    server, clock = Namespaces(a=[f"m{number}" for number in range(200)]), Clock()
    queue: WorkQueue[FleetKey] = WorkQueue(clock=clock)
    settings = Settings(namespaces=("a",), resync_s=1)
    async with api_server(server.answer) as connection, KubeClient(connection) as client:
        running = asyncio.create_task(Resync(settings, Fleets(), queue).run(client))
        await until(lambda: server.lists >= 3)
        assert len(queue) == 200
        for _ in range(200):
            queue.done(await queue.get())
        server.models["a"].append("new")
        # The requests of a round follow each other, so by the second list of fleets that of the models was taken in.
        await until(lambda: server.lists >= 5)
        assert len(queue) == 1
        assert (await queue.get()).fleet == "new"
        ready = []
        for _ in range(10):
            clock.forward(0.1)
            ready.append(len(queue))
        running.cancel()
        await asyncio.wait([running])

    assert ready[8] == 200, "before the next resync, even where that comes early"
    assert 60 < ready[4] < 140
    assert max(after - before for before, after in itertools.pairwise([0, *ready])) < 60


async def test_a_fleet_that_comes_to_rest_is_looked_at_within_the_time_whatever_was_planned() -> None:
    server, clock = Namespaces(a=["m"]), Clock()
    queue: WorkQueue[FleetKey] = WorkQueue(clock=clock)
    resync = Resync(Settings(namespaces=("a",), resync_s=60), Fleets(), queue)
    async with api_server(server.answer) as connection, KubeClient(connection) as client:
        running = asyncio.create_task(resync.run(client))
        await until(lambda: server.lists >= 3)
        key = await queue.get()
        queue.done(key)
        resync.rests(key)
        resync.rests(FleetKey("a", "gone"))
        clock.forward(59)
        assert len(queue) == 0
        clock.forward(2)
        assert await queue.get() == key
        assert len(queue) == 0, "what is not there any more does not come round"
        running.cancel()
        await asyncio.wait([running])


async def test_a_namespace_that_is_closed_holds_up_no_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "RELIST_S", 0.05)
    server = Namespaces(a=["one"], b=["two"], c=["three"])
    server.closed = {"b"}
    with caplog.at_level("INFO"):
        async with resynced(server) as controller:
            assert await keys(controller, 2) == {("a", "one"), ("c", "three")}
            await until(lambda: server.lists > 30)
            assert controller.resync.waits_for() is None
            assert "not allowed to list modelfleets in namespace b" in str(controller.resync.passes_over())
            assert "namespace a" not in str(controller.resync.passes_over())

            server.closed = set()
            assert await keys(controller, 1) == {("b", "two")}
            await until(lambda: controller.resync.passes_over() is None)

    said = [record.message for record in caplog.records if record.name == resync.__name__]
    assert len([line for line in said if line.startswith("Not every fleet can be listed")]) == 3, said
    assert len([line for line in said if line.endswith("can be listed again")]) == 3, said


async def test_without_any_namespace_it_waits_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "RELIST_S", 0.05)
    server = Namespaces(a=["one"], b=["two"])
    server.closed = {"a", "b"}
    async with resynced(server) as controller:
        await until(lambda: server.lists > 30)
        waits = str(controller.resync.waits_for())
        assert waits.startswith("they have not been listed yet; not allowed to list modeldeployments in namespace a: ")
        assert len(controller.queue) == 0

        server.closed = {"b"}
        await until(lambda: controller.resync.waits_for() is None)


async def test_what_is_known_of_a_closed_namespace_stays_known() -> None:
    server = Namespaces(a=["one"], b=["two"])
    server.closed = {"b"}
    async with resynced(server, every_s=0.05) as controller:
        controller.observe(kinds.MODEL_DEPLOYMENT, model("b", "two", "old"), False)
        await keys(controller, 1)
        await until(lambda: server.lists > 30)
        controller.observe(kinds.MODEL_DEPLOYMENT, model("b", "two", "new"), False)
        found: set[FleetKey] = set()
        while not found >= {("b", "old"), ("b", "new")}:
            found |= await keys(controller, 1)


def test_what_is_refused_is_done_without_where_another_namespace_works() -> None:
    a, b, b_too = Place(kinds.SECRET, "a"), Place(kinds.SECRET, "b"), Place(kinds.SERVICE, "b")
    both = {a, b, b_too}

    assert places.needed(both, {b}, {b}) == set()
    assert places.needed(both, {b, b_too}, {b}) == {b_too}, "it may begin yet"
    assert places.needed(both, {a, b}, {b}) == {a, b}
    assert places.needed(both, set(), {b}) == set()
    everywhere = {Place(kinds.SECRET, None), Place(kinds.SERVICE, None)}
    assert places.needed(everywhere, {Place(kinds.SECRET, None)}, everywhere) == {Place(kinds.SECRET, None)}
