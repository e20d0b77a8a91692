"""`rayfleet simulate FILE… --trace TRACE --curve CURVE`: try a policy before it is deployed."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import click

from rayfleet_operator.api import documents, quantity
from rayfleet_operator.api.forms import shown
from rayfleet_operator.api.problems import position
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.cli import plot, replay
from rayfleet_operator.simulation import arrivals, curve, simulator, specs, summary, trace
from rayfleet_operator.simulation.arrivals import MOST_REQUESTS, Arrivals, Piece
from rayfleet_operator.simulation.curve import Curve, CurveError
from rayfleet_operator.simulation.simulator import Run
from rayfleet_operator.simulation.summary import Totals

START_UP_S = 10.0
"""Where nothing says how long a replica takes to answer: a small model whose image and files are there."""
MOST_S = 92 * arrivals.DAY_S
"""Of a run: eight million decisions, a minute or two."""
PICTURE_SPANS = 400
"""Points of a line in a picture."""


class Duration(click.ParamType[float]):
    """Seconds, written like 30s or 2m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return quantity.parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Moment(click.ParamType[datetime]):
    """A moment as RFC 3339."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        moment: datetime | None = None
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(value)
        if moment is None or moment.tzinfo is None:
            self.fail(f"{shown(value)} is no moment in a time zone; write it like 2026-03-02T08:00:00Z", param, ctx)
        return moment


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("--model", "name", metavar="NAME", help="Which ModelDeployment, where the files have several.")
@click.option(
    "--trace",
    "trace_file",
    metavar="TRACE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="When requests came, or at what rates.",
)
@click.option("--shape", metavar="SHAPE", help="In place of a trace: steps:60s@10,120s@60,60s@10 or day:2@20.")
@click.option("--curve", "curve_text", metavar="CURVE", help="A file of rayfleet measure, or like 1=20ms,8=50ms.")
@click.option("--start-up", type=Duration(), help="Until a new replica answers; by default what the curve says.")
@click.option("--routers", type=click.IntRange(1, 100), help="By default what the ModelFleet says, or 2.")
@click.option("--begin", type=Moment(), help="When the run begins, for schedules; by default what the trace says.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of arrivals that are made from rates.")
@click.option("--every", type=Duration(), help="Length of a row of the table; by default about 24 rows.")
@click.option(
    "--price-per-hour", "price", type=click.FloatRange(min=0), metavar="PRICE", help="Of one replica, to show cost."
)
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), help="A .png, .svg or .pdf.")
@click.option("--json", "document", type=click.Path(dir_okay=False, path_type=Path), help="All numbers, by second too.")
def simulate(
    paths: tuple[str, ...],
    name: str | None,
    trace_file: Path | None,
    shape: str | None,
    curve_text: str | None,
    start_up: float | None,
    routers: int | None,
    begin: datetime | None,
    seed: int,
    every: float | None,
    price: float | None,
    picture: Path | None,
    document: Path | None,
) -> None:
    """Replay requests against a model's spec, and show replicas, latency and cost over time.

    FILE is a YAML file with a ModelDeployment, or a folder. TRACE has a line for each request (CSV with the columns
    time and rows, or JSON lines) or for each rate (duration and rate). Nothing is deployed and no model runs. The same
    seed gives the same numbers.
    """
    if every is not None and every < 1:
        raise click.UsageError("--every: a row is of 1s at least")
    if picture is not None:
        plot.check(picture)
    model, routers = _model(paths, name, routers)
    measured = _curve(curve_text)
    came = _arrivals(trace_file, shape, seed)
    if came.lasts_s > MOST_S:
        days = f"{came.lasts_s / arrivals.DAY_S:.0f} days"
        raise click.ClickException(f"the requests go over {days}; replay at most {MOST_S / arrivals.DAY_S:.0f}")
    began = begin or came.began
    autoscaling = model.spec.autoscaling
    if autoscaling is not None and autoscaling.schedules and began is None:
        raise click.ClickException(
            "the model has schedules, and nothing says when the run begins; give --begin, like 2026-03-02T08:00:00Z"
        )
    start_up_s = start_up if start_up is not None else measured.start_up_s
    setup = specs.setup(
        model,
        measured,
        routers=routers,
        start_up_s=START_UP_S if start_up_s is None else start_up_s,
        began=began,
        lasts_s=came.lasts_s,
    )
    run = simulator.simulate(came.times, setup, rows=came.rows, lasts_s=came.lasts_s)
    target_s = setup.scaling.goal.latency_s
    found = summary.totals(run, target_s)
    spans = list(summary.spans(run, every or summary.width(run.end)))
    encoding = sys.stdout.encoding
    blocks = (
        replay.assumptions(model, setup, measured),
        replay.table(spans),
        replay.charts(run, target_s, encoding),
        replay.changes(run),
        replay.totals(found, price, target_s),
    )
    click.echo("\n\n".join("\n".join(lines) for lines in map(list, blocks) if lines))
    if document is not None:
        _write(document, _document(run, found, spans, price))
    if picture is not None:
        _draw(picture, model.metadata.name, run, target_s)


def _model(paths: Sequence[str], name: str | None, routers: int | None) -> tuple[ModelDeployment, int]:
    """The model that was asked for, and how many routers share its requests."""
    loaded = documents.load(paths)
    if loaded.problems:
        raise click.ClickException("\n".join(map(str, loaded.problems)))
    models = [model for model in loaded.models if name in (None, model.metadata.name)]
    there = ", ".join(sorted(model.metadata.name for model in loaded.models))
    if not models:
        raise click.ClickException(
            f"no ModelDeployment {shown(name)}; there is {there}" if name and there else "no ModelDeployment there"
        )
    if len(models) > 1:
        raise click.ClickException(f"several ModelDeployments: {there}; choose one with --model")
    (model,) = models
    fleets = {(fleet.metadata.namespace, fleet.metadata.name): fleet for fleet in loaded.fleets}
    fleet = fleets.get((model.metadata.namespace, model.spec.fleet or model.metadata.name))
    return model, routers or (fleet.spec.routers.replicas if fleet is not None else 2)


def _curve(text: str | None) -> Curve:
    if text is None:
        raise click.ClickException(
            "how long does a batch take? Give --curve FILE, which rayfleet measure writes, or --curve 1=20ms,8=50ms"
        )
    if "=" in text and not Path(text).exists():
        try:
            return curve.parse(text)
        except CurveError as error:
            raise click.ClickException(f"--curve: {error}") from error
    try:
        with _opened(Path(text)) as stream:
            return curve.read(stream.read(curve.MOST_CHARACTERS + 1))
    except CurveError as error:
        raise click.ClickException(f"{position(text, 0)}: {error}") from error


def _arrivals(trace_file: Path | None, shape: str | None, seed: int) -> Arrivals:
    if (trace_file is None) == (shape is None):
        raise click.UsageError("give one of --trace and --shape")
    pieces: list[Piece]
    if trace_file is not None:
        try:
            with _opened(trace_file) as stream:
                found = trace.read(stream)
        except trace.TraceError as error:
            raise click.ClickException(f"{position(str(trace_file), error.line)}: {error}") from error
        if isinstance(found, Arrivals):
            return found
        pieces = found
    else:
        try:
            pieces = arrivals.shape(shape or "")
        except arrivals.ShapeError as error:
            raise click.ClickException(f"--shape: {error}") from error
    if arrivals.expected(pieces) > MOST_REQUESTS:
        raise click.ClickException(f"more than {MOST_REQUESTS} requests; replay a shorter time, or lower rates")
    return arrivals.poisson(pieces, random.Random(seed).random)  # noqa: S311 - it hides nothing


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Raises ClickException for what cannot be read, while it is being read too."""
    where = position(str(path), 0)
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield stream
    except OSError as error:
        raise click.ClickException(f"{where}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{where}: not UTF-8 text") from error


