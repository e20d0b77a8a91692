"""Whether a fleet answers where its users ask."""

from __future__ import annotations

import time

import pytest
from aiohttp import web

from rayfleet_operator.ray.address import TIMEOUT_S, AddressClient

from .stand_in import StandIn
from .test_bounds import server as answering


@pytest.mark.parametrize(("status", "answers"), [(200, True), (503, False), (404, False)])
async def test_a_router_s_answer_counts(server: StandIn, status: int, answers: bool) -> None:
    server.answer = (status, b"{}")
    async with AddressClient(server.url) as address:
        assert await address.answers() is answers


async def test_nobody_there_is_no_answer(closed_port: str) -> None:
    async with AddressClient(closed_port) as address:
        assert not await address.answers()


async def test_each_question_goes_the_way_that_the_service_leads_now() -> None:
    came_from: list[object] = []

    async def live(request: web.Request) -> web.Response:
        assert request.transport is not None
        came_from.append(request.transport.get_extra_info("peername"))
        return web.json_response({"live": True})

    async with answering(live) as url, AddressClient(url) as address:
        assert [await address.answers() for _ in range(3)] == [True] * 3
    assert len(set(came_from)) == 3, "a kept connection leads where the Service led before"


async def test_silence_is_no_answer_and_is_bounded(server: StandIn) -> None:
    server.hold = True
    began = time.monotonic()
    async with AddressClient(server.url) as address:
        assert not await address.answers()
    # A busy machine may add to the bound itself.
    assert time.monotonic() - began < 5 * TIMEOUT_S
