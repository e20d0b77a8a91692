"""The coalescer on a real event loop; the replicas at the other end of the hop are a few lines of numpy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import uvloop

from rayfleet_serving.config import Limits
from rayfleet_serving.link.call import Call, Failure, Reply, Timing
from rayfleet_serving.link.client import ReplicaLostError
from rayfleet_serving.protocol.message import InferenceRequest, RequestError
from rayfleet_serving.router.coalescer import REMEMBERED_CALLS, Coalescer


class Replicas:
    """Stand-in for a version's replicas: doubles what it gets, once it is let go; loses calls when told to."""

    def __init__(self, running: int = 1) -> None:
        self.running = running
        self.calls: list[Call] = []
        self.go = asyncio.Event()
        self.go.set()
        self.lose = 0
        self.fault: Exception | None = None
        """What happens to every call with 3 in it."""
        self.in_flight = self.most_in_flight = 0

    async def __call__(self, call: Call) -> Reply:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self.calls.append(call)
            await self.go.wait()
            if self.lose:
                self.lose -= 1
                raise ReplicaLostError("the replica died")
            x = call.inputs["x"]
            if self.fault is not None and 3.0 in x[:, 0]:
                raise self.fault
            bad = {i: Failure("ModelError", "unlucky") for i, value in enumerate(x[:, 0]) if value == 13}
            rows = [0 if i in bad else size for i, size in enumerate(call.sizes)]
            kept = np.delete(x, list(bad), axis=0)
            return Reply({"y": kept * 2}, rows, "array", bad, Timing(0.0, 0.0, 0.001))
        finally:
            self.in_flight -= 1


def coalescer_of(replicas: Replicas, *, routers: int = 2, max_batch_size: int = 32, **limits: int) -> Coalescer:
    return Coalescer(
        replicas,
        lambda: replicas.running,
        name="digits version 1",
        limits=Limits(**limits),
        max_batch_size=max_batch_size,
        routers=routers,
    )


def request(value: float, width: int = 1) -> InferenceRequest:
    return InferenceRequest({"x": np.full((1, width), value, np.float32)}, 1, "tensors")


async def ask(coalescer: Coalescer, value: float, *, timeout: float = 30.0, width: int = 1) -> float:
    result, _ = await coalescer.infer(request(value, width), time.monotonic() + timeout)
    return float(result.outputs["y"][0, 0])


async def ask_large(coalescer: Coalescer) -> int:
    """Forty rows; returns how many were answered."""
    rows = InferenceRequest({"x": np.ones((40, 1), np.float32)}, 40, "tensors")
    result, _ = await coalescer.infer(rows, time.monotonic() + 60)
    return len(result.outputs["y"])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def behind_a_call(
    coalescer: Coalescer, replicas: Replicas, *values: float, width: Callable[[int], int] = lambda index: 1
) -> list[asyncio.Future[float]]:
    """One request in flight, held, and one for each of the other `values` queued behind it."""
    replicas.go.clear()
    first, *rest = values
    answers = [asyncio.ensure_future(ask(coalescer, first, width=width(0)))]
    await until(lambda: coalescer.ongoing == 1)
    answers += [asyncio.ensure_future(ask(coalescer, v, width=width(i))) for i, v in enumerate(rest, 1)]
    await until(lambda: coalescer.queued == len(rest))
    return answers


async def test_requests_that_arrive_during_a_call_leave_together() -> None:
    replicas = Replicas()
    coalescer = coalescer_of(replicas)
    answers = await behind_a_call(coalescer, replicas, *map(float, range(10)))
    replicas.go.set()
    assert await asyncio.gather(*answers) == [2.0 * i for i in range(10)]
    assert [len(call.sizes) for call in replicas.calls] == [1, 9]


async def test_requests_that_arrive_together_leave_together() -> None:
    replicas = Replicas()
    coalescer = coalescer_of(replicas)
    assert await asyncio.gather(*(ask(coalescer, float(i)) for i in range(10))) == [2.0 * i for i in range(10)]
    assert [len(call.sizes) for call in replicas.calls] == [10]


@pytest.mark.parametrize(("running", "routers", "calls"), [(1, 2, 1), (2, 2, 2), (3, 2, 3), (4, 4, 2), (1, 8, 1)])
async def test_calls_in_flight_follow_replicas_and_routers(running: int, routers: int, calls: int) -> None:
    replicas = Replicas(running)
    replicas.go.clear()
    coalescer = coalescer_of(replicas, routers=routers, max_batch_size=1, max_ongoing_requests=100)
    answers = [asyncio.ensure_future(ask(coalescer, 100.0 + i)) for i in range(20)]
    await until(lambda: coalescer.queued == 20 - calls)
    replicas.go.set()
    await asyncio.gather(*answers)
    assert replicas.most_in_flight == calls


