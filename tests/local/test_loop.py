"""What `up` publishes when Ray does not do as it is asked. Ray is a stand-in that refuses; the rest is real."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from model_files import write_model
from ray_client.stand_in import StandIn, stand_in

from rayfleet_operator.local.commands import Commands
from rayfleet_operator.local.loop import Loop
from rayfleet_operator.local.resolutions import Resolutions
from rayfleet_operator.local.sources import Sources
from rayfleet_operator.local.state import Status
from rayfleet_operator.plan.serve_config import ServeOptions
from rayfleet_operator.ray.routers import RouterClient
from rayfleet_operator.ray.serve import ServeClient
from rayfleet_operator.registry.resolver import Resolver


@contextlib.asynccontextmanager
async def following(folder: Path, server: StandIn) -> AsyncIterator[list[Status]]:
    """A loop that runs, and what it has published."""
    published: list[Status] = []
    async with ServeClient(server.url) as serve, RouterClient(server.url) as routers:
        loop = Loop(
            sources=Sources([str(folder)], None),
            resolutions=Resolutions(Resolver()),
            serve=serve,
            routers=routers,
            options=ServeOptions(),
            publish=published.append,
            commands=Commands(folder / "nothing.commands"),
            url="http://127.0.0.1:8000",
        )
        task = asyncio.ensure_future(loop.run())
        try:
            yield published
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until(met: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not met():
            await asyncio.sleep(0.02)


async def test_what_serve_did_not_take_is_not_shown_as_if_it_had(tmp_path: Path, models: dict[int, Path]) -> None:
    write_model(tmp_path, "first", models[1])
    with stand_in() as server:
        server.refuses = b"not now\x1b[2J"
        async with following(tmp_path, server) as published:
            await until(lambda: len(published) > 2)
            assert all(status.models == () for status in published)
            # What a terminal would obey is shown, not done.
            assert published[-1].problems[0].endswith("not now\\x1b[2J")
            server.refuses = b""
            await until(lambda: published[-1].models)
            assert published[-1].problems == ()


async def test_a_status_is_as_old_as_the_last_answer_of_ray(tmp_path: Path, models: dict[int, Path]) -> None:
    write_model(tmp_path, "first", models[1])
    with stand_in() as server:
        async with following(tmp_path, server) as published:
            await until(lambda: published and published[-1].models)
            server.answer = (500, b"gone")
            await until(lambda: published[-1].problems)
            lost = len(published)
            await until(lambda: len(published) > lost + 1)
            assert {status.updated for status in published[lost:]} == {published[lost - 1].updated}
            server.answer = None
            await until(lambda: not published[-1].problems)
            assert published[-1].updated > published[lost].updated
