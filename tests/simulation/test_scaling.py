"""Replicas come and go when the policy says so. The times are computed by hand."""

from __future__ import annotations

import itertools

import pytest
from simulation.replays import every, poisson, scaling, setup

from rayfleet_operator.simulation import summary
from rayfleet_operator.simulation.ledger import Outcome
from rayfleet_operator.simulation.router import Rules
from rayfleet_operator.simulation.simulator import Run, Setup, simulate

NO_BATCHES = Rules(routers=1, max_batch_size=1)


def moves(run: Run) -> list[tuple[float, int, int]]:
    return [(time, before, after) for time, before, after, _ in run.changes]


def running_at(run: Run, time: float) -> int:
    return run.running[list(run.times).index(time)]


def test_more_replicas_come_a_delay_and_a_start_up_after_they_are_needed() -> None:
    """Four requests a second of a second each on one replica that may have two: at second 2 more are needed, at 7 they
    have been for five seconds, at 10 they answer."""
    arrivals = [0.5, *every(0.25, 150, begin=1.0)]
    run = simulate(arrivals, setup(scaling(1, 6), service_s=1.0, rules=NO_BATCHES, start_up_s=3.0))
    assert run.needed[1] == 1
    assert run.needed[2] == 2
    assert moves(run)[0][0] == 7.0
    before, after = running_at(run, 9.0), running_at(run, 10.0)
    assert (before, after) == (1, run.wanted[7])
    assert after > 1


def test_a_need_that_passes_before_its_delay_starts_nothing() -> None:
    run = simulate([1.0] * 12, setup(scaling(1, 6, up_s=5.0), service_s=1.0), lasts_s=60.0)
    assert max(run.needed) > 1
    assert moves(run) == []


def test_fewer_replicas_go_a_delay_after_the_last_request() -> None:
    """A moment after the last of twenty requests has ended, one replica is enough for the work of the last ten seconds,
    too."""
    policy = scaling(1, 2, up_s=1.0, down_s=10.0)
    run = simulate([0.1] * 20, setup(policy, service_s=1.0, rules=NO_BATCHES), lasts_s=60.0)
    last = max(0.1 + seconds for seconds in run.seconds)
    (up, down) = moves(run)
    assert up == (2.0, 1, 2)
    assert down[1:] == (2, 1)
    first_idle = next(time for time, needed in zip(run.times, run.needed, strict=True) if time > 2 and needed < 2)
    assert last < first_idle <= last + 3
    assert down[0] == first_idle + 10.0


def test_steps_come_one_after_the_other() -> None:
    """Two at a time, three seconds of need before each step."""
    arrivals = every(0.1, 400)
    policy = scaling(1, 6, up_s=3.0, up_step=2)
    run = simulate(arrivals, setup(policy, service_s=1.0, rules=NO_BATCHES))
    assert moves(run)[:3] == [(4.0, 1, 3), (8.0, 3, 5), (12.0, 5, 6)]


def test_down_steps_come_one_after_the_other() -> None:
    policy = scaling(1, 4, up_s=0.0, down_s=5.0, down_step=1)
    run = simulate([0.1] * 40, setup(policy, service_s=0.5, rules=NO_BATCHES), lasts_s=60.0)
    down = [move for move in moves(run) if move[2] < move[1]]
    assert [move[1:] for move in down] == [(4, 3), (3, 2), (2, 1)]
    assert all(later[0] - earlier[0] == 6.0 for earlier, later in itertools.pairwise(down))


def test_a_burst_counts_for_as_long_as_the_look_back() -> None:
    """Two requests that come together and run one after the other are open for three seconds, 0.3 on average of ten."""
    policy = scaling(1, 30, ongoing=0.1, up_s=60.0, look_back_s=10.0)
    run = simulate([20.0] * 2, setup(policy, service_s=1.0, rules=NO_BATCHES), lasts_s=40.0)
    assert list(run.needed[20:34]) == [0, 2, *[3] * 9, 1, 0, 0]


def test_what_routers_see_counts_later() -> None:
    arrivals = every(0.1, 400)
    at_once = simulate(arrivals, setup(scaling(1, 6), service_s=1.0, rules=NO_BATCHES))
    later = simulate(arrivals, setup(scaling(1, 6, lag_s=2.0), service_s=1.0, rules=NO_BATCHES))
    assert moves(later)[0][0] == moves(at_once)[0][0] + 2.0


