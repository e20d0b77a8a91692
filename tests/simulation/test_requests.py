"""Every request ends once, in the way that the routers' and the batcher's rules say."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation.replays import every, poisson, scaling, setup

from rayfleet_operator.simulation.ledger import Outcome
from rayfleet_operator.simulation.router import Rules
from rayfleet_operator.simulation.simulator import Run, Setup, simulate


def ended(run: Run) -> Counter[str]:
    return Counter(Outcome(each).name for each in run.outcomes)


setups = st.builds(
    lambda routers, batch, ongoing, queued, timeout, service, wait, hop, start_up, least, extra: Setup(
        rules=Rules(routers=routers, max_batch_size=batch, max_ongoing_requests=ongoing, max_queued_requests=queued),
        scaling=scaling(least, least + extra, up_s=1.0, down_s=2.0),
        service=lambda rows: service * (1 + rows / 10),
        request_timeout_s=timeout,
        max_wait_s=wait,
        hop_s=hop,
        start_up_s=start_up,
    ),
    routers=st.integers(1, 4),
    batch=st.integers(1, 9),
    ongoing=st.integers(1, 20),
    queued=st.integers(0, 20),
    timeout=st.floats(0.05, 5.0),
    service=st.floats(0.001, 1.0),
    wait=st.sampled_from([0.0, 0.005, 0.5]),
    hop=st.sampled_from([0.0, 0.003]),
    start_up=st.floats(0.0, 4.0),
    least=st.integers(0, 3),
    extra=st.integers(1, 3),
)
arrivals = st.lists(st.floats(0.0, 15.0), max_size=150).map(sorted)


@given(arrivals=arrivals, setup=setups, sizes=st.integers(0, 3), seed=st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_each_request_ends_exactly_once_and_in_time(arrivals: list[float], setup: Setup, sizes: int, seed: int) -> None:
    rows = [1 + (at * 7 + seed) % (1 + 9 * sizes) for at in range(len(arrivals))] if sizes else None
    run = simulate(arrivals, setup, rows=rows)
    assert Outcome.OPEN not in run.outcomes
    assert sum(ended(run).values()) == len(arrivals)
    for outcome, seconds in zip(run.outcomes, run.seconds, strict=True):
        if outcome == Outcome.REFUSED:
            assert seconds == 0
        else:
            assert 0 <= seconds <= setup.request_timeout_s + setup.hop_s + 1e-9
        if outcome == Outcome.ANSWERED:
            assert seconds >= setup.hop_s
    # Sums are of what there was: no more computing than running, no more running than paid for.
    assert 0 <= run.busy_s[-1] <= run.replica_seconds + 1e-6
    most = setup.scaling.pace.most
    assert all(0 <= running <= most for running in run.running)
    assert all(setup.scaling.pace.least <= wanted <= most for wanted in run.wanted)


@given(arrivals=arrivals, setup=setups)
@settings(max_examples=30, deadline=None)
def test_the_same_requests_give_the_same_run(arrivals: list[float], setup: Setup) -> None:
    one, other = simulate(arrivals, setup), simulate(arrivals, setup)
    assert (one.outcomes, one.seconds, one.changes) == (other.outcomes, other.seconds, other.changes)


def test_a_lone_request_takes_its_batch_and_its_way() -> None:
    run = simulate([1.0], setup(service_s=0.1, hop_s=0.004))
    assert list(run.seconds) == [pytest.approx(0.104)]


def test_the_way_makes_each_answer_later_and_no_batch_smaller() -> None:
    """Also where it takes longer than an idle device would wait for a fuller batch."""
    requests, rules = poisson(20.0, 2000), Rules(max_batch_size=8)
    near, far = (
        simulate(requests, setup(service_s=0.1, rules=rules, max_wait_s=0.005, hop_s=hop_s)) for hop_s in (0.0, 0.02)
    )
    assert list(far.seconds) == pytest.approx([seconds + 0.02 for seconds in near.seconds])


def test_what_arrives_while_a_batch_runs_is_in_the_next_ones() -> None:
    """One router, one replica, batches of 4 that take 1 s: 1 alone, then two calls of those that waited."""
    rules = Rules(routers=1, max_batch_size=4)
    run = simulate([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], setup(service_s=1.0, rules=rules))
    # The second call leaves at once and waits in the replica; the others leave when the first has landed, and join.
    assert list(run.seconds) == pytest.approx([1.0, 1.9, 2.8, 2.7, 2.6, 2.5])


def test_a_request_of_many_rows_lets_others_have_their_turn() -> None:
    rules = Rules(routers=1, max_batch_size=10)
    run = simulate([0.0, 0.1], setup(service_s=1.0, rules=rules), rows=[35, 1])
    assert list(run.seconds) == pytest.approx([5.0, 1.9])


def test_too_many_are_refused_at_once() -> None:
    """Two may be with the replica, two calls of one; three may wait."""
    rules = Rules(routers=1, max_batch_size=1, max_ongoing_requests=2, max_queued_requests=3)
    run = simulate([0.0] * 8, setup(service_s=1.0, rules=rules))
    assert ended(run) == {"ANSWERED": 5, "REFUSED": 3}
    assert sorted(run.seconds) == pytest.approx([0, 0, 0, 1, 2, 3, 4, 5])


def test_a_queue_without_places_takes_what_can_be_sent() -> None:
    rules = Rules(routers=1, max_batch_size=1, max_ongoing_requests=2, max_queued_requests=0)
    run = simulate([0.0, 0.0, 0.0], setup(service_s=1.0, rules=rules))
    assert ended(run) == {"ANSWERED": 2, "REFUSED": 1}


def test_what_cannot_be_in_time_is_late_when_its_time_is_over() -> None:
    rules = Rules(routers=1, max_batch_size=1)
    run = simulate([0.0, 0.0, 0.0], setup(service_s=1.0, rules=rules, request_timeout_s=2.5))
    assert ended(run) == {"ANSWERED": 2, "LATE": 1}
    assert run.seconds[2] == pytest.approx(2.5)


def test_an_overloaded_model_answers_what_it_can_in_time_and_tells_the_others_at_once() -> None:
    """Twice as many come as it answers."""
    rules = Rules(max_batch_size=1, max_queued_requests=10_000)
    run = simulate(every(0.05, 2000), setup(service_s=0.1, rules=rules, request_timeout_s=1.0))
    assert ended(run)["ANSWERED"] > 950
    assert ended(run)["REFUSED"] > 850
    assert ended(run)["LATE"] < 150


def test_requests_without_a_replica_are_unavailable_at_their_deadline() -> None:
    policy = scaling(0, 1)
    run = simulate([0.5], setup(policy, request_timeout_s=3.0, start_up_s=10.0))
    assert ended(run) == {"UNAVAILABLE": 1}
    assert run.seconds[0] == pytest.approx(3.0)


def test_routers_share_the_calls_that_may_be_in_flight() -> None:
    """Two routers have one call each for one replica; each takes every other request."""
    run = simulate([0.0, 0.0, 0.1, 0.1], setup(service_s=1.0, rules=Rules(routers=2, max_batch_size=1)))
    assert sorted(run.seconds) == pytest.approx([1.0, 2.0, 2.9, 3.9])


def test_an_idle_device_waits_for_a_fuller_batch_where_that_pays() -> None:
    """Bursts of four every three seconds, batches of 0.9 s: once that is known, the first of a burst waits for the
    second, which leaves in a call of its own; the others leave when the first call has landed."""
    rules = Rules(routers=1, max_batch_size=4)
    bursts = [burst * 3.0 + at * 0.05 for burst in range(20) for at in range(4)]
    eager = simulate(bursts, setup(service_s=0.9, rules=rules, max_wait_s=0.0))
    patient = simulate(bursts, setup(service_s=0.9, rules=rules, max_wait_s=0.5))
    assert list(eager.seconds[-4:]) == pytest.approx([0.9, 1.75, 2.6, 2.55])
    assert list(patient.seconds[-4:]) == pytest.approx([0.95, 0.9, 1.75, 1.7])


def test_a_day_of_many_requests_is_conserved() -> None:
    run = simulate(poisson(100.0, 50_000), setup(scaling(1, 4, ongoing=3.0), service_s=0.05, start_up_s=3.0))
    assert ended(run)["ANSWERED"] == 50_000
