"""The queues wait as long as queueing theory says."""

from __future__ import annotations

import math
import random

import pytest
from simulation.replays import mean, one_by_one, poisson

from rayfleet_operator.simulation import router
from rayfleet_operator.simulation.simulator import simulate

SERVICE_S = 0.1


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_constant_service_waits_as_in_an_m_d_1_queue(load: float) -> None:
    """Pollaczek-Khinchine: rho * service / (2 * (1 - rho))."""
    run = simulate(poisson(load / SERVICE_S, 100_000), one_by_one(SERVICE_S))
    expected = load * SERVICE_S / (2 * (1 - load))
    assert mean(run.seconds) - SERVICE_S == pytest.approx(expected, rel=0.05)


def erlang_c(servers: int, offered: float) -> float:
    """Probability that an arrival waits, by Erlang's formula."""
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (2, 0.7), (5, 0.8)])
def test_random_service_waits_as_in_an_m_m_c_queue(monkeypatch: pytest.MonkeyPatch, servers: int, load: float) -> None:
    # Of the textbook's servers, each has one request, and all others wait in one queue.
    monkeypatch.setattr(router, "CALLS_PER_REPLICA", 1)
    chance = random.Random(3)
    setup = one_by_one(lambda rows: chance.expovariate(1 / SERVICE_S), servers)
    run = simulate(poisson(servers * load / SERVICE_S, 150_000), setup)
    expected = erlang_c(servers, servers * load) * SERVICE_S / (servers * (1 - load))
    assert mean(run.seconds) - SERVICE_S == pytest.approx(expected, rel=0.06)


def test_a_second_call_for_each_replica_waits_little_longer_than_one_queue() -> None:
    servers, load = 4, 0.8
    chance = random.Random(3)
    setup = one_by_one(lambda rows: chance.expovariate(1 / SERVICE_S), servers)
    run = simulate(poisson(servers * load / SERVICE_S, 100_000), setup)
    least = erlang_c(servers, servers * load) * SERVICE_S / (servers * (1 - load))
    alone = load / (1 - load) * SERVICE_S
    """Each with a queue of its own."""
    assert least < mean(run.seconds) - SERVICE_S < (least + alone) / 2


def test_the_busy_share_is_arrivals_times_service() -> None:
    run = simulate(poisson(5.0, 50_000), one_by_one(SERVICE_S))
    assert run.busy_s[-1] / run.end == pytest.approx(0.5, rel=0.02)
