"""`rayfleet rollout status`: shown once, or again and again until the rollout has come to an end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from rayfleet_operator.cli import picture
from rayfleet_operator.cli.picture import Signs
from rayfleet_operator.cli.rollouts import Model
from rayfleet_operator.plan.conditions import Reason

LOOK_S = 1.0
"""Between looks: the shortest time that a countdown in seconds shows."""

Show = Callable[[Model], None]


def lines(found: Model) -> list[str]:
    """For standard output, at this moment."""
    return picture.block(found, datetime.now(UTC), Signs.of(sys.stdout.encoding))


def watch(look: Callable[[], Model], *, as_json: bool, version: str | None = None) -> int:
    """Show the model on standard output until it has come to an end, or until Ctrl-C; returns the exit code. `version`
    is the one that its URI has to mean first."""
    try:
        with _view(as_json) as show:
            return follow(look, show, time.sleep, version)
    except KeyboardInterrupt:
        return 0


def follow(look: Callable[[], Model], show: Show, sleep: Callable[[float], None], version: str | None = None) -> int:
    """Returns the exit code that the end is worth."""
    while True:
        found = look()
        show(found)
        code = ended(found) if version in (None, found.wanted) else None
        if code is not None:
            return code
        sleep(LOOK_S)


def ended(found: Model) -> int | None:
    """0 once the wanted version has every request, 1 where it will not get them without somebody's doing, None while
    something is under way."""
    if not found.seen:
        return None
    if found.rollout is not None and found.rollout.ended:
        return 1
    # The versions that its traffic names are no part of it.
    settled = found.progress is not None and found.progress.reason in (Reason.SETTLED, Reason.TRAFFIC_PENDING)
    if found.progress is None or (found.progress.status == "True" and not settled):
        return None
    if found.rollout is not None:
        # A candidate that did not load is tried again. Otherwise nothing moves because nobody can say which version is
        # wanted.
        return None if settled or found.progress.reason == Reason.VERSION_FAILED else 1
    return 0 if settled and not found.gone_back else 1


def changes(told: Callable[[Model], str], say: Callable[[str], None]) -> Show:
    """Says what is told of the model whenever that is something else than before."""
    last = ""

    def show(found: Model) -> None:
        nonlocal last
        if (text := told(found)) != last:
            say(text)
            last = text

    return show


@contextmanager
def _view(as_json: bool) -> Iterator[Show]:
    """The one that suits standard output."""
    if as_json:
        yield changes(lambda found: json.dumps(found.as_json(), indent=1), click.echo)
        return
    signs = Signs.of(sys.stdout.encoding)
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
    except ModuleNotFoundError:
        # It comes with `rayfleet[local]`; whoever looks at Kubernetes alone may not have it.
        console = None
    else:
        console = Console(highlight=False)
    if console is None or not console.is_terminal or console.is_dumb_terminal:
        yield changes(
            lambda found: picture.line(found, signs),
            lambda text: click.echo(f"{datetime.now().astimezone():%H:%M:%S} {text}"),
        )
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda found: live.update(Text("\n".join(picture.block(found, datetime.now(UTC), signs))), refresh=True)
