"""When a need counts: the same rule as Serve's own, which a test asks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.autoscaling_policy import _apply_delay_logic

from rayfleet_serving.autoscaling.delays import Delays, Pace, stepped

PACE = Pace(least=1, most=10, upscale_delay_s=30, downscale_delay_s=300)


def run(pace: Pace, needs: list[int], replicas: int = 1) -> list[int]:
    """One need a second."""
    delays, numbers = Delays(pace), []
    for now, wanted in enumerate(needs):
        replicas = delays.decide(wanted, replicas, float(now))
        numbers.append(replicas)
    return numbers


def test_more_are_started_once_they_were_needed_for_the_delay() -> None:
    assert run(PACE, [6] * 31) == [1] * 30 + [6]


def test_a_moment_without_need_begins_the_delay_anew() -> None:
    assert run(PACE, [6] * 20 + [1] + [6] * 31) == [1] * 51 + [6]


def test_fewer_wait_for_longer() -> None:
    assert run(PACE, [1] * 301, replicas=6) == [6] * 300 + [1]


@pytest.mark.parametrize(("wanted", "replicas", "number"), [(9, 1, 3), (1, 9, 8), (0, 2, 1), (99, 9, 10), (0, 1, 0)])
def test_steps_and_bounds(wanted: int, replicas: int, number: int) -> None:
    assert stepped(wanted, replicas, Pace(least=0, most=10, upscale_step=2, downscale_step=1)) == number


def test_the_last_one_has_a_delay_of_its_own_and_goes_alone() -> None:
    pace = Pace(least=0, most=10, upscale_delay_s=1, downscale_delay_s=2, scale_to_zero_delay_s=5)
    assert run(pace, [0] * 9, replicas=3) == [3, 3, 1, 1, 1, 1, 1, 1, 0]


def test_from_zero_there_is_no_delay() -> None:
    assert run(Pace(least=0, most=10), [0, 0, 3], replicas=0) == [0, 0, 3]


quarters = st.integers(0, 36).map(lambda number: number / 4)
"""Seconds; Serve's delays are over a millionth of one before their time."""


@given(
    st.lists(st.integers(0, 12), max_size=60),
    st.integers(0, 3),
    quarters,
    quarters,
    st.none() | quarters,
)
def test_it_is_the_rule_that_serve_has(
    needs: list[int], replicas: int, up: float, down: float, zero: float | None
) -> None:
    pace = Pace(least=0, most=12, upscale_delay_s=up, downscale_delay_s=down, scale_to_zero_delay_s=zero)
    config = SimpleNamespace(upscale_delay_s=up, downscale_delay_s=down, downscale_to_zero_delay_s=zero)
    ours, theirs, state = Delays(pace), replicas, dict[str, object]()
    for now, wanted in enumerate(needs):
        replicas = ours.decide(wanted, replicas, float(now))
        if theirs == 0 and wanted > 0:
            theirs = wanted
        else:
            wanted = max(1, wanted) if theirs > 1 else wanted
            theirs, state = _apply_delay_logic(wanted, theirs, config, state, float(now))  # type: ignore[arg-type]
        assert replicas == theirs
