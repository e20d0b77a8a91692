"""Sums over a time that slides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_serving.autoscaling.slots import SLOTS, Slots


@pytest.mark.parametrize("period", [1.0, 30.0, 600.0])
def test_what_is_older_than_the_period_is_forgotten_and_nothing_younger(period: float) -> None:
    slots, start = Slots(period, 1000.0), 1000.0
    slots.add(7, 3, start)
    assert slots.sums(start + period * (1 - 2 / SLOTS)) == {7: 3}
    assert slots.sums(start + period * (1 + 1 / SLOTS)) == {}


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 20)), max_size=200), st.sampled_from([1.0, 30.0, 600.0]))
def test_as_a_plain_list_would_say(added: list[tuple[int, float]], period: float) -> None:
    slots, now, every = Slots(period, 0.0), 0.0, []
    for key, pause in added:
        now += pause
        slots.add(key, 1, now)
        every.append((now, key))
        oldest = (int(now / (period / SLOTS)) - SLOTS + 1) * (period / SLOTS)
        for each in range(4):
            surely = sum(when > oldest + 1e-6 and found == each for when, found in every)
            perhaps = sum(when > oldest - 1e-6 and found == each for when, found in every)
            assert surely <= slots.sums(now).get(each, 0) <= perhaps


@given(st.floats(0, 1e6), st.floats(0, 1000), st.sampled_from([1.0, 30.0, 600.0]))
def test_a_rate_is_spread_over_the_time_it_held(since: float, length: float, period: float) -> None:
    slots = Slots(period, since)
    slots.spread(1, 2.0, since, since + length)
    total = slots.sums(since + length).get(1, 0.0)
    assert total <= 2 * min(length, period) + 1e-3
    assert total >= 2 * min(length, period * (1 - 1 / SLOTS)) - 1e-3


def test_what_the_sums_are_about() -> None:
    slots = Slots(20.0, 5.0)
    assert slots.covered_s(5.0) > 0
    assert slots.covered_s(8.0) == 3.0
    assert slots.covered_s(100.5) == pytest.approx(19.5)
