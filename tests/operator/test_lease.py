"""Leader election with an API server whose answers do not come, or come too late. The server is a stand-in."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from aiohttp import web
from fake_clock import Clock
from kube_stand_in import api_server, refusal

from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.lease import Lease, LeaseLost, Pace

Json = dict[str, Any]


class LeaseServer:
    """Holds one Lease as an API server does.

    A request on a connection that hangs never arrives, nor does any while it is deaf. While it is mute, what is written
    is done and not answered. While it is broken, nothing is, and it says so.
    """

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.writes = 0
        self.connections: set[object] = set()
        self.hanging: set[object] = set()
        self.mute = False
        self.deaf = False
        self.broken = False
        self.in_vain = 0
        self.meanwhile: Callable[[], None] = lambda: None
        """Called for each request while it is broken."""

    async def answer(self, request: web.Request) -> web.Response:
        self.connections.add(request.transport)
        if self.deaf or request.transport in self.hanging:
            await asyncio.sleep(3600)
        if self.broken:
            self.in_vain += 1
            self.meanwhile()
            return refusal(500, "InternalError")
        if request.method == "GET":
            return web.json_response(self.lease) if self.lease is not None else refusal(404, "NotFound")
        answer = self.write(await request.json())
        if self.mute:
            await asyncio.sleep(3600)
        return answer

    def write(self, obj: Json) -> web.Response:
        version = self.lease["metadata"]["resourceVersion"] if self.lease is not None else None
        if obj["metadata"].get("resourceVersion") != version:
            return refusal(409, "Conflict")
        self.writes += 1
        self.lease = obj | {"metadata": obj["metadata"] | {"resourceVersion": str(self.writes)}}
        return web.json_response(self.lease)

    @property
    def holder(self) -> object:
        return self.lease["spec"]["holderIdentity"] if self.lease is not None else None


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def candidate(
    server: LeaseServer, pace: Pace, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Lease]:
    async with api_server(server.answer) as connection, KubeClient(connection) as client:
        yield Lease(client, namespace="ml", name="l", identity="first", pace=pace, clock=clock)


async def test_a_connection_that_hangs_does_not_cost_the_lease() -> None:
    server = LeaseServer()
    async with candidate(server, Pace(renew_s=8, retry_s=0.1, attempt_s=0.5)) as lease:
        await lease.acquire()
        keeping = asyncio.create_task(lease.keep())
        await until(lambda: server.writes >= 3)
        server.hanging = set(server.connections)
        before = server.writes
        await until(lambda: server.writes >= before + 3 or keeping.done())
        assert not keeping.done()
        assert len(server.connections) > len(server.hanging), "it dialled anew"
        keeping.cancel()


async def test_a_process_that_had_no_cpu_for_longer_than_a_lease_asks_before_it_stops() -> None:
    server, clock, pace = LeaseServer(), Clock(), Pace(retry_s=0.05)
    async with candidate(server, pace, clock) as lease:
        await lease.acquire()
        keeping = asyncio.create_task(lease.keep())
        for _ in range(3):
            before = server.writes
            await until(lambda before=before: server.writes > before or keeping.done())
            clock.forward(2 * pace.lease_s)
        before = server.writes
        await until(lambda: server.writes > before + 1 or keeping.done())
        assert not keeping.done()
        clock.forward(2 * pace.lease_s)
        renew(server, "second")
        async with asyncio.timeout(30):
            with pytest.raises(LeaseLost, match="second holds the Lease"):
                await keeping


LONG = Pace(lease_s=1000, renew_s=100, retry_s=0.01, attempt_s=20)
"""By a clock that stands unless it is forwarded; in real time it bounds nothing here."""


async def test_a_process_that_had_no_cpu_while_it_asked_asks_again() -> None:
    server, clock = LeaseServer(), Clock()

    def stands_still() -> None:
        clock.forward(120)
        server.broken = False

    def stands_still_while_another_takes_it() -> None:
        stands_still()
        renew(server, "second")

    async with candidate(server, LONG, clock) as lease:
        await lease.acquire()
        server.meanwhile = stands_still
        keeping = asyncio.create_task(lease.keep())
        for _ in range(3):
            server.broken = True
            await until(lambda: not server.broken or keeping.done())
            before = server.writes
            await until(lambda before=before: server.writes > before or keeping.done())
            assert not keeping.done()
        server.meanwhile = stands_still_while_another_takes_it
        server.broken = True
        async with asyncio.timeout(30):
            with pytest.raises(LeaseLost, match="second holds the Lease"):
                await keeping


async def test_a_process_that_had_no_cpu_between_its_tries_asks_again() -> None:
    server, clock = LeaseServer(), Clock()

    def stands_still() -> None:
        server.broken = False
        asyncio.get_running_loop().call_later(0.2, clock.forward, 120)

    async with candidate(server, dataclasses.replace(LONG, retry_s=1), clock) as lease:
        await lease.acquire()
        keeping = asyncio.create_task(lease.keep())
        server.meanwhile = stands_still
        server.broken = True
        await until(lambda: not server.broken)
        before = server.writes
        await until(lambda: server.writes > before or keeping.done())
        assert not keeping.done()
        keeping.cancel()


@pytest.mark.parametrize(
    ("tries_take", "tries"),
    [
        pytest.param([20, 20, 20, 20, 20], 5, id="no longer than they may"),
        pytest.param([120, 20], 2, id="one stands still beyond the deadline"),
        pytest.param([120, 120], 2, id="so does the one after it"),
        pytest.param([85, 15, 20], 3, id="one stands still and the next has not all its time"),
        pytest.param([22, 20, 20, 20, 18], 5, id="one stands still and the next has all its time"),
    ],
)
async def test_a_lease_is_lost_when_all_tries_are_in_vain(tries_take: list[float], tries: int) -> None:
    server, clock, left = LeaseServer(), Clock(), iter(tries_take)
    async with candidate(server, LONG, clock) as lease:
        await lease.acquire()
        server.meanwhile = lambda: clock.forward(next(left))
        server.broken = True
        async with asyncio.timeout(30):
            with pytest.raises(LeaseLost, match="could not be renewed for 100 s"):
                await lease.keep()
    assert server.in_vain == tries


async def test_a_lease_is_given_up_whose_last_renewal_got_no_answer() -> None:
    server = LeaseServer()
    async with candidate(server, Pace(retry_s=0.01)) as lease:
        await lease.acquire()
        server.mute = True
        before = server.writes
        await cut_off(lease.keep(), lambda: server.writes > before)
        server.mute = False
        await lease.release()
    assert server.holder == ""


async def test_a_lease_is_given_up_that_was_taken_without_an_answer() -> None:
    server = LeaseServer()
    server.mute = True
    async with candidate(server, Pace()) as lease:
        await cut_off(lease.acquire(), lambda: server.holder == "first")
        server.mute = False
        await lease.release()
    assert server.holder == ""


async def test_a_renewal_that_arrives_late_does_not_keep_the_lease() -> None:
    server = LeaseServer()
    async with candidate(server, Pace()) as lease:
        await lease.acquire()
        renew(server, "first")
        await lease.release()
    assert server.holder == ""


@pytest.mark.parametrize("state", ["mute", "deaf"])
async def test_a_lease_is_given_up_as_soon_as_the_api_server_answers_again(state: str) -> None:
    server = LeaseServer()
    async with candidate(server, Pace(retry_s=0.01, attempt_s=0.2)) as lease:
        await lease.acquire()
        setattr(server, state, True)
        asked = len(server.connections)
        releasing = asyncio.create_task(lease.release(within_s=60))
        await until(lambda: len(server.connections) > asked or releasing.done())
        setattr(server, state, False)
        await releasing
    assert server.holder == ""


async def test_what_does_not_answer_is_asked_no_longer_than_there_is_time(caplog: pytest.LogCaptureFixture) -> None:
    server = LeaseServer()
    async with candidate(server, Pace(retry_s=0.01, attempt_s=0.1)) as lease:
        await lease.acquire()
        server.deaf = True
        async with asyncio.timeout(30):
            await lease.release(within_s=0.5)
    assert "could not be given up and will run out by itself: no answer" in caplog.text


async def test_what_another_took_meanwhile_is_not_given_up() -> None:
    server = LeaseServer()
    async with candidate(server, Pace()) as lease:
        await lease.acquire()
        renew(server, "second")
        await lease.release()
        await lease.release()
    assert server.holder == "second"


async def cut_off(work: Coroutine[Any, Any, None], when: Callable[[], bool]) -> None:
    """Cancels the work once it is so."""
    working = asyncio.create_task(work)
    await until(when)
    working.cancel()
    await asyncio.wait([working])
    assert working.cancelled()


def renew(server: LeaseServer, holder: str) -> None:
    """Another renewal, of which the candidate does not know."""
    assert server.lease is not None
    server.write(server.lease | {"spec": server.lease["spec"] | {"holderIdentity": holder}})
