"""When a version's requests do not get what its spec promises them, by an injected clock."""

from __future__ import annotations

import random

import pytest
from fake_clock import Clock

from rayfleet_serving.config import Limits, Target
from rayfleet_serving.router.pressure import NOTHING, Pressure

LIMITS = Limits(request_timeout_s=10.0)
TARGET = Target(percentile=90, seconds=0.2)


def pressure_of(target: Target | None = TARGET, limits: Limits = LIMITS) -> tuple[Pressure, Clock]:
    clock = Clock()
    pressure = Pressure(clock)
    pressure.keep_to(target, limits)
    pressure.on = True
    clock.forward(100)
    pressure.look()
    return pressure, clock


def second(pressure: Pressure, clock: Clock, *took: float, status: int = 200) -> bool:
    """Whether it is pressed after a second in which these requests were answered."""
    for each in took:
        pressure.ended(status, each)
    clock.forward(1)
    pressure.look()
    return pressure.pressed(0.0)


def test_more_slow_answers_than_may_be_press() -> None:
    pressure, clock = pressure_of()
    assert not second(pressure, clock, *[0.1] * 90, *[0.3] * 10), "as many as its target lets be"
    assert second(pressure, clock, *[0.3, 0.1] * 50)


def test_it_is_over_after_a_few_seconds_of_good_answers() -> None:
    pressure, clock = pressure_of()
    assert second(pressure, clock, *[0.3] * 100)
    seconds = 1
    while second(pressure, clock, *[0.1] * 100):
        seconds += 1
    assert seconds <= 4


def test_of_rare_answers_the_newest_count() -> None:
    pressure, clock = pressure_of()
    assert not second(pressure, clock, 0.3), "one may be chance"
    assert not second(pressure, clock)
    assert second(pressure, clock, 0.3)
    assert second(pressure, clock)
    assert not second(pressure, clock, 0.1)


@pytest.mark.parametrize(("good", "pressed"), [(4, True), (10, False)])
def test_of_rare_answers_too_many_slow_ones_press_though_never_two_in_a_row(good: int, pressed: bool) -> None:
    """A share over some seconds cannot tell, and a model that is asked rarely has a target as well."""
    pressure, clock = pressure_of()
    seen = [second(pressure, clock, took) for took in [0.3, *[0.1] * good] * 30]
    assert any(seen) == pressed
    assert sum(seen) <= len(seen) / 5, "a good answer ends it"


@pytest.mark.parametrize("percentile", [50, 75, 90, 95, 99])
def test_of_rare_answers_no_more_slow_ones_than_may_be_hardly_ever_press(percentile: int) -> None:
    """However they come: to be pressed for one second costs the neighbours half a minute."""
    pressure, clock = pressure_of(Target(percentile=percentile, seconds=0.2))
    chance = random.Random(1)
    seen = [
        second(pressure, clock, *[0.3 if chance.random() * 100 >= percentile else 0.1 for _ in range(5)])
        for _ in range(5000)
    ]
    assert sum(seen) < len(seen) * 0.03


def test_what_was_slow_long_ago_says_nothing() -> None:
    pressure, clock = pressure_of()
    assert second(pressure, clock, 0.3, 0.3)
    assert [second(pressure, clock) for _ in range(10)] == [*[True] * 9, False]


@pytest.mark.parametrize(("percentile", "in_a_row"), [(50, 7), (90, 2), (99, 2)])
def test_how_many_in_a_row_are_no_chance(percentile: int, in_a_row: int) -> None:
    pressure, clock = pressure_of(Target(percentile=percentile, seconds=0.2))
    pressed = [second(pressure, clock, 0.3) for _ in range(in_a_row)]
    assert pressed == [*[False] * (in_a_row - 1), True]


@pytest.mark.parametrize(
    ("status", "took", "own", "pressed"),
    [
        (200, 0.1, False, False), (200, 0.3, False, True), (422, 0.3, False, True), (500, 0.3, False, True),
        (429, 0.0, False, True), (504, 0.1, False, True), (504, 0.1, True, False), (504, 0.3, True, True),
        (429, 0.0, True, False), (499, 0.1, False, False), (499, 0.3, False, True), (503, 9.0, False, False),
        (400, 0.3, False, False), (413, 0.3, False, False), (NOTHING, 9.0, False, False),
    ],
)  # fmt: skip
def test_which_answers_press_a_model_with_a_target(status: int, took: float, own: bool, pressed: bool) -> None:
    pressure, clock = pressure_of()
    for _ in range(20):
        pressure.ended(status, took, own_timeout=own)
    assert second(pressure, clock) == pressed


def test_without_a_target_waiting_for_half_of_the_time_presses() -> None:
    pressure, clock = pressure_of(None)
    assert not second(pressure, clock, *[8.0] * 20), "it computes for as long as it does"
    for _ in range(20):
        pressure.waited(4.0)
    assert not second(pressure, clock)
    for _ in range(3):
        pressure.waited(6.0)
    assert second(pressure, clock)


def test_without_a_target_requests_that_are_refused_press() -> None:
    pressure, clock = pressure_of(None)
    assert second(pressure, clock, *[0.0] * 20, status=429)


def test_with_a_target_waiting_says_nothing_that_the_whole_time_does_not() -> None:
    pressure, clock = pressure_of(Target(percentile=90, seconds=8.0))
    for _ in range(20):
        pressure.waited(6.0)
    assert not second(pressure, clock, *[7.0] * 20)


@pytest.mark.parametrize(("target", "oldest"), [(TARGET, 0.3), (None, 6.0)])
def test_requests_that_wait_and_are_not_answered_press_as_well(target: Target | None, oldest: float) -> None:
    pressure, _ = pressure_of(target)
    assert not pressure.pressed(oldest / 2)
    assert pressure.pressed(oldest)


def test_what_waited_for_a_model_that_slept_waited_for_no_neighbour() -> None:
    pressure, clock = pressure_of()
    for _ in range(5):
        clock.forward(1)
        pressure.look(awake=False)
    clock.forward(1)
    pressure.look()
    assert not pressure.pressed(4.0)
    assert not second(pressure, clock, *[4.0] * 50)
    assert second(pressure, clock, *[0.3] * 50)


def test_nothing_is_counted_where_nobody_can_yield() -> None:
    pressure, clock = pressure_of()
    assert second(pressure, clock, *[0.3] * 50)
    pressure.on = False
    assert not second(pressure, clock, *[0.3] * 50)
    pressure.on = True
    assert not second(pressure, clock)


def test_rates_are_of_the_last_seconds() -> None:
    pressure, clock = pressure_of()
    assert (pressure.ended_per_s, pressure.answered_per_s) == (0.0, 0.0)
    for _ in range(3):
        second(pressure, clock, *[0.1] * 30)
    second(pressure, clock, *[0.0] * 60, status=429)
    assert pressure.ended_per_s == pytest.approx(60)
    assert pressure.answered_per_s == pytest.approx(20)
