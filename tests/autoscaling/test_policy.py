"""What Serve's controller asks: right numbers from what replicas tell, and never an exception."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle
from ray.serve.config import AutoscalingPolicy

from rayfleet_serving.autoscaling import stats
from rayfleet_serving.autoscaling.policy import Policy
from rayfleet_serving.config import POLICY_IMPORT_PATH


def told(*numbers: float, at: float = 100.0, **more: float) -> dict[str, Any]:
    """By one replica each."""
    names = {stats.WANTED: numbers, **{name: [each] for name, each in more.items()}}
    return {
        name: {f"r{n}": [SimpleNamespace(timestamp=at, value=value)] for n, value in enumerate(values)}
        for name, values in names.items()
    }


def asked(metrics: Any, target: int = 2) -> int:
    number, state = Policy()(SimpleNamespace(target_num_replicas=target, raw_metrics=metrics))
    assert state == {}
    assert type(number) is int
    return number


def test_the_largest_number_counts() -> None:
    assert asked(told(3, 5, 4)) == 5


def test_the_newest_number_of_a_replica_counts_and_one_that_hangs_is_not_asked() -> None:
    metrics = told(3)
    metrics[stats.WANTED]["r0"].insert(0, SimpleNamespace(timestamp=1.0, value=9))
    metrics[stats.WANTED]["hangs"] = [SimpleNamespace(timestamp=89.0, value=9)]
    assert asked(metrics) == 3


@pytest.mark.parametrize(
    ("wanted", "target", "number"), [(9, 2, 4), (1, 9, 8), (0, 2, 1), (0, 1, 0), (3, 2, 3), (2, 2, 2)]
)
def test_a_step_goes_so_far(wanted: int, target: int, number: int) -> None:
    assert asked(told(wanted, **{stats.STEP_UP: 2, stats.STEP_DOWN: 1}), target) == number


def test_the_last_replica_goes_alone() -> None:
    assert [asked(told(0), target) for target in (3, 1)] == [1, 0]


@pytest.mark.parametrize(("stays", "number"), [((1.0, 0.0), 8), ((0.0, 0.0), 4), ((math.nan, 1.0), 8), ((), 4)])
def test_while_requests_are_late_nothing_goes_that_is_to_be_there(stays: tuple[float, ...], number: int) -> None:
    """Two of eight are there, and know of no others."""
    metrics = told(4, 4)
    metrics[stats.STAYS] = {f"r{n}": [SimpleNamespace(timestamp=100.0, value=each)] for n, each in enumerate(stays)}
    assert asked(metrics, 8) == number
    assert asked({**metrics, **told(9, 9)}, 8) == 9


@pytest.mark.parametrize(
    "metrics",
    [
        None, 3, {}, [], {stats.WANTED: None}, {stats.WANTED: {}}, {stats.WANTED: {"r": []}},
        {stats.WANTED: {"r": [None]}},
        told(math.nan), told(math.inf), told(-1), told(1e300), told(3, at=math.nan), told("three"),  # type: ignore[arg-type]
        {"running_requests": {"r": [SimpleNamespace(timestamp=1, value=7)]}},
    ],
)  # fmt: skip
def test_rubbish_leaves_the_number_as_it_is(metrics: Any) -> None:
    assert asked(metrics, 7) == 7


def test_one_replica_that_tells_rubbish_hides_no_other() -> None:
    assert asked(told(math.nan, 4)) == 4


@given(st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_nothing_makes_it_raise(metrics: Any) -> None:
    assert asked(metrics) == 2
    assert Policy()(metrics) == (1, {})


def test_serve_finds_it_and_can_send_it_to_its_controller() -> None:
    policy = AutoscalingPolicy(policy_function=POLICY_IMPORT_PATH)
    policy.serialize_policy()
    found = cloudpickle.loads(cloudpickle.dumps(policy)).get_policy()
    assert found()(SimpleNamespace(target_num_replicas=2, raw_metrics=told(3))) == (3, {})
