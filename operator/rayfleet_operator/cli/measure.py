"""`rayfleet measure MODEL`: seconds of its batches by their rows, for `rayfleet simulate`.

Batches of 1, 2, 4, … rows are sent one after the other, so that each travels alone. What each took in the model is read
from the model's own metrics before and after; what it took besides is the way to it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import httpx

from rayfleet_operator.api.problems import harmless
from rayfleet_operator.cli import endpoint, replay
from rayfleet_operator.simulation.curve import MOST_ROWS, Curve
from rayfleet_serving.config import VERSION_HEADER

WARM_UP = 3
"""Requests of each size before those that count."""
ZEROS = {"BOOL": False, "BYTES": ""}
"""In place of 0, by datatype of the Open Inference Protocol."""
RAY_S = 2.5
"""Until Ray has started a process for a replica, and routers know of it; seen on two cores."""
MOST = 32
"""Rows of the largest batch, where nobody says how many."""
LOADING = "rayfleet_replica_load_seconds"
_SAMPLE = re.compile(
    r"(rayfleet_batch_(?:size|duration_seconds)_(?:sum|count)|rayfleet_replica_load_seconds)\{([^}]*)\} (\S+)"
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Batches:
    """What all replicas of one version have run."""

    number: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    loading_s: float | None = None
    """What the slowest replica took to load; None where it does not say."""

    def since(self, before: Batches) -> Batches:
        """Those that came after `before`."""
        return Batches(
            self.number - before.number, self.rows - before.rows, self.seconds - before.seconds, self.loading_s
        )


@click.command()
@click.argument("model")
@click.option("--url", metavar="URL", help="Where models answer; by default that of the running `rayfleet up`.")
@click.option("--port", type=click.IntRange(1, 65535), help="Which `rayfleet up`, where several run.")
@click.option(
    "--most",
    type=click.IntRange(1, MOST_ROWS),
    help=f"Rows; its maxBatchSize. [default: {MOST}, or what it runs in one batch]",
)
@click.option("--rounds", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Batches of each size.")
@click.option("--body", type=click.Path(exists=True, dir_okay=False, path_type=Path), help='JSON: {"instances": […]}.')
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Where to write; by default, here.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Seconds."
)
def measure(
    model: str,
    url: str | None,
    port: int | None,
    most: int | None,
    rounds: int,
    body: Path | None,
    output: Path | None,
    timeout: float,
) -> None:
    """Measure how long a running model takes for a batch, by its rows, and write that down as JSON.

    MODEL is a ModelDeployment's name. Rows are those of --body, else of the example that its documentation page shows,
    else zeros. Nobody else should ask the model meanwhile: other requests would be in its batches.
    """
    base = (url or endpoint.running_url(port)).rstrip("/")
    with httpx.Client(base_url=base, timeout=timeout, trust_env=url is not None) as client:
        measured = _measured(_Model(client, base, model), _rows(body) if body else None, most, rounds)
    if output is None:
        click.echo(measured.text(), nl=False)
        return
    try:
        output.write_text(measured.text())
    except OSError as error:
        raise click.ClickException(f"{click.format_filename(output)} cannot be written: {error.strerror}") from error


def _measured(model: _Model, rows: list[Any] | None, most: int | None, rounds: int) -> Curve:
    ask = model.asking(rows)
    points: list[tuple[int, float]] = []
    hop_s = 0.0
    for size in _sizes(most or MOST):
        for _ in range(WARM_UP):
            ask(size)
        before = model.batches()
        took_s = []
        for _ in range(rounds):
            begin = time.perf_counter()
            ask(size)
            took_s.append(time.perf_counter() - begin)
        ran = model.batches().since(before)
        if ran.rows != size * rounds:
            raise click.ClickException(
                f"{model.name} was given {ran.rows:.0f} rows where {size * rounds} were sent: somebody else asks it. "
                "Measure where nobody does"
            )
        if ran.number != rounds:
            told = f"{model.name} runs {size} rows in {ran.number / rounds:.3g} batches"
            if most is None and points:
                click.echo(f"{told}: its maxBatchSize is less; with it as --most, that is measured, too.", err=True)
                break
            raise click.ClickException(f"{told}; give --most {size // 2 or 1}, or what its maxBatchSize is")
        seconds = ran.seconds / ran.number
        points.append((size, seconds))
        if size == 1:
            # The middle one: a request that another process kept waiting says nothing of the way.
            hop_s = max(0.0, sorted(took_s)[len(took_s) // 2] - seconds)
        click.echo(f"{size} row{'' if size == 1 else 's'}: {replay.seconds(seconds)}", err=True)
    loading_s = model.batches().loading_s
    start_up_s = None if loading_s is None else loading_s + RAY_S
    return Curve(tuple(points), hop_s, start_up_s, model.name, model.version)


def _sizes(most: int) -> Iterator[int]:
    """1, 2, 4, … and the most."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


