"""The work queue: whatever is added, however it is worked on."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from fake_clock import Clock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from queued import taken

from rayfleet_operator.bucket import TokenBucket
from rayfleet_operator.metrics import Metrics
from rayfleet_operator.workqueue import FIRST_DELAY_S, LONGEST_DELAY_S, ShutDown, WorkQueue

KEYS = st.sampled_from("abcde")


class Worked(RuleBasedStateMachine):
    """A naive queue beside the real one: which keys somebody must work on now, and when each one waits until."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue: WorkQueue[str] = WorkQueue(
            clock=self.clock, chance=lambda: 0.5, bucket=TokenBucket(10, 100, clock=self.clock)
        )
        self.active: set[str] = set()
        self.dirty: set[str] = set()
        self.until: dict[str, float] = {}
        self.failures: Counter[str] = Counter()

    def postpone(self, key: str, delay: float) -> None:
        self.until[key] = min(self.until.get(key, float("inf")), self.clock.now + delay)
        self.wake()

    def wake(self) -> None:
        for key, time in list(self.until.items()):
            if time <= self.clock.now:
                del self.until[key]
                self.dirty.add(key)

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.dirty.add(key)

    @rule(key=KEYS, delay=st.floats(0, 100))
    def add_after(self, key: str, delay: float) -> None:
        self.queue.add_after(key, delay)
        self.postpone(key, delay)

    @rule(key=KEYS)
    def fail(self, key: str) -> None:
        delay = self.queue.add_rate_limited(key)
        assert delay >= min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** self.failures[key])
        self.failures[key] += 1
        self.postpone(key, delay)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.queue.forget(key)
        self.failures[key] = 0

    @rule(seconds=st.floats(0, 200))
    def wait(self, seconds: float) -> None:
        self.clock.forward(seconds)
        self.wake()

    @rule(target=taken)
    def get(self) -> str | None:
        key = taken(self.queue)
        assert (key is None) == (self.dirty <= self.active)
        if key is not None:
            assert key in self.dirty, "handed out for nothing"
            assert key not in self.active, "two workers have one key"
            self.dirty.discard(key)
            self.active.add(key)
        return key

    @rule(key=taken)
    def done(self, key: str | None) -> None:
        if key in self.active:
            self.active.discard(key)
            self.queue.done(key)

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.active == len(self.active)
        assert len(self.queue) == len(self.dirty - self.active)

    def teardown(self) -> None:
        for key in self.active:
            self.queue.done(key)
        self.clock.forward(1e6)
        self.wake()
        handed_out = set()
        while (key := taken(self.queue)) is not None:
            assert key not in handed_out
            handed_out.add(key)
        assert handed_out == self.dirty, "added and never handed out"


Worked.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_keys_are_neither_lost_nor_doubled_nor_worked_on_twice_at_a_time = Worked.TestCase


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock=clock, chance=lambda: 0.5)


def test_keys_come_in_the_order_in_which_they_became_ready(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add_after("late", 2)
    queue.add_after("early", 1)
    queue.add("first")
    clock.forward(3)
    queue.add("last")

    assert [taken(queue) for _ in range(4)] == ["first", "early", "late", "last"]


def test_delays_double_up_to_five_minutes_and_begin_anew_once_forgotten(queue: WorkQueue[str]) -> None:
    delays = [queue.add_rate_limited("a") for _ in range(12)]

    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    queue.forget("a")
    assert queue.add_rate_limited("a") == 0.5


def test_delays_differ_by_chance() -> None:
    low, high = (WorkQueue[str](chance=lambda at=at: at).add_rate_limited("a") for at in (0.0, 1.0))

    assert (low, high) == (pytest.approx(0.4), pytest.approx(0.6))


def test_many_failures_at_once_are_spread_out(queue: WorkQueue[str]) -> None:
    delays = [queue.add_rate_limited(str(number)) for number in range(200)]

    assert max(delays[:100]) == 0.5
    assert delays[-1] == pytest.approx(10)


def test_the_wait_of_a_delayed_key_counts_from_when_it_was_due(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add_after("a", 10)
    clock.forward(15)

    assert queue.longest_wait() == 5
    assert taken(queue) == "a"
    clock.forward(7)
    assert (queue.longest_wait(), queue.longest_work(), queue.unfinished_work()) == (0, 7, 7)


async def test_workers_wake_up_for_added_due_and_returned_keys() -> None:
    queue: WorkQueue[str] = WorkQueue()
    taken: list[str] = []

    async def worker() -> None:
        while True:
            key = await queue.get()
            taken.append(key)
            await asyncio.sleep(0)
            queue.done(key)

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(worker()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.add("now")
        queue.add_after("soon", 0.05)
        queue.add_after("sooner", 0.01)
        while len(taken) < 3:
            await asyncio.sleep(0.005)
        for each in workers:
            each.cancel()
    assert taken == ["now", "sooner", "soon"]


async def test_a_worker_that_is_cancelled_takes_no_key_along() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first, second = asyncio.ensure_future(queue.get()), asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()

    async with asyncio.timeout(30):
        assert await second == "a"
    assert first.cancelled()


async def test_shut_down_wakes_every_worker_and_hands_out_nothing_more() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waiting = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.shut_down()
    queue.add("a")
    queue.add_after("b", 0)

    async with asyncio.timeout(30):
        ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends] == [ShutDown] * 3
    with pytest.raises(ShutDown):
        await queue.get()


def test_metrics_tell_what_happened_under_the_names_of_client_go(clock: Clock) -> None:
    metrics = Metrics()
    queue: WorkQueue[str] = WorkQueue(clock=clock, metrics=metrics.queue)
    metrics.queue.watch(queue)
    for key in "aabc":
        queue.add(key)
    clock.forward(2)
    assert taken(queue) == "a"
    queue.add_rate_limited("a")
    clock.forward(3)

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"name": "fleet"})

    assert value("workqueue_adds_total") == 3
    assert value("workqueue_depth") == 2
    assert value("workqueue_retries_total") == 1
    assert value("workqueue_queue_duration_seconds_sum") == 2
    assert value("workqueue_work_duration_seconds_count") == 0
    assert value("workqueue_unfinished_work_seconds") == 3
    assert value("workqueue_longest_running_processor_seconds") == 3
    queue.done("a")
    assert value("workqueue_work_duration_seconds_sum") == 3
    assert value("workqueue_adds_total") == 4
