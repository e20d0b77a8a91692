"""Which replica a call goes to. Links and servers are real; Serve's list of replicas is a stand-in."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from rayfleet_serving.config import Wanted
from rayfleet_serving.link.call import Call, Reply, RouterLoad, Timing
from rayfleet_serving.link.server import LinkServer
from rayfleet_serving.router.replicas import Replicas

CALL = Call({"x": np.zeros((1, 1))}, [1], "tensors", {}, [5.0])


class Wants:
    """A replica's own view of how many there must be."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas

    def told(self, router: object, load: RouterLoad) -> Wanted:
        return Wanted(replicas=self.replicas, reason="why")

    def gone(self, router: object) -> None: ...


class Served:
    """Replicas that answer once they may, and how many calls each had."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.go = asyncio.Event()
        self.go.set()

    async def start(self, name: str) -> LinkServer:
        async def infer(call: Call) -> Reply:
            self.calls[name] += 1
            await self.go.wait()
            return Reply({"y": np.zeros((1, 1))}, [1], "array", {}, Timing(0.0, 0.0, 0.0))

        return LinkServer(infer, replica=name, host="127.0.0.1", audience=Wants(len(name)))


@contextlib.asynccontextmanager
async def replicas(served: Served, *names: str) -> AsyncIterator[Replicas]:
    servers = [await served.start(name) for name in names]
    endpoints = [await server.start() for server in servers]
    listed = {
        name: SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), replica_metadata={"endpoint": list(endpoint)})
        for name, endpoint in zip(names, endpoints, strict=True)
    }
    router = SimpleNamespace(request_router=SimpleNamespace(curr_replicas=listed))
    handle: Any = SimpleNamespace(app_name="m", _router=SimpleNamespace(_asyncio_router=router))
    found = Replicas(handle)
    try:
        async with asyncio.timeout(60):
            while len(found) < len(names):
                await asyncio.sleep(0.01)
        yield found
    finally:
        found.close()
        for server in servers:
            server.close()


async def test_calls_one_after_the_other_go_to_all_replicas_in_turn() -> None:
    served = Served()
    async with replicas(served, "a", "b", "c") as found:
        for _ in range(9):
            await found.infer(CALL)
    assert served.calls == {"a": 3, "b": 3, "c": 3}


async def test_a_call_goes_to_the_replica_with_the_fewest() -> None:
    served = Served()
    async with replicas(served, "a", "b") as found:
        served.go.clear()
        tasks = [asyncio.ensure_future(found.infer(CALL)) for _ in range(5)]
        async with asyncio.timeout(60):
            while served.calls.total() < 5:
                await asyncio.sleep(0.01)
        served.go.set()
        await asyncio.gather(*tasks)
    assert sorted(served.calls.values()) == [2, 3]


async def test_the_largest_number_that_a_replica_wants_counts() -> None:
    async with replicas(Served(), "aa", "bbbb", "c") as found:
        assert found.wanted is None
        found.tell(RouterLoad(1.0, {}, 3))
        async with asyncio.timeout(60):
            while not all(link.wanted for link in found._links.values()):
                await asyncio.sleep(0.01)
        assert found.wanted == Wanted(replicas=4, reason="why")