async def test_one_failed_request_of_a_call_leaves_the_others_right() -> None:
    replicas = Replicas()
    coalescer = coalescer_of(replicas)
    answers = await behind_a_call(coalescer, replicas, *map(float, range(20)))
    replicas.go.set()
    got = await asyncio.gather(*answers, return_exceptions=True)
    for value, answer in enumerate(got):
        if value == 13:
            assert isinstance(answer, RequestError)
            assert (answer.status, answer.code) == (422, "ModelError")
        else:
            assert answer == 2.0 * value


async def test_shapes_do_not_mix() -> None:
    replicas = Replicas()
    coalescer = coalescer_of(replicas)
    answers = await behind_a_call(coalescer, replicas, *map(float, range(9)), width=lambda index: 1 + index % 2)
    replicas.go.set()
    assert await asyncio.gather(*answers) == [2.0 * i for i in range(9)]
    assert [call.inputs["x"].shape for call in replicas.calls] == [(1, 1), (4, 2), (4, 1)]


async def test_a_full_queue_answers_429_with_retry_after() -> None:
    replicas = Replicas()
    coalescer = coalescer_of(replicas, max_queued_requests=3)
    answers = await behind_a_call(coalescer, replicas, 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(RequestError, match="maxQueuedRequests") as refused:
        await ask(coalescer, 1.0)
    assert (refused.value.status, refused.value.retry_after) == (429, 1.0)
    replicas.go.set()
    assert await asyncio.gather(*answers) == [2.0] * 4


async def test_ongoing_requests_stay_under_their_limit() -> None:
    replicas = Replicas()
    coalescer = coalescer_of(replicas, routers=2, max_ongoing_requests=4)
    answers = await behind_a_call(coalescer, replicas, *map(float, range(8)))
    replicas.go.set()
    await asyncio.gather(*answers)
    assert max(len(call.sizes) for call in replicas.calls) == 2


async def test_a_lost_replica_costs_nothing_when_another_answers() -> None:
    replicas = Replicas(2)
    replicas.lose = 1
    coalescer = coalescer_of(replicas)
    assert await ask(coalescer, 4.0) == 8.0
    assert len(replicas.calls) == 2


async def test_a_request_that_was_with_two_lost_replicas_is_given_up() -> None:
    replicas = Replicas(3)
    replicas.lose = 2
    coalescer = coalescer_of(replicas)
    with pytest.raises(RequestError, match="two replicas") as lost:
        await ask(coalescer, 4.0)
    assert (lost.value.status, lost.value.code) == (503, "ReplicaLost")
    assert await ask(coalescer, 5.0) == 10.0


@pytest.mark.parametrize(
    ("fault", "code"),
    [(ReplicaLostError("the replica died"), "ReplicaLost"), (ValueError("does not fit into a frame"), "Internal")],
    ids=["kills replicas", "cannot be sent"],
)
async def test_a_request_at_fault_takes_no_other_with_it(fault: Exception, code: str) -> None:
    replicas = Replicas()
    replicas.fault = fault
    coalescer = coalescer_of(replicas)
    answers = await behind_a_call(coalescer, replicas, *map(float, range(12)))
    replicas.go.set()
    got = await asyncio.gather(*answers, return_exceptions=True)
    assert [answer for answer in got if not isinstance(answer, RequestError)] == [2.0 * i for i in range(12) if i != 3]
    assert isinstance(got[3], RequestError)
    assert got[3].code == code


async def test_requests_wait_for_a_replica_and_are_answered_when_it_is_back() -> None:
    replicas = Replicas(0)
    coalescer = coalescer_of(replicas)
    answer = asyncio.ensure_future(ask(coalescer, 3.0))
    await until(lambda: coalescer.queued == 1)
    replicas.running = 1
    assert await answer == 6.0


async def test_without_a_replica_the_deadline_is_503_with_retry_after() -> None:
    coalescer = coalescer_of(Replicas(0))
    with pytest.raises(RequestError, match="No replica of digits version 1") as unavailable:
        await ask(coalescer, 3.0, timeout=0.05)
    assert unavailable.value.status == 503
    assert unavailable.value.retry_after
    assert coalescer.queued == 0


async def test_with_a_slow_replica_the_deadline_is_504_and_the_call_is_cancelled() -> None:
    replicas = Replicas()
    replicas.go.clear()
    coalescer = coalescer_of(replicas)
    with pytest.raises(RequestError, match="did not answer") as late:
        await ask(coalescer, 3.0, timeout=0.05)
    assert (late.value.status, late.value.retry_after) == (504, 1.0)
    await until(lambda: coalescer.ongoing == 0 and replicas.in_flight == 0)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("together", [1, 2, 8])
def test_requests_that_expire_at_once_hold_up_nobody(loop: Callable[[], Any], together: int) -> None:
    """Their call may be cancelled before its task has begun."""

    async def scene() -> None:
        coalescer = coalescer_of(Replicas())
        for _ in range(20):
            hasty = (ask(coalescer, 1.0, timeout=1e-6) for _ in range(together))
            for answer in await asyncio.gather(*hasty, return_exceptions=True):
                assert answer == 2.0 or (isinstance(answer, RequestError) and answer.status == 504)
        assert await ask(coalescer, 2.0) == 4.0
        await until(lambda: coalescer.ongoing == coalescer.queued == 0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scene())


async def test_a_request_that_would_be_answered_too_late_makes_way() -> None:
    replicas = Replicas()
    replicas.go.clear()
    coalescer = coalescer_of(replicas, max_batch_size=4)
    # More large ones than others may pass; what they take counts for nobody else.
    large = [asyncio.ensure_future(ask_large(coalescer)) for _ in range(3)]
    await until(lambda: replicas.in_flight == 3)
    coalescer._calls_s.extend([30.0] * REMEMBERED_CALLS)
    hasty = asyncio.ensure_future(ask(coalescer, 2.0, timeout=25.0))
    patient = asyncio.ensure_future(ask(coalescer, 3.0, timeout=60.0))
    await until(lambda: coalescer.queued == 2)
    replicas.go.set()
    assert await asyncio.gather(*large, patient) == [40, 40, 40, 6.0]
    with pytest.raises(RequestError, match="too many requests") as refused:
        await hasty
    assert (refused.value.status, refused.value.retry_after) == (504, 1.0)
    assert [float(call.inputs["x"][0, 0]) for call in replicas.calls] == [1.0, 1.0, 1.0, 3.0]


async def test_a_request_that_nobody_waits_behind_is_tried() -> None:
    coalescer = coalescer_of(Replicas())
    coalescer._calls_s.extend([60.0] * REMEMBERED_CALLS)
    assert await ask(coalescer, 2.0, timeout=20.0) == 4.0


async def test_one_quick_call_among_slow_ones_is_enough_to_refuse_nobody() -> None:
    replicas = Replicas()
    coalescer = coalescer_of(replicas)
    coalescer._calls_s.extend([30.0] * (REMEMBERED_CALLS - 1) + [0.001])
    answers = await behind_a_call(coalescer, replicas, *map(float, range(9)))
    replicas.go.set()
    assert await asyncio.gather(*answers) == [2.0 * i for i in range(9)]


async def test_a_large_request_does_not_keep_others_from_leaving() -> None:
    replicas = Replicas()
    replicas.go.clear()
    coalescer = coalescer_of(replicas, max_batch_size=4)
    large = asyncio.ensure_future(ask_large(coalescer))
    await until(lambda: replicas.in_flight == 1)
    other = asyncio.ensure_future(ask(coalescer, 2.0))
    await until(lambda: replicas.in_flight == 2)
    # But for these, calls are as few as ever.
    third = asyncio.ensure_future(ask(coalescer, 3.0))
    await until(lambda: coalescer.queued == 1)
    assert replicas.in_flight == 2
    replicas.go.set()
    assert await asyncio.gather(other, third) == [4.0, 6.0]
    assert await large == 40


async def test_a_caller_that_went_away_costs_no_compute() -> None:
    replicas = Replicas()
    coalescer = coalescer_of(replicas)
    first, gone, last = await behind_a_call(coalescer, replicas, 1.0, 2.0, 3.0)
    gone.cancel()
    await until(lambda: coalescer.queued == 1)
    replicas.go.set()
    assert await asyncio.gather(first, last) == [2.0, 6.0]
    assert [float(v) for call in replicas.calls for v in call.inputs["x"][:, 0]] == [1.0, 3.0]


@pytest.mark.parametrize("change", ["replicas", "limits"])
async def test_what_waits_leaves_as_soon_as_more_may(change: str) -> None:
    replicas = Replicas()
    replicas.go.clear()
    coalescer = coalescer_of(replicas, routers=1, max_batch_size=1, max_ongoing_requests=1 if change == "limits" else 9)
    if change == "limits":
        replicas.running = 4
    answers = [asyncio.ensure_future(ask(coalescer, float(i))) for i in range(8)]
    held = 4 if change == "limits" else 2
    await until(lambda: replicas.in_flight == held)
    assert coalescer.queued == 8 - held
    if change == "limits":
        coalescer.limits = Limits(max_ongoing_requests=9)
    else:
        replicas.running = 4
    # No call has been answered meanwhile.
    await until(lambda: replicas.in_flight == 8)
    replicas.go.set()
    assert await asyncio.gather(*answers) == [2.0 * i for i in range(8)]


def remember(coalescer: Coalescer, seconds: float) -> None:
    """As if the newest calls had taken so long."""
    coalescer._calls_s.extend([seconds] * REMEMBERED_CALLS)


async def test_who_cannot_be_answered_in_time_is_told_at_once() -> None:
    replicas = Replicas()
    coalescer = coalescer_of(replicas, max_batch_size=2)
    remember(coalescer, 6.0)
    waiting = await behind_a_call(coalescer, replicas, *map(float, range(9)))
    # Eight wait in four calls of six seconds each; one more would be in the fifth.
    assert coalescer.expected_s() == 30.0
    with pytest.raises(RequestError, match=r"8 requests wait .* one more would take 30 s, and has [12]") as refused:
        await ask(coalescer, 1.0, timeout=24.0)
    assert refused.value.status == 429
    assert 7 <= (refused.value.retry_after or 0) <= 30
    last = asyncio.ensure_future(ask(coalescer, 9.0, timeout=60.0))
    await until(lambda: coalescer.queued == 9)
    replicas.go.set()
    assert await asyncio.gather(*waiting, last) == [2.0 * i for i in range(10)]


async def test_what_leaves_in_this_very_moment_takes_no_full_call() -> None:
    """Calls were full and took a minute; now the replicas are idle, and a few requests come together."""
    coalescer = coalescer_of(Replicas(running=4), routers=1)
    remember(coalescer, 60.0)
    answers = await asyncio.gather(*(ask(coalescer, float(i), timeout=30) for i in range(6)))
    assert answers == [2.0 * i for i in range(6)]


async def test_more_than_can_leave_at_once_is_more_than_can_be_in_time() -> None:
    """Two calls of two leave; the fifth would be in the next one."""
    coalescer = coalescer_of(Replicas(running=1), routers=1, max_batch_size=2)
    remember(coalescer, 60.0)
    answers = await asyncio.gather(*(ask(coalescer, 1.0, timeout=30) for _ in range(6)), return_exceptions=True)
    assert answers[:4] == [2.0] * 4
    assert [getattr(answer, "status", None) for answer in answers[4:]] == [429, 429]


@pytest.mark.parametrize("state", ["nobody waits", "nothing is known", "more replicas came", "no replica"])
async def test_nobody_is_refused_on_a_guess(state: str) -> None:
    replicas = Replicas()
    coalescer = coalescer_of(replicas, max_batch_size=2)
    waiting = await behind_a_call(coalescer, replicas, *map(float, range(1 if state == "nobody waits" else 9)))
    if state != "nothing is known":
        remember(coalescer, 20.0)
    replicas.running = {"more replicas came": 40, "no replica": 0}.get(state, 1)
    late = asyncio.ensure_future(ask(coalescer, 9.0, timeout=38))
    await until(lambda: coalescer.queued + coalescer.ongoing == len(waiting) + 1 or late.done())
    replicas.running = 1
    replicas.go.set()
    assert await late == 18.0
    await asyncio.gather(*waiting)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
async def test_a_share_of_those_that_wait_is_refused_and_the_others_are_answered(share: float) -> None:
    """Of all kinds, beside one whose caller has left in this very moment; and what was sent is answered."""
    replicas = Replicas()
    coalescer = coalescer_of(replicas, routers=1, max_ongoing_requests=1)
    replicas.go.clear()
    sent = asyncio.ensure_future(ask(coalescer, 1.0))
    await until(lambda: coalescer.ongoing > 0)
    asking = [asyncio.ensure_future(ask(coalescer, 1.0, width=1 + n % 2)) for n in range(200)]
    left = asyncio.ensure_future(ask(coalescer, 1.0))
    await until(lambda: coalescer.queued == 201)
    left.cancel()
    coalescer.refuse_waiting(share, lambda: RequestError(429, "Yielded", "Others go first."))
    replicas.go.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, RequestError)]
    assert len(refused) == pytest.approx(200 * share, abs=40 if 0 < share < 1 else 0)
    assert answers.count(2.0) == 200 - len(refused)
    assert await sent == 2.0
    assert (coalescer.queued, coalescer.ongoing, coalescer._queued_rows) == (0, 0, 0)
    assert await ask(coalescer, 1.0) == 2.0, "a kind that nobody waits for any more holds up nobody"