def test_latency_asks_for_more_where_requests_do_not() -> None:
    """Two rows in 0.1 s, one every 60 ms: little waits, but longer than the target, while the replica is busy."""
    policy = scaling(1, 4, ongoing=50.0, latency_s=0.12, look_back_s=10.0)
    run = simulate(every(0.06, 3000), setup(policy, service_s=0.1, rules=Rules(max_batch_size=2)))
    assert "p99" in run.changes[0][3]
    assert "> 120 ms" in run.changes[0][3]


def test_refusals_ask_for_more_too() -> None:
    """What is refused waits nowhere, and is above every target."""
    rules = Rules(routers=1, max_batch_size=1, max_ongoing_requests=1, max_queued_requests=0)
    policy = scaling(1, 4, ongoing=50.0, latency_s=1.0, look_back_s=10.0)
    run = simulate(every(0.05, 3000), setup(policy, service_s=0.1, rules=rules))
    assert "requests were refused, or came too late" in run.changes[0][3]


def test_little_work_is_spread_so_that_idle_replicas_go() -> None:
    """Six tenths of one replica's time: on four it is 15 % of each, and one is enough. If the first did all of it, it
    would keep two others."""
    policy = scaling(
        1,
        4,
        ongoing=50.0,
        latency_s=10.0,
        down_s=5.0,
        scheduled=lambda now: (4, "mornings") if now < 20.0 else (0, ""),
        look_back_s=10.0,
    )
    run = simulate(every(1 / 6, 360), setup(policy, service_s=0.1, rules=NO_BATCHES))
    assert run.wanted[10] == 4
    assert run.wanted[-1] == 1


def test_batches_that_could_be_fuller_keep_no_replica() -> None:
    """Alone, a row takes 50 ms, and eight take 64: at twenty a second the device is never idle, and has time for six
    times as many."""
    rules = Rules(max_batch_size=8)
    policy = scaling(
        1,
        4,
        ongoing=50.0,
        latency_s=1.0,
        down_s=5.0,
        scheduled=lambda now: (4, "mornings") if now < 20.0 else (0, ""),
        look_back_s=10.0,
    )
    arrivals = every(0.05, 1200)
    before = Setup(rules=rules, scaling=policy, service=lambda rows: 0.048 + 0.002 * rows)
    run = simulate(arrivals, before)
    assert run.wanted[10] == 4
    assert run.wanted[-1] == 1


def test_what_fewer_replicas_took_asks_for_no_more_of_them() -> None:
    """Two that have just come are enough; the queue that they found is no reason for four."""
    policy = scaling(1, 8, ongoing=1000.0, latency_s=0.5, up_s=5.0, look_back_s=30.0)
    run = simulate(every(0.092, 3000), setup(policy, service_s=0.1, rules=Rules(max_batch_size=1)))
    assert moves(run)[0][1:] == (1, 2)
    assert max(run.wanted) == 2


@pytest.mark.parametrize("rate", [50.0, 60.0])
def test_under_a_load_that_stays_as_it_is_replicas_are_not_given_back_to_be_missed(rate: float) -> None:
    """For half an hour, where five of them come close to the target and six do not."""
    policy = scaling(1, 12, ongoing=50.0, up_s=10.0, down_s=60.0, latency_s=0.2, look_back_s=30.0, lag_s=2.0)
    setup = Setup(rules=Rules(max_batch_size=8), scaling=policy, service=lambda rows: 0.05 + 0.02 * rows, start_up_s=8)
    assert summary.turns(simulate(poisson(rate, int(rate * 1800)), setup).running) <= 5


def test_the_queue_of_a_spike_that_is_over_asks_for_no_more() -> None:
    """One replica does 800 a second in full batches. Of 1500 a second for 45 s, most wait; two have answered them soon,
    but the time that is looked at is longer."""
    arrivals = [*every(1 / 400, 24_000), *every(1 / 1500, 67_500, 60.0), *every(1 / 400, 60_000, 105.0)]
    rules = Rules(max_batch_size=32, max_queued_requests=10_000)
    policy = scaling(1, 16, ongoing=1e5, up_s=30.0, down_s=300.0, latency_s=0.15, look_back_s=120.0, lag_s=2.0)
    run = simulate(
        arrivals,
        Setup(rules=rules, scaling=policy, service=lambda rows: 0.008 + 0.001 * rows, max_wait_s=0.0, start_up_s=20.0),
    )
    assert [move[1:] for move in moves(run)] == [(1, 2)]


