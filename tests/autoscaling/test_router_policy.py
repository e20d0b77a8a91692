"""How many routers there should be, by what they tell of themselves."""

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
from rayfleet_serving.autoscaling.router_policy import RouterPolicy
from rayfleet_serving.config import ROUTER_POLICY_IMPORT_PATH
from rayfleet_serving.router.busy import Busy


def told(*routers: tuple[float, float], at: float = 100.0) -> dict[str, Any]:
    """Each as (busy share, requests)."""
    return {
        name: {f"r{n}": [SimpleNamespace(timestamp=at, value=each[part])] for n, each in enumerate(routers)}
        for part, name in enumerate((stats.BUSY, stats.ONGOING))
    }


def asked(metrics: Any, target: int = 2) -> int:
    number, state = RouterPolicy()(SimpleNamespace(target_num_replicas=target, raw_metrics=metrics))
    assert state == {}
    return number


@pytest.mark.parametrize(
    ("routers", "number"),
    [
        ([(0.0, 0.0), (0.0, 0.0)], 1),
        ([(0.6, 0.0), (0.6, 0.0)], 2),
        ([(0.7, 0.0), (0.7, 0.0)], 3),
        ([(1.0, 0.0)] * 3, 5),
        ([(0.1, 2000.0), (0.1, 2001.0)], 3),
    ],
)
def test_none_works_more_or_holds_more_than_it_may(routers: list[tuple[float, float]], number: int) -> None:
    assert asked(told(*routers)) == number


@pytest.mark.parametrize("metrics", [None, {}, {stats.BUSY: 3}, told((math.nan, math.inf)), told((0.5, -1.0))])
def test_rubbish_leaves_the_number_as_it_is(metrics: Any) -> None:
    assert asked(metrics, 7) == 7


@given(st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_nothing_makes_it_raise(metrics: Any) -> None:
    assert asked(metrics) == 2
    assert RouterPolicy()(metrics) == (2, {})


def test_serve_finds_it_and_can_send_it_to_its_controller() -> None:
    policy = AutoscalingPolicy(policy_function=ROUTER_POLICY_IMPORT_PATH)
    policy.serialize_policy()
    found = cloudpickle.loads(cloudpickle.dumps(policy)).get_policy()
    assert found()(SimpleNamespace(target_num_replicas=2, raw_metrics=told((1.0, 0.0)))) == (2, {})


def test_busy_is_the_share_of_the_last_seconds() -> None:
    now = {"clock": 0.0, "cpu": 0.0}
    busy = Busy(lambda: now["clock"], lambda: now["cpu"])
    for share in (0.1, 0.9):
        for _ in range(10):
            now["clock"] += 1
            now["cpu"] += share
            busy.look()
        assert busy.share == pytest.approx(share, rel=0.01)
