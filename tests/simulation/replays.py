"""Arrivals and setups that the tests of the simulator share."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from rayfleet_operator.simulation.router import Rules
from rayfleet_operator.simulation.scaling import Scaling, fixed
from rayfleet_operator.simulation.simulator import Setup
from rayfleet_serving.autoscaling.delays import Pace
from rayfleet_serving.autoscaling.need import Goal

NO_LIMIT = 10_000_000


def poisson(rate: float, number: int, seed: int = 1) -> array[float]:
    """Seconds at which so many requests come at a rate."""
    chance = random.Random(seed)
    times, now = array("d"), 0.0
    for _ in range(number):
        now += chance.expovariate(rate)
        times.append(now)
    return times


def every(seconds: float, number: int, begin: float = 0.0) -> list[float]:
    """Requests one after the other."""
    return [begin + at * seconds for at in range(number)]


def one_by_one(service_s: Callable[[int], float] | float, replicas: int = 1) -> Setup:
    """A queue of the textbooks: one router, batches of one, nothing refused and nothing late."""
    return Setup(
        rules=Rules(routers=1, max_batch_size=1, max_ongoing_requests=NO_LIMIT, max_queued_requests=NO_LIMIT),
        scaling=fixed(replicas),
        service=service_s if callable(service_s) else lambda rows: service_s,
        max_wait_s=0.0,
        request_timeout_s=1e6,
    )


def setup(scaling: Scaling | int = 1, *, service_s: float = 0.1, rules: Rules | None = None, **others: Any) -> Setup:
    """A batch takes as long whatever is in it."""
    return Setup(
        rules=rules or Rules(),
        scaling=fixed(scaling) if isinstance(scaling, int) else scaling,
        service=lambda rows: service_s,
        **{"max_wait_s": 0.0, **others},
    )


def scaling(
    least: int, most: int, *, ongoing: float = 2.0, up_s: float = 5.0, down_s: float = 10.0, **others: Any
) -> Scaling:
    """By requests; a look-back of one second, and decisions at once, unless it is said otherwise."""
    pace = Pace(
        least=least,
        most=most,
        upscale_delay_s=up_s,
        downscale_delay_s=down_s,
        upscale_step=others.pop("up_step", None),
        downscale_step=others.pop("down_step", None),
        scale_to_zero_delay_s=others.pop("to_zero_s", None),
    )
    goal = Goal(ongoing=ongoing, latency_s=others.pop("latency_s", None))
    return Scaling(goal=goal, pace=pace, **{"look_back_s": 1.0, "lag_s": 0.0, **others})


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
