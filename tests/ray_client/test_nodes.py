"""What a Ray says that its nodes offer; seen of Ray 2.60, and of what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rayfleet_operator.ray import nodes
from rayfleet_operator.ray.nodes import NodeClient
from rayfleet_operator.ray.serve import ServeUnreachable

from .stand_in import stand_in


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in answers at once, but may have no CPU for seconds."""
    monkeypatch.setattr(nodes, "TIMEOUT_S", 60.0)


def node(name: str, *, head: bool = False, state: str = "ALIVE", **total: float) -> dict[str, Any]:
    resources = {f"node:{name}": 1.0, "object_store_memory": 1e8, **total}
    return {
        "node_id": f"{name}-0123456789abcdef",
        "node_ip": name,
        "is_head_node": head,
        "state": state,
        "node_name": name,
        "resources_total": resources,
    }


def answer(*nodes: dict[str, Any]) -> bytes:
    return json.dumps({"result": True, "msg": "", "data": {"result": {"total": len(nodes), "result": nodes}}}).encode()


async def test_each_node_that_lives_is_a_worker() -> None:
    dead = node("10.0.0.3", state="DEAD", CPU=64.0)
    with stand_in() as server:
        server.answer = (
            200,
            answer(node("10.0.0.2", CPU=8.0, GPU=2.0, memory=4.0 * 2**30), dead, node("a", head=True)),
        )
        async with NodeClient(server.url, gpu_memory=2**30) as client:
            room = await client.room()
    assert room is not None
    workers = [kind.worker for kind in room.kinds]
    assert [(each.cpus, each.gpus, each.memory) for each in workers] == [(0, 0, 0), (8, 2, 4 * 2**30)]
    assert [each.group for each in workers] == ["a a-012345", "10.0.0.2 10.0.0.2"]
    assert workers[1].gpu_memory == 2**30
    assert {(kind.least, kind.most) for kind in room.kinds} == {(1, 1)}


async def test_the_one_node_of_a_ray_is_the_machine() -> None:
    with stand_in() as server:
        server.answer = (200, answer(node("127.0.0.1", head=True, CPU=16.0, GPU=1.0)))
        async with NodeClient(server.url) as client:
            room = await client.room()
    assert room is not None
    assert [kind.worker.group for kind in room.kinds] == ["machine"]
    assert room.kinds[0].worker.gpu_memory is None


async def test_a_ray_without_this_api_tells_nothing() -> None:
    with stand_in() as server:
        async with NodeClient(server.url) as client:
            assert await client.room() is None


@pytest.mark.parametrize(
    "given",
    [
        (500, b"gone"),
        (403, b"invalid token"),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"data": {"result": {"result": [{"state": "ALIVE"}]}}}'),
        (200, b"[" * 100_000),
    ],
)
async def test_another_answer_is_none(given: tuple[int, bytes]) -> None:
    with stand_in() as server:
        server.answer = given
        async with NodeClient(server.url) as client:
            with pytest.raises(ServeUnreachable, match="api/v0/nodes"):
                await client.room()


async def test_nobody_answers() -> None:
    async with NodeClient("http://127.0.0.1:9") as client:
        with pytest.raises(ServeUnreachable):
            await client.room()
