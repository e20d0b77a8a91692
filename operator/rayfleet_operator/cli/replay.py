"""A simulated run in words, rows and bars: from what happened to lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.cli import blocks
from rayfleet_operator.simulation import summary
from rayfleet_operator.simulation.curve import Curve
from rayfleet_operator.simulation.simulator import Run, Setup
from rayfleet_operator.simulation.summary import Span, Totals

COLUMNS = 72
"""Of the bars."""
MOST_CHANGES = 40
"""Lines of changes; a run of days has thousands."""
HEAD = ("time", "requests/s", "wanted", "running", "busy", "p50", "p99", "429", "503", "504")


def assumptions(model: ModelDeployment, setup: Setup, curve: Curve) -> Iterator[str]:
    """What the run is made of."""
    pace, goal = setup.scaling.pace, setup.scaling.goal
    if model.spec.autoscaling is None:
        yield f"{model.metadata.name}: {_count(pace.least, 'replica')}, always"
    else:
        target = "" if goal.latency_s is None else f", p{goal.percentile} within {seconds(goal.latency_s)}"
        per = f"{goal.ongoing:g} requests for each{target}"
        waits = f"look-back {setup.scaling.look_back_s:g} s, up after {pace.upscale_delay_s:g} s, "
        waits += f"down after {pace.downscale_delay_s:g} s"
        yield f"{model.metadata.name}: {pace.least} to {pace.most} replicas, {per}; {waits}"
    most = setup.rules.max_batch_size
    sizes = [1, most] if most > 1 else [1]
    batches = ", ".join(f"{seconds(setup.service(rows))} for {_count(rows, 'row')}" for rows in sizes)
    measured = curve.points[-1][0]
    beyond = f" (measured up to {measured} only)" if measured < most else ""
    hop = f"{seconds(curve.hop_s)} of way" if curve.hop_s else "nothing for the way"
    answers = f"a replica answers {seconds(setup.start_up_s)} after it is wanted"
    yield f"a batch takes {batches}{beyond}, and {hop}; {answers}; {_count(setup.rules.routers, 'router')}"


def table(spans: Sequence[Span]) -> Iterator[str]:
    """A row for each span; 503 stands there only where some were."""
    kept = [name for name in HEAD if name != "503" or any(span.unavailable for span in spans)]
    rows = [dict(zip(HEAD, _row(span), strict=True)) for span in spans]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in kept}
    yield "  ".join(name.rjust(widths[name]) for name in kept)
    for row in rows:
        yield "  ".join(row[name].rjust(widths[name]) for name in kept)


def _row(span: Span) -> tuple[str, ...]:
    return (
        clock(span.begin),
        f"{span.requests / (span.end - span.begin):.3g}",
        str(span.wanted),
        str(span.running),
        f"{span.busy:.0%}",
        seconds(span.p50_s),
        seconds(span.p99_s),
        str(span.refused),
        str(span.unavailable),
        str(span.late),
    )


def charts(run: Run, target_s: float | None, encoding: str | None) -> Iterator[str]:
    """Requests, replicas and latency over the whole run, as bars."""
    spans = list(summary.spans(run, max(1.0, math.ceil(run.end / COLUMNS))))
    rates = [span.requests / (span.end - span.begin) for span in spans]
    # Of each column the most that ran, not what ran at its end: a peak is what a chart is looked at for.
    running = [float(max(run.running[round(span.begin) : round(span.end) + 1])) for span in spans]
    p99 = [span.p99_s for span in spans]
    target = "" if target_s is None else f", target {seconds(target_s)}"
    for name, values, most in (
        ("requests/s", rates, f"{max(rates, default=0):.3g}"),
        ("replicas running", running, f"{max(running, default=0):g}"),
        ("p99", p99, f"{seconds(max((each for each in p99 if each), default=None))}{target}"),
    ):
        yield from blocks.chart(name, values, most, encoding=encoding)


def changes(run: Run) -> Iterator[str]:
    """Each change of the number of replicas, and why."""
    for time, before, after, reason in run.changes[:MOST_CHANGES]:
        yield f"{clock(time)}  {before} to {after}: {reason}"
    if len(run.changes) > MOST_CHANGES:
        yield f"and {len(run.changes) - MOST_CHANGES} more"


def totals(found: Totals, price_per_hour: float | None, target_s: float | None) -> Iterator[str]:
    """The sums of the run."""
    failed = ((found.refused, "429"), (found.unavailable, "503"), (found.late, "504"))
    answered = f"{found.answered} answered"
    others = [f"{count} were {status}" for count, status in failed if count]
    yield f"requests         {found.requests} in {clock(found.seconds)}: {', '.join([answered, *others])}"
    longest = seconds(found.longest_s)
    yield f"latency          p50 {seconds(found.p50_s)}, p99 {seconds(found.p99_s)}, longest {longest}"
    if found.within is not None and target_s is not None:
        yield f"within target    {found.within:.2%} of all requests answered within {seconds(target_s)}"
    mean = found.replica_seconds / found.seconds if found.seconds else 0.0
    yield f"replica-seconds  {found.replica_seconds:.0f}: {mean:.2f} replicas on average, at most {found.most}"
    if price_per_hour is not None:
        yield f"cost             {cost(found, price_per_hour):.2f} at {price_per_hour:g} for a replica's hour"
    yield f"changes          {found.changes} of the number of replicas, {found.turns} of them in another direction"


def cost(found: Totals, price_per_hour: float) -> float:
    """In the currency of the price."""
    return found.replica_seconds / 3600 * price_per_hour


def seconds(value: float | None) -> str:
    """As `26 ms` or `1.2 s`; a dash for none."""
    if value is None:
        return "-"
    return f"{value * 1e3:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


def clock(time: float) -> str:
    """As `1:05` or `2:01:05`: hours, minutes and seconds from the beginning."""
    whole = round(time)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
