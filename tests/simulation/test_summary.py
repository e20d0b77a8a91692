"""What a run is summed up to, and how it is drawn in a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation.replays import every, scaling, setup

from rayfleet_operator.cli import blocks, replay
from rayfleet_operator.simulation import summary
from rayfleet_operator.simulation.router import Rules
from rayfleet_operator.simulation.simulator import simulate


@pytest.mark.parametrize(
    ("counts", "turns"),
    [([], 0), ([1], 0), ([1, 1, 4, 4, 6], 0), ([1, 4, 4, 2], 1), ([1, 6, 1, 6], 2), ([3, 2, 2, 3, 3, 2, 1], 2)],
)
def test_turns_of_a_number(counts: list[int], turns: int) -> None:
    assert summary.turns(counts) == turns


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = [float(value) for value in range(1, 101)]
    assert summary.percentile(values, 99) == 99
    assert summary.percentile(values, 50) == 50
    assert summary.percentile([7.0], 99) == 7
    assert summary.percentile([], 99) is None


def test_rows_are_round_and_about_two_dozen() -> None:
    assert [summary.width(seconds) for seconds in (10, 240, 3600, 86_400, 90 * 86_400)] == [1, 10, 300, 3600, 86_400]


@given(st.lists(st.floats(0, 100), max_size=80).map(sorted), st.sampled_from([1, 7, 30, 1000]))
def test_rows_sum_up_to_the_totals(arrivals: list[float], width: int) -> None:
    rules = Rules(max_batch_size=1, max_queued_requests=3, max_ongoing_requests=2)
    run = simulate(arrivals, setup(scaling(0, 3), service_s=0.7, rules=rules, request_timeout_s=2.0, start_up_s=3.0))
    spans, totals = list(summary.spans(run, width)), summary.totals(run)
    assert [span.begin for span in spans] == [width * at for at in range(len(spans))]
    assert spans[-1].end == run.end == totals.seconds
    for name in ("requests", "refused", "late", "unavailable"):
        assert sum(getattr(span, name) for span in spans) == getattr(totals, name)
    assert sum(span.replica_seconds for span in spans) == pytest.approx(totals.replica_seconds)
    assert totals.requests == totals.answered + totals.refused + totals.late + totals.unavailable == len(arrivals)
    assert all(0 <= span.busy <= 1 + 1e-9 for span in spans)


def test_the_share_within_the_target_is_of_all_requests() -> None:
    """One is answered after 1 s, the next one after 2, and one is refused."""
    rules = Rules(routers=1, max_batch_size=1, max_ongoing_requests=2, max_queued_requests=0)
    run = simulate([0.0, 0.0, 0.0], setup(service_s=1.0, rules=rules))
    assert summary.totals(run, 1.5).within == pytest.approx(1 / 3)


def test_a_run_without_requests_has_no_latency() -> None:
    run = simulate([], setup(2), lasts_s=10.0)
    totals = summary.totals(run, 1.0)
    assert (totals.p99_s, totals.within, totals.replica_seconds) == (None, None, 20.0)


def test_bars_rise_with_their_values() -> None:
    assert blocks.bars([0, 1, 2, 4, None], height=2) == ["   █ ", " ▄██ "]
    assert blocks.bars([0, 1, 2, 4, None], height=2, encoding="ascii") == ["   # ", " =## "]
    assert blocks.bars([0.0, None], height=1) == ["  "]
    assert blocks.bars([], height=2) == ["", ""]


def test_what_is_there_at_all_is_seen() -> None:
    assert blocks.bars([1e-6, 1.0], height=1) == ["▁█"]


def test_a_run_longer_than_a_bar_is_wide_is_drawn_whole() -> None:
    run = simulate(every(1.0, 500), setup(1))
    lines = list(replay.charts(run, None, "utf-8"))
    assert {len(line) for line in lines if line.startswith("  ")} == {2 + 72}
    assert lines[0] == "requests/s, at most 1"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0 ms"), (0.0263, "26.3 ms"), (0.9994, "999 ms"), (1.0, "1 s"), (75.0, "75 s")],
)
def test_seconds_in_words(value: float | None, text: str) -> None:
    assert replay.seconds(value) == text


def test_times_of_a_run() -> None:
    assert [replay.clock(time) for time in (0, 65, 3600, 93_784)] == ["0:00", "1:05", "1:00:00", "26:03:04"]
