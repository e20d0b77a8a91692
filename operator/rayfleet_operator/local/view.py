"""How a status looks: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from rayfleet_operator.local.state import ShownModel, ShownVersion, Status
from rayfleet_operator.plan import places
from rayfleet_operator.plan.conditions import NOTICES

ENDPOINTS = ("/{model}/predict", "/v2/models/{model}/infer", "/{model}/invocations")
PAGES = ("/docs", "/metrics")
REMIND_S = 15.0
"""Between two lines that say the same of a model that something is under way with."""
WIDE = 200
"""Columns where nobody says how wide the output is."""


class View(Protocol):
    """What `up` tells people."""

    def say(self, text: str) -> None:
        """One line that stays."""
        ...

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Something that may take more than a moment."""
        ...

    def show(self, status: Status) -> None:
        """The newest status."""
        ...

    def close(self) -> None: ...


def view(url: str) -> View:
    """The one that suits standard output."""
    console = Console(highlight=False)
    return Terminal(console, url) if console.is_terminal else Lines(url)


class Terminal:
    """A table that is drawn again in place."""

    def __init__(self, console: Console, url: str) -> None:
        self._console = console
        self._url = url
        self._live: Live | None = None
        self._status: Status | None = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def waiting(self, text: str) -> AbstractContextManager[object]:
        if self._live is not None:
            self.say(text)
            return nullcontext()
        return self._console.status(escape(text))

    def show(self, status: Status) -> None:
        self._status = status
        if self._live is None:
            # Drawn again each half second, so that times go on between two statuses.
            self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=2)
            self._live.start()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> RenderableType:
        if self._status is None:
            return Text()
        # What does not fit on the screen is cut off at the end.
        parts: list[RenderableType] = [Text(f"! {problem}", style="red") for problem in self._status.problems]
        parts.append(table(self._status, self._url))
        if any(map(under_way, self._status.models)):
            parts.append(Spinner("dots", Text("working", style="dim")))
        read = self._status.files_read
        last = f" They were last read at {read.astimezone():%H:%M:%S}." if read is not None else ""
        parts.append(Text(f"Edit the files to change what is served.{last} Ctrl-C ends it.", style="dim"))
        return Group(*parts)


class Lines:
    """A line with the time for whatever is new; never the same twice in a row."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._last: dict[str, str] = {}
        self._problems: tuple[str, ...] = ()
        self._read: datetime | None = None
        self._announced: set[str] = set()
        self._said: dict[str, float] = {}

    def say(self, text: str) -> None:
        # Whoever read this may be gone (`| head`); the models are not there for them alone.
        with contextlib.suppress(OSError):
            print(f"{datetime.now().astimezone():%H:%M:%S} {' '.join(text.split())}", flush=True)

    def waiting(self, text: str) -> AbstractContextManager[object]:
        self.say(text)
        return nullcontext()

    def show(self, status: Status) -> None:
        if self._read is not None and status.files_read != self._read:
            self.say("the files changed and were read again")
        self._read = status.files_read
        for problem in status.problems:
            if problem not in self._problems:
                self.say(f"problem: {problem}")
        if self._problems and not status.problems:
            self.say("no problem is left")
        self._problems = status.problems
        models = {model.name: model for model in status.models}
        now = {name: line(model) for name, model in models.items()}
        for name, text in now.items():
            due = time.monotonic() - self._said.get(name, 0.0) > REMIND_S and under_way(models[name])
            if self._last.get(name) != text or due:
                self.say(f"{name}: {text}{_elapsed(models[name])}")
                self._said[name] = time.monotonic()
        for name in self._last.keys() - now.keys():
            self.say(f"{name}: removed")
            self._announced.discard(name)
        self._last = now
        for model in status.models:
            if model.ready and model.name not in self._announced:
                self._announced.add(model.name)
                for endpoint in endpoints(self._url, [model.name]):
                    self.say(f"{model.name}: {endpoint}")

    def close(self) -> None:
        """Nothing is held."""


def table(status: Status, url: str) -> RenderableType:
    """Models, versions, weights and state, then what there is to say of each, and where to send requests."""
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("MODEL", "STATE", "VERSION", "WEIGHT", "REPLICAS", "VERSION STATE"):
        rows.add_column(column, no_wrap=True)
    for model in status.models:
        versions = model.versions
        rows.add_row(
            Text(model.name, style="bold"),
            Text(state(model), style=_colour(model)),
            Text("\n".join(map(_called, versions)) or "-"),
            Text("\n".join(map(_share, versions))),
            Text("\n".join(map(replicas, versions))),
            Text("\n".join(each.state for each in versions)),
        )
    if not status.models:
        rows.add_row(Text("no models", style="dim"))
    said = [Text(f"{model.name}: {text}{_elapsed(model)}") for model in status.models if (text := message(model))]
    said += [Text(f"{model.name}: replicas {model.scaling}") for model in status.models if model.scaling]
    names = [model.name for model in status.models if model.ready]
    where = [Text(each, style="cyan") for each in endpoints(url, names)]
    return Group(rows, *([Text(), *said] if said else []), Text(), *where)


def endpoints(url: str, models: Sequence[str]) -> list[str]:
    """What can be called; one model's own URLs where there is one, a pattern where there are several."""
    if not models:
        return []
    name = models[0] if len(models) == 1 else "MODEL"
    calls = [f"POST {url}{path.format(model=name)}" for path in ENDPOINTS]
    return [*calls, *(f"GET  {url}{page}" for page in PAGES)]


