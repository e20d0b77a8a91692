"""What a router knows of what ails a version's replicas, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from closed_loop import until

from rayfleet_serving.config import RouterVersionState, VersionTrouble
from rayfleet_serving.link import frame
from rayfleet_serving.link.call import Call, Reply, Trouble
from rayfleet_serving.link.server import LinkServer
from rayfleet_serving.router import replicas
from rayfleet_serving.router.replicas import DEATHS, Replicas

STUCK = Trouble("Stuck", "model a, version 1, computed one batch for more than 65 s")


class Version:
    """Replicas that Serve lists, and the links of one router to them."""

    def __init__(self) -> None:
        self.listed: dict[str, Any] = {}
        chosen = SimpleNamespace(curr_replicas=self.listed)
        self.handle: Any = SimpleNamespace(
            app_name="a", _router=SimpleNamespace(_asyncio_router=SimpleNamespace(request_router=chosen))
        )
        self.router = Replicas(self.handle)
        self.servers: dict[str, LinkServer] = {}

    async def start(self, name: str) -> LinkServer:
        async def infer(call: Call) -> Reply:
            raise AssertionError("nobody asks")

        server = self.servers[name] = LinkServer(infer, replica=name, host="127.0.0.1")
        endpoint = await server.start()
        self.listed[name] = SimpleNamespace(
            replica_id=SimpleNamespace(unique_id=name), replica_metadata={"endpoint": list(endpoint)}
        )
        await until(f"{name} is connected", lambda: len(self.router) == len(self.listed))
        return server

    async def cut(self, name: str) -> None:
        """The connection to it, for whatever reason."""
        links = dict(self.router._links)
        for connection in list(self.servers[name]._connections):
            assert connection._transport is not None
            connection._transport.abort()
        await until(f"the link to {name} is lost", lambda: self.router._links.get(name) is not links[name])

    async def die(self, name: str) -> None:
        """As the kernel closes a dead process' sockets; Serve notices later."""
        self.servers[name].close()
        await self.cut(name)
        del self.servers[name]
        del self.listed[name]

    async def leave(self, name: str) -> None:
        """As Serve stops it."""
        del self.listed[name]
        await until(f"{name} has left", lambda: len(self.router) == len(self.listed))

    @property
    def reasons(self) -> list[str]:
        return [trouble.reason for trouble in self.router.troubles()]


@pytest.fixture
async def version() -> AsyncIterator[Version]:
    version = Version()
    yield version
    version.router.close()
    for server in version.servers.values():
        server.close()


async def test_it_is_told_and_taken_back(version: Version) -> None:
    server = await version.start("r1")
    server.tell(STUCK)
    await until("it is known", lambda: version.router.troubles() == [STUCK])
    server.tell(None)
    await until("it is over", lambda: version.router.troubles() == [])


async def test_a_router_that_comes_later_is_told_as_well(version: Version) -> None:
    server = await version.start("r1")
    server.tell(STUCK)
    late = Replicas(version.handle)
    try:
        await until("it is known", lambda: late.troubles() == [STUCK])
    finally:
        late.close()


async def test_what_ailed_a_replica_that_is_gone_is_kept_for_a_while(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await version.start("r1")
    server.tell(STUCK)
    await until("it is known", lambda: version.reasons)
    await version.die("r1")
    await version.start("r2")
    assert version.router.troubles() == [STUCK]
    monkeypatch.setattr(replicas, "KEPT_S", 0.0)
    assert version.router.troubles() == []


async def test_replicas_that_die_again_and_again_are_told_of(version: Version) -> None:
    for number in range(DEATHS):
        assert version.reasons == []
        await version.start(f"r{number}")
        await version.die(f"r{number}")
    assert version.reasons == ["ReplicasDie"]


async def test_one_replica_whose_connections_break_has_not_died(version: Version) -> None:
    await version.start("r")
    for _ in range(2 * DEATHS):
        await version.cut("r")
        await until("it is connected again", lambda: len(version.router) == 1)
    assert version.reasons == []


async def test_replicas_that_serve_still_lists_have_not_died(version: Version) -> None:
    names = [f"r{number}" for number in range(DEATHS)]
    for name in names:
        await version.start(name)
    for name in names:
        version.servers[name].close()
        await version.cut(name)
    assert version.reasons == []
    version.listed.clear()
    assert version.reasons == ["ReplicasDie"]


async def test_what_is_kept_of_replicas_that_ended_is_bounded(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "KEPT_S", 0.0)
    for number in range(4):
        await version.start(f"r{number}")
        await version.die(f"r{number}")
    assert len(version.router._ended) <= 1, "though nobody asked"


@pytest.mark.parametrize("said", [["Stuck", "a", "more"], ["Stuck"], "Stuck", 7, ["a", None]])
async def test_a_trouble_of_a_later_release_costs_no_connection(version: Version, said: Any) -> None:
    server = await version.start("r")
    link = version.router._links["r"]
    (connection,) = server._connections
    assert connection._transport is not None
    connection._transport.writelines(frame._frame([frame.Type.TROUBLE, -1, said], {}))
    server.tell(STUCK)
    await until("the next is known", lambda: version.router.troubles() == [STUCK])
    assert version.router._links["r"] is link


async def test_of_a_trouble_with_more_to_it_what_is_known_is_told(version: Version) -> None:
    server = await version.start("r")
    server.tell(("Stuck", "a", "more"))  # type: ignore[arg-type]
    await until("it is known", lambda: version.router.troubles() == [Trouble("Stuck", "a")])


async def test_the_newest_comes_first(version: Version) -> None:
    server = await version.start("r")
    server.tell(STUCK)
    await until("it is known", lambda: version.reasons)
    await version.die("r")
    for number in range(DEATHS):
        await version.start(f"r{number}")
        await version.die(f"r{number}")
    assert version.reasons == ["ReplicasDie", "Stuck"]
    full = Trouble("OutOfMemory", "model a, version 1, takes all")
    (await version.start("last")).tell(full)
    await until("it is known", lambda: version.reasons == ["OutOfMemory", "ReplicasDie", "Stuck"])


async def test_replicas_that_serve_stops_have_not_died(version: Version) -> None:
    for number in range(2 * DEATHS):
        await version.start(f"r{number}")
        await version.leave(f"r{number}")
    assert version.reasons == []


async def test_each_is_told_once(version: Version) -> None:
    for name in ("r1", "r2"):
        (await version.start(name)).tell(STUCK)
    await until("it is known", lambda: version.reasons == ["Stuck"])


def test_a_state_without_troubles_is_what_an_older_operator_reads() -> None:
    state = RouterVersionState(ready=True, ongoing=0, queued=0)
    assert "troubles" not in state.model_dump()
    ailing = RouterVersionState(ready=True, ongoing=0, queued=0, troubles=[VersionTrouble(reason="Stuck", message="a")])
    assert RouterVersionState.model_validate_json(ailing.model_dump_json()) == ailing
