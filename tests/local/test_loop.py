"""What `up` publishes when Ray does not do as it is asked. Ray is a stand-in that refuses; the rest is real."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest
from model_files import write_model
from prometheus.stand_in import stand_in as prometheus_stand_in
from ray_client.stand_in import StandIn, stand_in
from registry.stand_in import http
from registry.stand_in import stand_in as registry_stand_in

from rayfleet_operator import write_back
from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.api.timestamp import stamp
from rayfleet_operator.local import view
from rayfleet_operator.local.commands import Commands
from rayfleet_operator.local.loop import TRIES, Loop, Nodes
from rayfleet_operator.local.resolutions import Resolutions
from rayfleet_operator.local.sources import Sources
from rayfleet_operator.local.state import Status
from rayfleet_operator.plan import serve_config
from rayfleet_operator.plan.serve_config import ServeOptions
from rayfleet_operator.prometheus.client import Prometheus
from rayfleet_operator.ray.nodes import NodeClient
from rayfleet_operator.ray.routers import RouterClient
from rayfleet_operator.ray.serve import ServeClient, ServeError
from rayfleet_operator.registry.keys import key
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_serving.config import ModelRoute, RolloutMark, TrafficTable, VersionRoute


@contextlib.asynccontextmanager
async def following(
    folder: Path,
    server: StandIn,
    metrics: str | None = None,
    before: Mapping[str, ModelDeploymentStatus] = MappingProxyType({}),
) -> AsyncIterator[list[Status]]:
    """A loop that runs, and what it has published.

    Args:
        metrics: the URL of a Prometheus.
        before: what it said of its models in passes before.
    """
    published: list[Status] = []
    async with (
        ServeClient(server.url) as serve,
        RouterClient(server.url) as routers,
        Prometheus(metrics) as prometheus,
        NodeClient(server.url) as nodes,
    ):
        loop = Loop(
            sources=Sources([str(folder)], None),
            resolutions=Resolutions(Resolver()),
            serve=serve,
            routers=routers,
            prometheus=prometheus,
            options=ServeOptions(),
            publish=published.append,
            commands=Commands(folder / "nothing.commands"),
            url="http://127.0.0.1:8000",
            nodes=nodes,
        )
        loop._statuses.update(before)
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


async def test_prometheus_is_asked_about_a_candidate_and_may_be_down(tmp_path: Path, models: dict[int, Path]) -> None:
    analysis = {"queries": [{"name": "errors", "query": "a{m='{{model}}',v='{{candidate}}'}", "max": 1}]}
    rollout = {"strategy": "Canary", "steps": [{"weight": 10}], "analysis": analysis}
    write_model(tmp_path, "first", models[1], rollout=rollout)
    since = stamp(datetime.now(UTC))
    mark = RolloutMark(stable="old", candidate="new", began=since, stage=0, since=since)
    versions = [
        VersionRoute(app=app, version=app, model_id=app, weight=weight) for app, weight in (("new", 10), ("old", 90))
    ]
    table = TrafficTable(models={"first": ModelRoute(versions=versions, rollout=mark)})
    with stand_in() as server:
        router = serve_config.router_app(ModelFleetSpec(), table)
        server.config = serve_config.serve_config([router], ServeOptions())
        async with prometheus_stand_in() as prometheus:
            prometheus.say({}, 503)
            async with following(tmp_path, server, prometheus.url) as published:
                await until(lambda: published and published[-1].models)
                assert prometheus.queries() == ["a{m='first',v='new'}"]
                assert published[-1].problems == ()


async def test_the_registry_is_told_what_has_every_request_and_a_refusal_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_back, "AFTER_FAILURE_S", 0.1)
    refuses = True

    def registry(head: str) -> bytes:
        if head.startswith("POST"):
            return http("403 No", b"") if refuses else http("200 OK", b"{}")
        if "registered-models/alias" in head:
            return http("400 Bad", b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no alias"}')
        version = {"name": "digits", "version": 1, "source": "models:/m-1"}
        return http("200 OK", json.dumps({"model_version": version, "artifact_uri": "s3://bucket/digits"}).encode())

    with stand_in() as server:
        async with registry_stand_in(registry) as mlflow:
            model_id = key("version", mlflow.uri, "digits", 1, "models:/m-1", 0)
            had_all = {
                "version": "1",
                "modelId": model_id,
                "uri": "models:/digits/1",
                "outcome": "Succeeded",
                "ended": "t",
            }
            status = ModelDeploymentStatus.model_validate({"history": [had_all]})
            asked = {"trackingUri": mlflow.uri, "writeBack": {"alias": "live"}}
            write_model(tmp_path, "digits", "models:/digits/1", registry=asked)
            async with following(tmp_path, server, before={"digits": status}) as published:
                await until(lambda: published and published[-1].statuses)
                await until(lambda: degraded(published[-1]) == "WriteBackFailed")
                refuses = False
                await until(lambda: published[-1].statuses["digits"].written_back)
                await until(lambda: degraded(published[-1]) != "WriteBackFailed")
                told = published[-1].statuses["digits"].written_back
                assert told is not None
                assert (told.model, told.version, told.alias, told.tag) == ("digits", "1", "live", "")
            writes = [head for head in mlflow.requests if head.startswith("POST")]
    assert all("/registered-models/alias " in head for head in writes)


def degraded(status: Status) -> str:
    return status.models[0].condition("Degraded").reason if status.models else ""


NODE = {
    "node_id": "0123456789",
    "node_name": "127.0.0.1",
    "is_head_node": True,
    "state": "ALIVE",
    "resources_total": {"CPU": 3.0, "GPU": 1.0, "memory": 2.0**30},
}


async def test_who_finds_no_room_on_the_machine_is_not_given_to_serve(tmp_path: Path, models: dict[int, Path]) -> None:
    write_model(tmp_path, "first", models[1])
    write_model(tmp_path, "second", models[1], resources={"cpu": "1"})
    with stand_in() as server:
        server.nodes = [NODE]
        async with following(tmp_path, server) as published:
            await until(lambda: published and len(published[-1].models) == 2)
            await until(lambda: "InsufficientCapacity" in state_of(published[-1], "second"))
            await until(lambda: given(server) == ["first", "router"])
            await until(lambda: "Deploying" in state_of(published[-1], "first"))
            assert given(server) == ["first", "router"]
            assert "needs 1 CPU, 0.5 free on one worker" in message_of(published[-1], "second")
            assert published[-1].places is not None
            assert published[-1].places.waiting[0].model == "second"


def given(server: StandIn) -> list[str]:
    """What Serve was given: the router, and models by name."""
    return [app["name"].split("-")[0] for app in (server.config or {}).get("applications", [])]


def state_of(status: Status, model: str) -> str:
    return next(view.state(each) for each in status.models if each.name == model)


def message_of(status: Status, model: str) -> str:
    return next(view.message(each) for each in status.models if each.name == model)


async def test_nobody_is_let_in_before_ray_has_told_what_it_has_or_failed_to_for_long() -> None:
    with stand_in() as server:
        server.answer = (500, b"not yet")
        async with NodeClient(server.url) as client:
            nodes = Nodes(client)
            for _ in range(TRIES - 1):
                with pytest.raises(ServeError):
                    await nodes.room()
            assert await nodes.room() is None, "this Ray may never tell"
        server.answer, server.nodes = None, [NODE]
        async with NodeClient(server.url) as client:
            nodes = Nodes(client)
            known = await nodes.room()
            assert known is not None
            server.answer = (500, b"gone")
            nodes._asked = float("-inf")
            assert await nodes.room() == known, "it has what it had"
