"""What a router tells replicas of the load, by an injected clock."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from fake_clock import Clock
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_serving.autoscaling.need import REFUSED
from rayfleet_serving.autoscaling.slots import Slots
from rayfleet_serving.config import latency_bucket
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.router.coalescer import QueueFullError
from rayfleet_serving.router.load import Asked, Load


def load_of(look_back_s: float | None = 30.0) -> tuple[Load, Clock]:
    clock = Clock()
    load = Load(look_back_s, clock)
    clock.forward(100)
    load.seen(1)
    return load, clock


def come(load: Load, *, own_timeout: bool = False) -> Asked:
    """A request that the model can be asked."""
    request = load.asked(own_timeout=own_timeout).__enter__()
    request.valid()
    return request


def go(request: Asked, status: int = 200) -> None:
    """It is answered."""
    error: BaseException = RequestError(status, "Code", "Text.")
    if status == 499:
        error = asyncio.CancelledError()
    elif status == 500:
        error = ValueError("a fault of the router")
    request.__exit__(*((None, None, None) if status == 200 else (type(error), error, None)))


def seen(load: Load) -> tuple[float, dict[int, int]]:
    told = load.seen(1)
    assert told is not None
    return told.ongoing, told.latency


def test_ongoing_is_the_mean_over_the_look_back() -> None:
    load, clock = load_of()
    requests = [come(load) for _ in range(6)]
    clock.forward(15)
    for each in requests:
        go(each)
    clock.forward(14)
    ongoing, latency = seen(load)
    assert ongoing == pytest.approx(6 * 15 / 29, rel=0.06)
    assert latency == {latency_bucket(15.0): 6}
    clock.forward(31)
    assert seen(load) == (0.0, {})


@pytest.mark.parametrize("look_back", [1.0, 600.0])
def test_a_long_look_back_and_a_short_one_see_the_same_of_a_steady_load(look_back: float) -> None:
    load, clock = load_of(look_back)
    for _ in range(1300):
        request = come(load)
        clock.forward(0.5)
        go(request)
        clock.forward(0.5)
    ongoing, latency = seen(load)
    assert ongoing == pytest.approx(0.5, rel=0.1)
    assert sum(latency.values()) == pytest.approx(look_back, rel=0.06, abs=1)


def test_one_quick_request_in_a_long_time_is_seen() -> None:
    load, clock = load_of(600.0)
    request = come(load)
    clock.forward(0.001)
    go(request)
    clock.forward(500)
    assert seen(load)[0] > 0


@pytest.mark.parametrize(
    ("status", "own", "bucket"),
    [
        (200, False, latency_bucket(2.0)), (422, False, latency_bucket(2.0)), (500, False, latency_bucket(2.0)),
        (499, False, latency_bucket(2.0)), (429, False, REFUSED), (503, False, REFUSED), (504, False, REFUSED),
        (504, True, latency_bucket(2.0)), (429, True, None), (400, False, None), (404, False, None),
        (413, False, None),
    ],
)  # fmt: skip
def test_which_answers_tell_of_the_model_and_how_long_they_took(status: int, own: bool, bucket: int | None) -> None:
    load, clock = load_of()
    request = come(load, own_timeout=own)
    clock.forward(2)
    go(request, status)
    assert seen(load)[1] == ({} if bucket is None else {bucket: 1})


def test_who_is_turned_away_at_the_door_counts_as_too_slow() -> None:
    load, _ = load_of()
    load.refused()
    assert seen(load)[1] == {REFUSED: 1}


@pytest.mark.parametrize("own", [True, False])
def test_there_are_too_many_whatever_time_one_of_them_has(own: bool) -> None:
    load, _ = load_of()
    with contextlib.suppress(QueueFullError), load.asked(own_timeout=own) as request:
        request.valid()
        raise QueueFullError(429, "TooManyRequests", "Too many.")
    assert seen(load) == (0.0, {REFUSED: 1})


def test_what_cannot_be_asked_is_no_load() -> None:
    """Were it one, requests that no model was ever asked would keep it awake."""
    load, clock = load_of()
    with contextlib.suppress(RequestError), load.asked():
        clock.forward(1)
        raise RequestError(400, "InvalidInput", "No JSON.")
    assert seen(load) == (0.0, {})


def test_latency_is_counted_from_when_a_request_is_here() -> None:
    """Reading it takes time, too, as does waiting for the first replica."""
    load, clock = load_of()
    with load.asked() as request:
        clock.forward(2)
        request.valid()
        clock.forward(1)
    ongoing, latency = seen(load)
    assert latency == {latency_bucket(3.0): 1}
    assert ongoing == pytest.approx(1 / 30, rel=0.06)


def test_nothing_is_told_where_nobody_asks_and_a_new_look_back_begins_anew() -> None:
    load, clock = load_of(None)
    request = come(load)
    assert load.seen(1) is None
    load.look_back_s = 10.0
    clock.forward(5)
    assert seen(load)[0] == pytest.approx(1.0, rel=0.06)
    go(request)
    load.look_back_s = None
    assert load.seen(1) is None


def test_a_router_that_has_just_started_does_not_take_a_moment_for_a_load() -> None:
    clock = Clock()
    load = Load(30.0, clock)
    clock.forward(0.01)
    for _ in range(100):
        come(load)
    clock.forward(0.05)
    assert seen(load)[0] == pytest.approx(1.0, rel=0.1)


def test_copies_of_other_requests_are_a_load_as_well() -> None:
    """By how long they take, as any other: how many there are at one moment is mostly chance."""
    load, clock = load_of()
    clock.forward(30)
    for _ in range(30):
        with load.copied():
            clock.forward(0.9)
        clock.forward(0.1)
    ongoing, latency = seen(load)
    assert ongoing == pytest.approx(0.9, rel=0.06)
    assert latency == {}


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=60), st.sampled_from([1.0, 30.0, 600.0]))
def test_ongoing_is_what_a_plain_sum_would_say(changes: list[tuple[bool, float]], look_back: float) -> None:
    """The same, whether told often or once, and wherever one slot ends and the next begins."""
    clock = Clock()
    often, once, slots = Load(look_back, clock), Load(look_back, clock), Slots(look_back, clock())
    requests: list[list[Asked]] = [[], []]
    for comes, pause in changes:
        for load, open_ in zip((often, once), requests, strict=True):
            if comes:
                open_.append(come(load))
            elif open_:
                go(open_.pop())
        slots.spread(0, len(requests[0]), clock(), clock() + pause)
        clock.forward(pause)
        seen(often)
    (expected,) = slots.sums(clock()).values() or (0.0,)
    for load in (often, once):
        over = max(slots.covered_s(clock()), min(5.0, look_back * 0.95))
        assert seen(load)[0] == pytest.approx(expected / over, rel=0.01, abs=1e-6)


def test_latencies_are_those_of_the_replicas_that_there_are() -> None:
    """Else, what requests took before there were more would ask for still more of them."""
    load, clock = load_of()
    waits = come(load)
    go(come(load), 504)
    clock.forward(1)
    told = load.seen(2)
    assert told is not None
    assert told.latency == {}
    clock.forward(9)
    go(waits)
    go(come(load))
    told = load.seen(2)
    assert told is not None
    assert told.latency == {0: 1}, "the one that came before waited for others"
    assert told.ongoing > 0
