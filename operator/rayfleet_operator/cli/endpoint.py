"""Where models answer, for the commands that ask them."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import click
import httpx

from rayfleet_operator.local import state


def running_url(port: int | None) -> str:
    """Of the running `rayfleet up`. Raises ClickException where it is not clear which, or none runs."""
    running = [up.url for up in state.running(state.state_folder(os.environ))]
    found = [url for url in running if port is None or urlsplit(url).port == port]
    if len(found) == 1:
        return found[0]
    if not found:
        where = f" on port {port}" if port is not None else ""
        raise click.ClickException(
            f"no rayfleet up is running{where}; start one with: rayfleet up FOLDER, or give --url"
        )
    raise click.ClickException(f"several rayfleet up are running, at {', '.join(found)}; choose one with --port")


def reason(answer: httpx.Response) -> str:
    """The sentence of an error answer; the field it is about where the router names one."""
    try:
        body = answer.json()
        field = f" ({body['field']})" if body.get("field") else ""
        return f"{body['error']}{field}"
    except (ValueError, KeyError, AttributeError, TypeError):
        return answer.text.strip()[:500] or answer.reason_phrase
