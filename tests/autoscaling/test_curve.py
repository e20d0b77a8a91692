"""What a replica could do with fuller batches."""

from __future__ import annotations

import threading

import pytest

from rayfleet_serving.autoscaling.curve import FEW, Curve


def measure(curve: Curve, rows: int, seconds: float, *, times: int = FEW, now: float = 100.0) -> None:
    for _ in range(times):
        curve.measured(rows, seconds, now)


def test_the_cheapest_row_of_batches_that_are_in_time() -> None:
    curve = Curve()
    for rows, seconds in ((1, 0.04), (8, 0.08), (32, 0.16)):
        measure(curve, rows, seconds)
    assert curve.seconds_for_a_row(1.0, 100.0) == pytest.approx(0.005)
    assert curve.seconds_for_a_row(0.2, 100.0) == pytest.approx(0.01)
    assert curve.seconds_for_a_row(0.1, 100.0) == pytest.approx(0.04)
    assert curve.seconds_for_a_row(0.05, 100.0) is None
    assert Curve().seconds_for_a_row(9.0, 100.0) is None


def test_a_first_run_counts_until_there_are_others_and_not_while_they_are_known() -> None:
    curve = Curve()
    curve.guess(32, 9.0)
    assert curve.seconds_for_a_row(100.0, 100.0) == pytest.approx(9 / 32)
    assert curve.seconds_for_a_row(100.0, 100.0, proven=True) is None
    measure(curve, 32, 0.1)
    curve.guess(32, 9.0)
    for proven in (True, False):
        assert curve.seconds_for_a_row(100.0, 100.0, proven=proven) == pytest.approx(0.1 / 32)
    measure(curve, 32, 0.2, times=100)
    assert curve.seconds_for_a_row(100.0, 100.0) == pytest.approx(0.2 / 32, rel=0.01)


def test_a_batch_that_was_quick_by_chance_says_nothing() -> None:
    curve = Curve()
    measure(curve, 4, 0.018)
    curve.guess(32, 0.144)
    measure(curve, 32, 0.0002, times=FEW - 1)
    assert curve.seconds_for_a_row(1.0, 100.0) == pytest.approx(0.0045)


def test_a_size_that_no_batch_has_any_more_is_forgotten() -> None:
    """As it would be known from its first run alone."""
    curve = Curve()
    curve.guess(32, 0.32)
    measure(curve, 32, 0.032)
    measure(curve, 1, 0.02, now=100.0 + 900)
    assert curve.seconds_for_a_row(1.0, 100.0 + 900) == pytest.approx(0.001)
    assert curve.seconds_for_a_row(1.0, 101.0 + 900) == pytest.approx(0.01)
    measure(curve, 32, 0.032, times=1, now=102.0 + 900)
    assert curve.seconds_for_a_row(1.0, 102.0 + 900) == pytest.approx(0.01), "it begins anew"


def test_first_runs_may_be_told_from_another_thread() -> None:
    curve = Curve()
    done = threading.Event()

    def warm_up() -> None:
        for power in range(1000):
            curve.guess(1 << power, 1.0)
        done.set()

    thread = threading.Thread(target=warm_up)
    thread.start()
    while not done.is_set():
        curve.seconds_for_a_row(2.0, 100.0)
    thread.join()
