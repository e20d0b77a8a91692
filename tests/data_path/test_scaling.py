"""What one replica makes of what routers tell it, by an injected clock."""

from __future__ import annotations

import pytest
from fake_clock import Clock

from rayfleet_serving.autoscaling import stats
from rayfleet_serving.config import Autoscaling, latency_bucket
from rayfleet_serving.link.call import RouterLoad
from rayfleet_serving.model.scaling import FRESH_S, Scaling

GOAL = Autoscaling(target_ongoing_requests=10)


class Device:
    """Computes for so long of each second."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.share = 0.0
        self.twice_s = 0.0
        """Of a call that just ends: the thread that computes has counted it already."""
        self.began = clock()

    def busy_s(self) -> float:
        return (self.clock() - self.began) * self.share + self.twice_s


def scaling_of(goal: Autoscaling | None = GOAL, busy: float = 0.0) -> tuple[Scaling, Clock]:
    clock = Clock()
    device = Device(clock)
    device.share = busy
    scaling = Scaling(device.busy_s, clock)
    scaling.configure(goal)
    clock.forward(60)
    return scaling, clock


def watched(scaling: Scaling, clock: Clock, load: RouterLoad, seconds: int) -> list[int]:
    """How many are wanted, second by second."""
    wanted = []
    for _ in range(seconds):
        clock.forward(1)
        told = scaling.told("a", load)
        assert told is not None
        wanted.append(told.replicas)
    return wanted


def test_loads_of_all_routers_are_added_up() -> None:
    scaling, clock = scaling_of()
    scaling.told("a", RouterLoad(12.0, {}, 1))
    clock.forward(FRESH_S)
    wanted = scaling.told("b", RouterLoad(13.0, {}, 1))
    assert wanted is not None
    assert (wanted.replicas, wanted.reason) == (3, "25 requests, 10 for each replica")
    assert scaling.stats()[stats.WANTED] == 3.0


def test_a_replica_that_one_router_reaches_is_there() -> None:
    goal = Autoscaling(target_ongoing_requests=1000, percentile=50, latency_s=0.1)
    scaling, clock = scaling_of(goal, busy=0.9)
    slow = {latency_bucket(0.15): 100}
    for router, replicas in (("a", 2), ("b", 1)):
        clock.forward(FRESH_S)
        wanted = scaling.told(router, RouterLoad(5.0, slow, replicas))
    assert wanted is not None
    assert wanted.replicas == 4


def test_a_router_that_is_silent_or_gone_does_not_count() -> None:
    scaling, clock = scaling_of()
    scaling.told("a", RouterLoad(100.0, {}, 1))
    scaling.told("b", RouterLoad(100.0, {}, 1))
    clock.forward(4.1)
    scaling.told("b", RouterLoad(10.0, {}, 1))
    assert scaling.stats()[stats.WANTED] == 1.0
    scaling.gone("b")
    clock.forward(FRESH_S)
    assert scaling.stats() == {}, "nothing is known, and all stays as it is"


def test_its_own_busy_share_says_whether_more_would_help() -> None:
    goal = Autoscaling(target_ongoing_requests=1000, percentile=50, latency_s=0.1)
    slow = RouterLoad(5.0, {latency_bucket(0.15): 100}, 2)
    for busy, wanted in ((0.9, 4), (0.1, 2)):
        scaling, clock = scaling_of(goal, busy)
        watched(scaling, clock, slow, 20)
        signal = scaling.signal()
        assert signal is not None
        assert signal.load.busy == pytest.approx(busy, rel=0.06)
        assert signal.need.replicas == wanted


def test_a_call_that_is_counted_twice_as_it_ends_counts_once_a_moment_later() -> None:
    clock = Clock()
    device = Device(clock)
    device.share = 0.1
    scaling = Scaling(device.busy_s, clock)
    scaling.configure(GOAL)
    seen = []
    for device.twice_s in (*[0.0] * 20, 6.0, 0.0):
        watched(scaling, clock, RouterLoad(5.0, {}, 1), 1)
        signal = scaling.signal()
        seen.append(signal.load.busy if signal is not None else None)
    assert seen[-3:] == [pytest.approx(0.1), pytest.approx(0.7, rel=0.06), pytest.approx(0.1, rel=0.06)]


def test_a_fixed_number_is_nobodys_to_tell() -> None:
    scaling, _ = scaling_of(None)
    assert scaling.told("a", RouterLoad(100.0, {}, 1)) is None
    assert scaling.stats() == {}


def test_new_goals_hold_at_once() -> None:
    scaling, _ = scaling_of()
    scaling.told("a", RouterLoad(20.0, {}, 1))
    scaling.configure(Autoscaling(target_ongoing_requests=5, upscale_step=2, downscale_step=1))
    assert scaling.stats() == {stats.WANTED: 4.0, stats.STAYS: 0.0, stats.STEP_UP: 2.0, stats.STEP_DOWN: 1.0}


@pytest.mark.parametrize("batch_s", [2.0, 6.0, 12.0, 40.0])
def test_batches_that_take_long_keep_a_replica_busy_while_they_run(batch_s: float) -> None:
    """The need must last for the delay: one second without it begins the delay anew."""
    goal = Autoscaling(target_ongoing_requests=1000, percentile=50, latency_s=1.5 * batch_s)
    slow = RouterLoad(90.0, {latency_bucket(3.0 * batch_s): 100}, 1)
    scaling, clock = scaling_of(goal, busy=1.0)
    watched(scaling, clock, slow, 10)
    for _ in range(8):
        assert set(watched(scaling, clock, slow, int(batch_s))) == {2}
        scaling.computed(32, batch_s, whole=True)


@pytest.mark.parametrize(("rows", "kept"), [(32, 3), (16, 2)])
@pytest.mark.parametrize("batch_s", [2.0, 40.0])
def test_work_in_long_batches_keeps_its_replicas_from_batch_to_batch(batch_s: float, rows: int, kept: int) -> None:
    """As many as it needs: three that are busy with batches half full are as good as two with full ones."""
    scaling, clock = scaling_of(Autoscaling(target_ongoing_requests=1000), busy=1.0)
    for _ in range(5):
        scaling.computed(32, batch_s, whole=True)
    clock.forward(60)
    load = RouterLoad(90.0, {}, 3)
    scaling.computed(rows, batch_s, whole=True)
    watched(scaling, clock, load, 10)
    for _ in range(4):
        scaling.computed(rows, batch_s, whole=True)
        assert set(watched(scaling, clock, load, int(batch_s))) == {kept}


def test_what_it_computed_before_anybody_asked_was_warming_up() -> None:
    clock = Clock()
    warm_up_s = 50.0
    scaling = Scaling(lambda: warm_up_s, clock)
    scaling.configure(GOAL)
    clock.forward(1)
    watched(scaling, clock, RouterLoad(5.0, {}, 1), 3)
    signal = scaling.signal()
    assert signal is not None
    assert signal.load.busy == 0.0


def test_it_says_whether_what_is_on_its_way_is_needed_as_well() -> None:
    goal = Autoscaling(target_ongoing_requests=1000, percentile=50, latency_s=0.1)
    for seconds, stays in ((0.15, 1.0), (0.05, 0.0)):
        scaling, _ = scaling_of(goal)
        scaling.told("a", RouterLoad(5.0, {latency_bucket(seconds): 100}, 2))
        assert scaling.stats()[stats.STAYS] == stays


@pytest.mark.parametrize(
    ("target", "wanted", "reason"),
    [
        (0.2, 1, "5 requests"),  # 20 rows/s of the 320 that full batches would do
        (0.12, 2, "replicas use 14%"),  # batches of eight are as full as they may be
        (0.09, 6, "compute for 9"),  # not even one row is sure to be in time: what is there, stays
    ],
)
def test_batches_that_could_be_fuller_keep_no_replica(target: float, wanted: int, reason: str) -> None:
    goal = Autoscaling(target_ongoing_requests=1000, percentile=50, latency_s=target)
    scaling, clock = scaling_of(goal, busy=0.92)
    for rows, seconds in ((8, 0.055), (32, 0.1), (1, 0.046)):
        scaling.curve.guess(rows, seconds)
    load = RouterLoad(5.0, {latency_bucket(0.05): 100}, 6)
    for at in range(400):
        clock.forward(0.05)
        scaling.computed(1, 0.046, whole=True)
        if at % 20 == 0:
            scaling.told("a", load)
    told = scaling.told("a", load)
    assert told is not None
    assert (told.replicas, reason in told.reason) == (wanted, True), told


def test_batches_that_fail_at_once_let_no_replica_go() -> None:
    goal = Autoscaling(target_ongoing_requests=1000, percentile=50, latency_s=0.2)
    scaling, clock = scaling_of(goal, busy=0.9)
    load = RouterLoad(4.0, {latency_bucket(0.05): 100}, 4)
    for _ in range(20):
        scaling.computed(4, 0.018, whole=True)
        scaling.computed(32, 0.0002, whole=False)
        clock.forward(1)
        told = scaling.told("a", load)
    assert told is not None
    assert (told.replicas, told.reason) == (4, "replicas use 90% of what they can do")


@pytest.mark.parametrize(("full", "wanted"), [(0, 4), (5, 2)])
def test_that_more_would_be_no_faster_is_told_by_batches_of_requests_alone(full: int, wanted: int) -> None:
    """Requests that can share none are computed one by one, however quick the warm-up's full batches were."""
    goal = Autoscaling(target_ongoing_requests=1000, percentile=50, latency_s=0.2)
    scaling, clock = scaling_of(goal, busy=0.92)
    scaling.curve.guess(8, 0.055)
    for _ in range(full):
        scaling.computed(8, 0.055, whole=True)
    clock.forward(60)
    late = RouterLoad(5.0, {latency_bucket(0.5): 100}, 2)
    for _ in range(20):
        scaling.computed(1, 0.046, whole=True)
        seen = watched(scaling, clock, late, 1)
    assert seen == [wanted]
