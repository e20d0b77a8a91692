"""What is known of the routers when they answer, and when they do not."""

from __future__ import annotations

import time

import pytest

from rayfleet_operator.ray.routers import TIMEOUT_S, RouterClient
from rayfleet_serving.config import RouterState, RouterVersionState, TrafficReport

from .stand_in import StandIn

STATES = [
    RouterState(
        replica=name,
        table="0" * 16,
        models={"m": "1" * 16},
        versions={"a": RouterVersionState(ready=True, ongoing=2, queued=1)},
    )
    for name in ("r1", "r2")
]


async def test_every_router_s_state(server: StandIn) -> None:
    server.answer = (200, TrafficReport(routers=STATES).model_dump_json().encode())
    async with RouterClient(server.url) as routers:
        assert await routers.states() == tuple(STATES)


@pytest.mark.parametrize(
    "answer",
    [(503, b"unavailable"), (404, b""), (200, b""), (200, b"<html>"), (200, b'{"routers": [{"replica": "r1"}]}')],
)
async def test_any_other_answer_tells_nothing(server: StandIn, answer: tuple[int, bytes]) -> None:
    server.answer = answer
    async with RouterClient(server.url) as routers:
        assert await routers.states() == ()


async def test_nobody_there_tells_nothing(closed_port: str) -> None:
    async with RouterClient(closed_port) as routers:
        assert await routers.states() == ()


async def test_silence_tells_nothing_and_is_bounded(server: StandIn) -> None:
    server.hold = True
    began = time.monotonic()
    async with RouterClient(server.url) as routers:
        assert await routers.states() == ()
    # Well below httpx's and Serve's own bounds; a busy machine may add to the bound itself.
    assert time.monotonic() - began < 5 * TIMEOUT_S
