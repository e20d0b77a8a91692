"""What routers tell replicas of the load, and what these answer, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_serving.config import Wanted
from rayfleet_serving.link import client, frame
from rayfleet_serving.link.call import Call, Reply, RouterLoad, Timing
from rayfleet_serving.link.client import Link
from rayfleet_serving.link.frame import Reader
from rayfleet_serving.link.server import LinkServer

LOAD = RouterLoad(12.5, {3: 40, 287: 2}, 2)


class Replica:
    """Wants one for each request that it is told of."""

    def __init__(self) -> None:
        self.heard: dict[object, RouterLoad] = {}

    def told(self, router: object, load: RouterLoad) -> Wanted | None:
        self.heard[router] = load
        return Wanted(replicas=round(load.ongoing), reason="because") if load.ongoing else None

    def gone(self, router: object) -> None:
        self.heard.pop(router, None)


async def double(call: Call) -> Reply:
    return Reply({"y": call.inputs["x"] * 2}, call.sizes, "array", {}, Timing(0, 0, 0))


@contextlib.asynccontextmanager
async def linked(replica: Replica | None) -> AsyncIterator[Link]:
    server = LinkServer(double, replica="r1", host="127.0.0.1", audience=replica)
    link = await Link.connect(await server.start(), lambda link: None)
    try:
        yield link
    finally:
        link.close()
        server.close()


async def until(met: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not met():
            await asyncio.sleep(0.001)


async def answers(link: Link) -> None:
    """Calls go through."""
    reply = await link.infer(Call({"x": np.ones((1, 1))}, [1], "tensors", {}, [30.0]))
    assert reply.outputs["y"].item() == 2.0


async def test_a_replica_is_told_and_says_how_many_there_must_be() -> None:
    replica = Replica()
    async with linked(replica) as link:
        assert link.wanted is None
        link.tell(LOAD)
        await until(lambda: link.wanted)
        assert link.wanted == Wanted(replicas=12, reason="because")
        assert list(replica.heard.values()) == [LOAD]
    await until(lambda: not replica.heard)


async def test_what_was_told_does_not_hold_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with linked(Replica()) as link:
        link.tell(LOAD)
        await until(lambda: link.wanted)
        monkeypatch.setattr(client, "TOLD_S", 0.0)
        assert link.wanted is None


async def test_a_replica_that_knows_no_loads_goes_on_answering() -> None:
    async with linked(None) as link:
        link.tell(LOAD)
        await answers(link)
        assert link.wanted is None


def send(link: Link, *header: Any) -> None:
    assert link._transport is not None
    link._transport.writelines(frame._frame(list(header), {}))


@pytest.mark.parametrize(
    "header",
    [
        (6, 0), (6, 0, 1), (6, 0, "a", {}, 1), (6, 0, 1.0, {"a": "b"}, 1), (6, 0, 1.0, [], 1), (6, 0, None, None, None),
        (99, 0, "of a later release"), (-1, 0), ("text", 0),
    ],
)  # fmt: skip
async def test_what_cannot_be_read_costs_no_call_its_connection(header: tuple[Any, ...]) -> None:
    replica = Replica()
    async with linked(replica) as link:
        send(link, *header)
        await answers(link)
        link.tell(LOAD)
        await until(lambda: link.wanted)


@pytest.mark.parametrize("rest", [(), (-1, "x"), ("many", "x"), (1,), (1, 2), (None, None)])
async def test_nor_does_a_number_that_is_none(rest: tuple[Any, ...]) -> None:
    async with linked(Replica()) as link:
        link._on_frame([frame.Type.NEED, 0, *rest], memoryview(b""))
        assert link.wanted is None
        await answers(link)


@given(
    st.builds(
        RouterLoad,
        st.floats(0, 1e9),
        st.dictionaries(st.integers(0, 287), st.integers(0, 2**40)),
        st.integers(0, 100_000),
    )
)
def test_a_load_comes_out_as_it_went_in(load: RouterLoad) -> None:
    frames: list[list[Any]] = []
    Reader(lambda header, body: frames.append(header), limit=1 << 20).feed(
        b"".join(map(bytes, cast("list[bytes]", frame.load(load))))
    )
    assert frame.read_load(frames[0]) == load
