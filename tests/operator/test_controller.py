"""How reconciles end, and what is said of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from rayfleet_operator.controller import Controller, Result
from rayfleet_operator.kube.errors import Unreachable
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.metrics import Metrics
from rayfleet_operator.settings import Settings

KEY = FleetKey("ml", "vision")


class Reconciler:
    def __init__(self, work: Callable[[], Awaitable[Result]]) -> None:
        self._work = work
        self.calls = 0

    async def reconcile(self, key: FleetKey) -> Result:
        self.calls += 1
        return await self._work()


@asynccontextmanager
async def working(controller: Controller, reconciler: Reconciler) -> AsyncIterator[None]:
    worker = asyncio.create_task(controller.work(reconciler))
    controller.queue.add(KEY)
    try:
        yield
    finally:
        controller.queue.shut_down()
        worker.cancel()
        await asyncio.wait([worker])


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.01)


def errors(metrics: Metrics) -> float | None:
    labels = {"controller": "fleet"}
    return metrics.registry.get_sample_value("controller_runtime_reconcile_errors_total", labels)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            Unreachable("cannot get Secret a: the API server fell silent"),
            "cannot get Secret a: the API server fell silent",
        ),
        (KeyError("spec"), "KeyError: 'spec'"),
        (TimeoutError(), "TimeoutError: "),
        (ExceptionGroup("several", [Unreachable("down"), Unreachable("down"), KeyError("a")]), "down; KeyError: 'a'"),
    ],
)
async def test_a_failure_is_said_in_one_line_and_tried_again(
    error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> Result:
        raise error

    metrics = Metrics()
    controller = Controller(Settings(), metrics)
    with caplog.at_level(logging.INFO):
        async with working(controller, Reconciler(fail)):
            await until(lambda: errors(metrics) == 2)

    lines = [record.message for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("The reconcile failed; again in 0.")
    assert lines[0].endswith(f" s: {said}")


async def test_a_reconcile_that_takes_too_long_is_cancelled_and_fails(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()

    async def hang() -> Result:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return Result()

    metrics = Metrics()
    controller = Controller(Settings(reconcile_deadline_s=0.05), metrics)
    async with working(controller, Reconciler(hang)):
        await until(lambda: errors(metrics) == 1)
    assert ended.is_set()
    assert "it took longer than 0.05 s" in caplog.text


async def test_a_success_forgets_failures_and_comes_back_when_it_asked_to() -> None:
    outcomes: list[Exception | Result] = [ValueError(), Result(requeue_after=0.01), Result()]

    async def play() -> Result:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    metrics = Metrics()
    controller = Controller(Settings(), metrics)
    reconciler = Reconciler(play)
    async with working(controller, reconciler):
        await until(lambda: reconciler.calls == 3 and controller.queue.active == 0)
        assert controller.queue.add_rate_limited(KEY) < 0.7, "as after a first failure"

    def count(result: str) -> float | None:
        labels = {"controller": "fleet", "result": result}
        return metrics.registry.get_sample_value("controller_runtime_reconcile_total", labels)

    assert [count(result) for result in ("error", "requeue_after", "success")] == [1, 1, 1]
