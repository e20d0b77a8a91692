"""`rayfleet status`: what each running `rayfleet up` serves, as it saw it in its last pass."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import click

from rayfleet_operator.local import state
from rayfleet_operator.local.state import Up

STALE_S = 10.0
"""`up` looks every two seconds; one that has said nothing for this long is stuck or waits for Ray."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="All that is known, as a JSON list.")
@click.option("--port", type=click.IntRange(1, 65535), help="Only the one that serves at this port.")
def status(as_json: bool, port: int | None) -> None:
    """Show what a running `rayfleet up` serves.

    Exits with 0 when every model is ready, with 1 when one is not, when nothing runs, or when that is not known.
    """
    folder = state.state_folder(os.environ)
    running = [up for up in state.running(folder) if port is None or urlsplit(up.url).port == port]
    killed = [up for up in state.killed(folder) if port is None or urlsplit(up.url).port == port]
    if as_json:
        rows = [_row(up, running=True) for up in running] + [_row(up, running=False) for up in killed]
        click.echo(json.dumps(rows, indent=1))
    else:
        for up in running:
            _print(up)
        for up in killed:
            click.echo(
                f"The rayfleet up at {up.url} (process {up.pid}) was killed; it was last seen {_ago(up)}.", err=True
            )
        if not running:
            where = f" on port {port}" if port is not None else ""
            click.echo(f"No rayfleet up is running{where}. Start one with: rayfleet up FOLDER", err=True)
    if not running or not all(_ready(up) for up in running):
        raise SystemExit(1)


def _ready(up: Up) -> bool:
    models = up.status.models
    return _age(up) <= STALE_S and bool(models) and all(model.ready for model in models)


def _row(up: Up, *, running: bool) -> dict[str, Any]:
    return {"running": running, "age_seconds": round(_age(up), 1), **up.model_dump(mode="json")}


def _print(up: Up) -> None:
    try:
        from rayfleet_operator.local.view import print_status
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is not installed; pip install 'rayfleet[local]'") from error
    old = f", last seen {_ago(up)}" if _age(up) > STALE_S else ""
    click.echo(f"{up.url} (process {up.pid}{old})")
    print_status(up.status, up.url)


def _age(up: Up) -> float:
    return (datetime.now(UTC) - up.status.updated).total_seconds()


def _ago(up: Up) -> str:
    return f"{_age(up):.0f} s ago"