def _document(run: Run, found: Totals, spans: Sequence[summary.Span], price: float | None) -> dict[str, Any]:
    """All numbers: times in seconds from the beginning, cost in the currency of the price."""
    names = ("time", "before", "after", "reason")
    return {
        "totals": asdict(found) | ({} if price is None else {"cost": replay.cost(found, price)}),
        "spans": [asdict(span) for span in spans],
        "changes": [dict(zip(names, change, strict=True)) for change in run.changes],
        "seconds": {
            "time": list(run.times),
            "needed": list(run.needed),
            "wanted": list(run.wanted),
            "running": list(run.running),
        },
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise click.ClickException(f"{click.format_filename(path)} cannot be written: {error.strerror}") from error


def _draw(path: Path, name: str, run: Run, target_s: float | None) -> None:
    spans = list(summary.spans(run, max(1.0, run.end / PICTURE_SPANS)))
    begins = [span.begin for span in spans]
    answered = [span for span in spans if span.p99_s is not None]
    p99 = {
        "p50": ([span.begin for span in answered], [1e3 * (span.p50_s or 0.0) for span in answered]),
        "p99": ([span.begin for span in answered], [1e3 * (span.p99_s or 0.0) for span in answered]),
    }
    plot.draw(
        path,
        f"{name}, simulated",
        [
            plot.Panel(
                title="requests/s", lines={"": (begins, [span.requests / (span.end - span.begin) for span in spans])}
            ),
            plot.Panel(
                title="replicas",
                lines={"wanted": (run.times, run.wanted), "running": (run.times, run.running)},
                steps=True,
            ),
            plot.Panel(title="latency, ms", lines=p99, limit=None if target_s is None else ("target", 1e3 * target_s)),
        ],
    )
