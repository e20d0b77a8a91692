"""One of three models turns hostile: the two others answer every request, and its status says what it did.

`-s` shows the figures. On a machine without a GPU: the cap is one of the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from closed_loop import Load, closed_loop, until
from hostile import ANSWER, BODY, GOOD, HOSTILE, MEMORY, Neighbours
from rayfleet_up import RayfleetUp

from rayfleet_operator.plan.conditions import Reason

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory) -> Neighbours:
    return Neighbours(tmp_path_factory.mktemp("neighbours"))


@pytest.fixture(scope="module")
def up(neighbours: Neighbours) -> Iterator[RayfleetUp]:
    with RayfleetUp([neighbours.deployments], folder=neighbours.deployments.parent / "up") as up:
        up.wait_ready(*GOOD, HOSTILE)
        yield up


@asynccontextmanager
async def asked(up: RayfleetUp) -> AsyncIterator[dict[str, Load]]:
    """All three, by two clients each."""
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(closed_loop(up.url, f"/{name}/predict", BODY, clients=2))
            for name in (*GOOD, HOSTILE)
        }


def said(up: RayfleetUp, name: str = HOSTILE) -> tuple[str, str]:
    """Reason and message of what is wrong with a model."""
    shown = up.model(name)
    if shown is None:
        return "", ""
    degraded = shown.condition("Degraded")
    return degraded.reason, degraded.message


def answers_again(up: RayfleetUp) -> bool:
    try:
        answer = httpx.post(f"{up.url}/{HOSTILE}/predict", json=BODY, timeout=5, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and answer.json()["predictions"] == [ANSWER]


@pytest.mark.parametrize(
    ("mood", "reason", "words"),
    [
        ("hoards", Reason.OUT_OF_MEMORY, f"its {MEMORY.removesuffix('Mi')} MiB of memory"),
        ("spins", Reason.STUCK, "computed one batch for more than 60 s"),
        ("crashes", Reason.REPLICAS_DIE, "at least 3 of its replicas died"),
    ],
)
async def test_the_others_answer_every_request(
    mood: str, reason: Reason, words: str, up: RayfleetUp, neighbours: Neighbours
) -> None:
    before = {name: set(up.replicas(name)) for name in GOOD}
    (victim,) = up.replicas(HOSTILE)
    async with asked(up) as loads:
        await until("load", lambda: all(len(load.answers) > 50 for load in loads.values()))
        neighbours.turn(mood)
        await asyncio.to_thread(
            up.wait, f"the status says {reason}; it says {said(up)}", lambda: said(up)[0] == reason, 180
        )
        assert words in said(up)[1]
        if mood != "hoards":  # what it does at once it would do again: until it has lived a while it is only told of
            await until("another replica", lambda: set(up.replicas(HOSTILE)) - {victim}, 120)
        seen = {name: len(loads[name].answers) for name in GOOD}
        await until("more answers of the others", lambda: all(len(loads[n].answers) > seen[n] + 100 for n in GOOD))
        neighbours.turn("behaves")
        await until("it answers again", lambda: answers_again(up), 120)
    for name, load in loads.items():
        print(f"\n{mood}, {name}: {load.summary()}")
    for name in GOOD:
        assert loads[name].failed == []
        assert set(up.replicas(name)) == before[name], "none of their processes was replaced"
    assert {answer.status for answer in loads[HOSTILE].failed} <= {413, 422, 503, 504}


async def test_one_that_does_not_fit_is_not_served_and_its_status_has_the_number(
    up: RayfleetUp, neighbours: Neighbours
) -> None:
    async with asked(up) as loads:
        file = await asyncio.to_thread(neighbours.add_heavy)
        await asyncio.to_thread(up.wait, "it failed", lambda: said(up, "heavy")[0] == Reason.OUT_OF_MEMORY, 120)
        assert "it needs more than its 700 MiB of memory to be loaded: MemoryError: " in said(up, "heavy")[1]
        file.unlink()
        await asyncio.to_thread(up.wait, "it is gone", lambda: up.model("heavy") is None)
    assert [loads[name].failed for name in GOOD] == [[], []]
    assert {answer.status for answer in loads[HOSTILE].failed} <= {504}, "it has a second, and heavy takes both cores"
