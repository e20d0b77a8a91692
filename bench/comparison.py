"""A run that was seen and runs that were simulated, side by side: in numbers, and as a picture."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayfleet_operator.cli import plot
from rayfleet_operator.simulation import summary
from rayfleet_operator.simulation.ledger import Outcome
from rayfleet_operator.simulation.simulator import Run

Steps = Sequence[tuple[float, int]]
"""Seconds, and times the rate."""
BIN_S = 5
"""Of a point in the picture."""


@dataclass
class Seen:
    """What was seen of the real one. Times in seconds from the first possible arrival."""

    sent: list[float] = field(default_factory=list)
    """When each request was due, as it came."""
    took: list[float] = field(default_factory=list)
    """Seconds until its answer; of the same requests."""
    status: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    there: list[int] = field(default_factory=list)
    """Replicas that take up their resources: starting, running, stopping."""


@dataclass(frozen=True)
class Side:
    """The real one or a simulated one, in the same terms. Times in seconds from the first possible arrival."""

    sent: Sequence[float]
    """When each request was due, of those that were answered."""
    took: Sequence[float]
    """Seconds until its answer; of the same requests."""
    times: Sequence[float]
    running: Sequence[int]
    """Replicas that ran, at these times."""
    replica_seconds: float


def real(seen: Seen, end: float) -> Side:
    """Of what was seen until `end`."""
    good = [at for at, status in enumerate(seen.status) if status == 200]
    sent, took = [seen.sent[at] for at in good], [seen.took[at] for at in good]
    return Side(sent, took, seen.times, seen.running, area(seen.times, seen.there, end))


def simulated(run: Run, end: float) -> Side:
    """Of what was simulated until `end`."""
    good = [at for at, outcome in enumerate(run.outcomes) if outcome == Outcome.ANSWERED]
    last = bisect_right(run.times, end)
    sent, took = [run.arrivals[at] for at in good], [run.seconds[at] for at in good]
    return Side(sent, took, run.times[:last], run.running[:last], run.paid_s[last - 1])


def area(times: Sequence[float], values: Sequence[int], end: float) -> float:
    """Sum over time of a number that holds until it is looked at again."""
    pairs = itertools.pairwise([*(min(time_, end) for time_ in times), end])
    return sum(value * (until - since) for value, (since, until) in zip(values, pairs, strict=True))


def p99(values: Sequence[float]) -> float:
    return summary.percentile(sorted(values), 99) or math.nan


def numbers(steps: Steps, side: Side) -> dict[str, float]:
    """What is compared."""
    most = max(side.running)
    found: dict[str, float] = {
        "replica-seconds": side.replica_seconds,
        "p50 s": summary.percentile(sorted(side.took), 50) or math.nan,
        "p99 s": p99(side.took),
        "most replicas": most,
        "changes of direction": summary.turns(side.running),
    }
    begins = [0.0, *itertools.accumulate(seconds for seconds, _ in steps)]
    for number, (_, times) in enumerate(steps):
        first, last = begins[number : number + 2]
        took = [took for sent, took in zip(side.sent, side.took, strict=True) if first <= sent < last]
        found[f"p99 s, step {number + 1} ({times}x)"] = p99(took)
    found["seconds from 6x to the most replicas"] = _after(side, begins[1], lambda number: number == most)
    before = side.running[bisect_right(side.times, begins[2]) - 1]
    found["seconds from 1x to fewer replicas"] = _after(side, begins[2], lambda number: number < before)
    found["replicas at the end"] = side.running[-1]
    return found


def _after(side: Side, begin: float, wanted: Callable[[int], bool]) -> float:
    """Seconds from then until so many run; NaN where they never do."""
    pairs = zip(side.times, side.running, strict=True)
    return next((time_ - begin for time_, number in pairs if time_ >= begin and wanted(number)), math.nan)


def started(steps: Steps, seen: Seen) -> float | None:
    """Mean seconds that replicas took to start when the load rose; None where none did."""
    begin = steps[0][0]
    before, most = seen.running[bisect_right(seen.times, begin) - 1], max(seen.running)
    end = next((time_ for time_, number in zip(seen.times, seen.running, strict=True) if number == most), 0.0)
    if most <= before or end < begin:
        return None
    starting = [there - running for there, running in zip(seen.there, seen.running, strict=True)]
    return (area(seen.times, starting, end) - area(seen.times, starting, begin)) / (most - before)


def table(result: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """The numbers of each side as lines of Markdown; the first one is what the others are compared with."""
    (first, true), *others = result.items()
    yield f"| | {first} |{''.join(f' {name} | ratio |' for name, _ in others)}"
    yield f"|---|---|{'---|---|' * len(others)}"
    for name, value in true.items():
        ratios = [f" {found[name]:.4g} | {found[name] / value if value else math.nan:.2f} |" for _, found in others]
        yield f"| {name} | {value:.4g} |{''.join(ratios)}"


def picture(path: Path, due: Sequence[float], sides: Mapping[str, Side], end: float, target_ms: float | None) -> None:
    """Requests, replicas and p99 over time."""
    bins = [float(at) for at in range(0, int(end), BIN_S)]

    def over(side: Side) -> tuple[list[float], list[float]]:
        found: dict[float, list[float]] = {}
        for sent, took in zip(side.sent, side.took, strict=True):
            found.setdefault(sent // BIN_S * BIN_S, []).append(took)
        return sorted(found), [1e3 * p99(found[at]) for at in sorted(found)]

    rates = [(bisect_left(due, at + BIN_S) - bisect_left(due, at)) / BIN_S for at in bins]
    plot.draw(
        path,
        "step load: real and simulated",
        [
            plot.Panel(title="requests/s", lines={"": (bins, rates)}),
            plot.Panel(
                title="replicas that run",
                lines={name: (side.times, side.running) for name, side in sides.items()},
                steps=True,
            ),
            plot.Panel(
                title=f"p99 of {BIN_S} s, ms",
                lines={name: over(side) for name, side in sides.items()},
                limit=None if target_ms is None else ("target", target_ms),
            ),
        ],
    )
