"""A run in numbers: rows over time, and totals."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rayfleet_operator.simulation.ledger import Outcome
from rayfleet_operator.simulation.simulator import Run

ROWS = 24
"""About so many rows show a run on one screen."""
WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


@dataclass(frozen=True)
class Span:
    """A time of a run. Requests count where they arrived."""

    begin: float
    end: float
    requests: int
    wanted: int
    """Replicas, at the end."""
    running: int
    """Replicas that were sent requests, at the end."""
    busy: float
    """Share of the replica-seconds in which a batch ran."""
    p50_s: float | None
    p99_s: float | None
    """Of the answered requests; None where there were none."""
    refused: int
    """429."""
    late: int
    """504."""
    unavailable: int
    """503."""
    replica_seconds: float


@dataclass(frozen=True)
class Totals:
    """Of a whole run."""

    seconds: float
    requests: int
    answered: int
    refused: int
    late: int
    unavailable: int
    p50_s: float | None
    p99_s: float | None
    longest_s: float | None
    replica_seconds: float
    most: int
    """Replicas that were wanted, at most."""
    changes: int
    """Of the number of replicas that was wanted."""
    turns: int
    """Of these changes, those in another direction than the one before."""
    within: float | None
    """Share of all requests that were answered within the latency target; None without one."""


def percentile(ascending: Sequence[float], percent: float) -> float | None:
    """The value that `percent` of them do not exceed (nearest rank); None of nothing."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def turns(counts: Sequence[int]) -> int:
    """How often a number that changes changes its direction: 1, 4, 4, 2 has one turn."""
    directions = [b > a for a, b in itertools.pairwise(counts) if a != b]
    return sum(a != b for a, b in itertools.pairwise(directions))


def width(seconds: float) -> int:
    """Of a row, in seconds: round, and such that a run of this length has about `ROWS` of them."""
    return next((each for each in WIDTHS_S if seconds / each <= ROWS), WIDTHS_S[-1])


def spans(run: Run, width_s: float) -> Iterator[Span]:
    """The run in rows of this length; the last one may be shorter."""
    first, begin = 0, 0.0
    while begin < run.end:
        end = min(begin + width_s, run.end)
        last = bisect_left(run.arrivals, end, lo=first) if end < run.end else len(run.arrivals)
        at, before = bisect_right(run.times, end) - 1, bisect_right(run.times, begin) - 1
        outcomes = run.outcomes[first:last]
        answered = _answered(run, first, last)
        paid = run.paid_s[at] - run.paid_s[before]
        yield Span(
            begin=begin,
            end=end,
            requests=last - first,
            wanted=run.wanted[at],
            running=run.running[at],
            busy=(run.busy_s[at] - run.busy_s[before]) / paid if paid else 0.0,
            p50_s=percentile(answered, 50),
            p99_s=percentile(answered, 99),
            refused=outcomes.count(Outcome.REFUSED),
            late=outcomes.count(Outcome.LATE),
            unavailable=outcomes.count(Outcome.UNAVAILABLE),
            replica_seconds=paid,
        )
        first, begin = last, end


def totals(run: Run, target_s: float | None = None) -> Totals:
    """Of the whole run; `target_s` is the longest time that an answer should take."""
    answered = _answered(run, 0, len(run.arrivals))
    counts = [run.wanted[0], *(after for _, _, after, _ in run.changes)]
    requests = len(run.arrivals)
    return Totals(
        seconds=run.end,
        requests=requests,
        answered=len(answered),
        refused=run.outcomes.count(Outcome.REFUSED),
        late=run.outcomes.count(Outcome.LATE),
        unavailable=run.outcomes.count(Outcome.UNAVAILABLE),
        p50_s=percentile(answered, 50),
        p99_s=percentile(answered, 99),
        longest_s=answered[-1] if answered else None,
        replica_seconds=run.replica_seconds,
        most=max(run.wanted),
        changes=len(run.changes),
        turns=turns(counts),
        within=bisect_right(answered, target_s) / requests if target_s is not None and requests else None,
    )


def _answered(run: Run, first: int, last: int) -> Sequence[float]:
    """Seconds of the requests that were answered, ascending."""
    if run.outcomes.count(Outcome.ANSWERED, first, last) == last - first:
        return sorted(run.seconds[first:last])
    return sorted(run.seconds[at] for at in range(first, last) if run.outcomes[at] == Outcome.ANSWERED)