def test_what_is_on_its_way_is_not_given_up_while_requests_are_late() -> None:
    """A schedule wants six, which take a minute to start, and is over soon; one replica has work for two, and could say
    so of itself alone."""
    policy = scaling(
        1, 8, ongoing=1e5, up_s=30.0, down_s=5.0, latency_s=0.5, look_back_s=10.0,
        scheduled=lambda now: (6, "mornings") if 10.0 <= now < 20.0 else (0, ""),
    )  # fmt: skip
    run = simulate(every(0.06, 2000), setup(policy, service_s=0.1, rules=NO_BATCHES, start_up_s=60.0))
    assert running_at(run, 69.0) == 1
    assert run.wanted[69] == 6
    assert run.wanted[-1] == 2 < 6


def test_what_was_started_and_is_not_needed_any_more_goes_first() -> None:
    """Replicas take a minute to answer; those that are not there yet go, and the old one stays."""
    policy = scaling(1, 5, up_s=0.0, down_s=5.0)
    run = simulate([0.5] * 30, setup(policy, service_s=0.2, rules=NO_BATCHES, start_up_s=60.0), lasts_s=60.0)
    assert max(run.wanted) == 5
    assert max(run.running) == 1
    assert run.wanted[-1] == 1


def test_the_last_replica_goes_after_its_own_delay() -> None:
    """The request is answered at 3.2; the first second without any is over at 5."""
    policy = scaling(0, 2, down_s=5.0, to_zero_s=20.0)
    run = simulate([0.5], setup(policy, service_s=0.2, start_up_s=2.0), lasts_s=60.0)
    assert moves(run) == [(1.0, 0, 1), (25.0, 1, 0)]


def test_the_first_request_wakes_a_model_and_waits_for_it() -> None:
    """It comes at 0.5, is seen at 1, and a replica answers at 5."""
    run = simulate([0.5], setup(scaling(0, 2), service_s=0.2, start_up_s=4.0))
    assert list(run.seconds) == [pytest.approx(4.7)]


def test_none_of_many_that_wake_a_model_together_is_lost() -> None:
    run = simulate([0.5] * 100, setup(scaling(0, 4), service_s=0.2, start_up_s=4.0))
    assert set(run.outcomes) == {Outcome.ANSWERED}


def test_a_sleeping_model_keeps_no_more_than_may_wait() -> None:
    rules = Rules(routers=1, max_queued_requests=10)
    run = simulate([0.5] * 100, setup(scaling(0, 4), rules=rules, start_up_s=4.0))
    assert run.outcomes.count(Outcome.ANSWERED) == 10
    assert run.outcomes.count(Outcome.REFUSED) == 90


def test_a_schedule_has_its_replicas_there_before_any_request() -> None:
    policy = scaling(1, 6, down_s=5.0, scheduled=lambda now: (4, "mornings") if 20.0 <= now < 40.0 else (0, ""))
    run = simulate([], setup(policy, start_up_s=3.0), lasts_s=60.0)
    assert moves(run) == [(20.0, 1, 4), (45.0, 4, 1)]
    assert [reason for *_, reason in run.changes] == ["schedule mornings", "no fewer are allowed"]
    assert running_at(run, 22.0) == 1
    assert running_at(run, 23.0) == 4


def test_replicas_that_start_are_paid_for_and_those_that_leave_until_they_are_idle() -> None:
    """One for 60 s; three more from 20 until 45, of which the first three seconds are start-up."""
    policy = scaling(1, 6, down_s=5.0, scheduled=lambda now: (4, "mornings") if 20.0 <= now < 40.0 else (0, ""))
    run = simulate([], setup(policy, start_up_s=3.0), lasts_s=60.0)
    assert run.replica_seconds == pytest.approx(60.0 + 3 * 25.0)


def test_a_fixed_number_stays() -> None:
    run = simulate(every(0.01, 3000), setup(3, service_s=0.2))
    assert set(run.wanted) == set(run.running) == {3}
    assert run.replica_seconds == pytest.approx(3 * run.end)