def line(model: ShownModel) -> str:
    """One model in one line."""
    versions = ", ".join(map(_version, model.versions))
    said = [versions, f"replicas {model.scaling}" if model.scaling else "", message(model)]
    return "; ".join([state(model), *filter(None, said)])


def _version(version: ShownVersion) -> str:
    counted = f", replicas {replicas(version)}" if version.replicas_target is not None else ""
    return f"version {_called(version)} {_share(version)} {version.state}{counted}"


def _called(version: ShownVersion) -> str:
    return f"{version.version} ({version.name})" if version.name else version.version


def _share(version: ShownVersion) -> str:
    """Of the requests, or of copies of them."""
    return f"mirrors {version.mirror} %" if version.mirror else f"{version.weight} %"


def replicas(version: ShownVersion) -> str:
    """Those that answer, of those that there should be."""
    return "-" if version.replicas_target is None else f"{version.replicas_running} of {version.replicas_target}"


def state(model: ShownModel) -> str:
    """The conditions in two or three words: whether it answers, then what is wrong or under way."""
    ready, progressing, degraded = model.conditions
    words = {"True": "Ready", "False": "NotReady", "Unknown": "Unknown"}[ready.status]
    if degraded.status == "True" and not (noticed(model) and under_way(model)):
        return f"{words}, {degraded.reason}"
    if progressing.status == "True":
        return f"{words}, {progressing.reason}"
    return words


def message(model: ShownModel) -> str:
    """What a person should read first."""
    ready, progressing, degraded = model.conditions
    if noticed(model) and under_way(model):
        return f"{progressing.message}\n{degraded.message}"
    if degraded.status == "True":
        return degraded.message
    if progressing.status == "True":
        return progressing.message
    return ready.message if ready.status != "True" else ""


def under_way(model: ShownModel) -> bool:
    """Whether something is being done about it."""
    return model.condition("Progressing").status == "True"


def noticed(model: ShownModel) -> bool:
    """Whether all that is wrong is what the registry says of a version that serves."""
    degraded = model.condition("Degraded")
    return degraded.status == "True" and degraded.reason in NOTICES


def _elapsed(model: ShownModel) -> str:
    if not under_way(model):
        return ""
    seconds = (datetime.now(UTC) - model.since).total_seconds()
    return f" ({seconds:.0f} s)" if seconds >= 2 else ""


def _colour(model: ShownModel) -> str:
    if model.condition("Degraded").status == "True" and not noticed(model):
        return "red"
    return "green" if model.ready and not noticed(model) else "yellow"


def print_status(status: Status, url: str) -> None:
    """The table once, to standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDE)
    console.print(table(status, url))
    if status.places is not None:
        console.print()
        for line in places.lines(status.places):
            console.print(line, markup=False)
    for problem in status.problems:
        console.print(f"! {problem}", markup=False)