class _Model:
    """A model that answers. Raises ClickException where it does not."""

    def __init__(self, client: httpx.Client, base: str, name: str) -> None:
        self.name = name
        self.version = ""
        """The one that answered first: all others are asked of it."""
        self._client = client
        self._base = base

    def asking(self, rows: list[Any] | None) -> Any:
        """A function that sends a batch of so many rows, in the best way there is."""
        rows = rows or self._example()
        if rows:
            known = rows
            path = f"/{quote(self.name, safe='')}/predict"
            return lambda size: self._post(path, {"instances": [known[at % len(known)] for at in range(size)]})
        inputs = self._get(f"/v2/models/{quote(self.name, safe='')}").get("inputs", [])
        if not inputs:
            raise click.ClickException(f"{self.name} has neither an example nor a signature; give its rows with --body")
        path = f"/v2/models/{quote(self.name, safe='')}/infer"
        return lambda size: self._post(path, {"inputs": [_zeros(each, size) for each in inputs]})

    def batches(self) -> Batches:
        """What its replicas have run until now."""
        sums = dict.fromkeys(("size_sum", "duration_seconds_sum", "duration_seconds_count"), 0.0)
        loading = []
        for name, labels, value in _SAMPLE.findall(self._ask("GET", "/metrics").text):
            found = dict(_LABEL.findall(labels))
            if (found.get("model"), found.get("version")) != (self.name, self.version):
                continue
            kind = name.removeprefix("rayfleet_batch_")
            if kind in sums:
                sums[kind] += float(value)
            elif name == LOADING:
                loading.append(float(value))
        seconds, number = sums["duration_seconds_sum"], sums["duration_seconds_count"]
        return Batches(number, sums["size_sum"], seconds, max(loading, default=None))

    def _example(self) -> list[Any]:
        """The rows of the example that its documentation page shows; none where it shows none."""
        operation = self._get("/openapi.json").get("paths", {}).get(f"/{self.name}/predict")
        if operation is None:
            raise click.ClickException(f"there is no model {self.name} at {self._base}")
        example = operation["post"]["requestBody"]["content"].get("application/json", {}).get("example", {})
        rows = example.get("instances", [])
        # Of one that is too large for a page, only the shape is told, as text.
        return rows if isinstance(rows, list) and "params" not in example and " of shape " not in str(rows) else []

    def _get(self, path: str) -> dict[str, Any]:
        try:
            document = self._ask("GET", path).json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise click.ClickException(f"{self._base}{path} did not answer in JSON; is it a rayfleet endpoint?")
        return document

    def _post(self, path: str, body: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json"} | ({VERSION_HEADER: self.version} if self.version else {})
        answer = self._ask("POST", path, content=json.dumps(body), headers=headers)
        self.version = self.version or answer.headers.get(VERSION_HEADER, "")

    def _ask(self, method: str, path: str, **what: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **what)
        except httpx.TimeoutException as error:
            raise click.ClickException(f"{self._base}{path} did not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = harmless(str(error)) or type(error).__name__
            raise click.ClickException(f"{self._base}{path} cannot be reached: {why}") from error
        if not answer.is_success:
            why = harmless(endpoint.reason(answer))
            raise click.ClickException(f"{self._base}{path} answered {answer.status_code}: {why}")
        return answer


def _rows(body: Path) -> list[Any]:
    """The rows of a file as `/predict` takes them."""
    name = click.format_filename(body)
    try:
        document = json.loads(body.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{name} cannot be read as JSON: {error}") from error
    rows = document.get("instances") if isinstance(document, dict) else document
    if not isinstance(rows, list) or not rows:
        raise click.ClickException(f'{name} holds no rows; write {{"instances": [row, …]}}')
    return rows


def _zeros(tensor: dict[str, Any], rows: int) -> dict[str, Any]:
    """An input of the Open Inference Protocol, with as many rows of nothing."""
    shape = [rows, *(max(1, size) for size in tensor["shape"][1:])]
    number = 1
    for size in shape:
        number *= size
    datatype = tensor["datatype"]
    return {
        "name": tensor["name"],
        "shape": shape,
        "datatype": datatype,
        "data": [ZEROS.get(datatype, 0)] * number,
    }
