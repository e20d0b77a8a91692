"""Log lines: one JSON object each for machines, or plain text for people.

Each line carries the fleet and the reconcile it belongs to, whichever module writes it. Nothing here knows a Secret's
content, and whoever logs must keep it so: names of Secrets and their keys, never values.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

CHATTY = {
    # Every request at INFO.
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "asyncio": logging.WARNING,
    # Each try of each request, and each failure thrice; `handlers` says it once, that of a handler included.
    "kopf": logging.CRITICAL,
}
"""Least levels of loggers that say more than anybody wants to read."""

_fleet: ContextVar[str | None] = ContextVar("fleet", default=None)
_reconcile: ContextVar[str | None] = ContextVar("reconcile", default=None)


@contextlib.contextmanager
def reconciling(fleet: str) -> Iterator[str]:
    """Lines written inside belong to this fleet (namespace/name) and to one reconcile, whose id is given."""
    reconcile_id = os.urandom(4).hex()
    tokens = _fleet.set(fleet), _reconcile.set(reconcile_id)
    try:
        yield reconcile_id
    finally:
        _fleet.reset(tokens[0])
        _reconcile.reset(tokens[1])


class JsonFormatter(logging.Formatter):
    """`ts` is RFC 3339 in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str | None] = {
            "ts": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if (fleet := _fleet.get()) is not None:
            line |= {"fleet": fleet, "reconcile": _reconcile.get()}
        if trace := _trace(self, record):
            line["trace"] = trace
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """The same, for eyes."""

    def format(self, record: logging.LogRecord) -> str:
        fleet, trace = _fleet.get(), _trace(self, record)
        where = f" [{fleet}]" if fleet is not None else ""
        # A line break in a message must not look like another line.
        message = record.getMessage().replace("\n", "\n    ")
        line = (
            f"{_time(record)} {record.levelname:<7} {record.name.removeprefix('rayfleet_operator.')}{where} {message}"
        )
        return f"{line}\n{trace}" if trace else line


def configure(level: str, form: Literal["json", "text"]) -> None:
    """Send everything to standard error. Replaces what was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name, least in CHATTY.items():
        logging.getLogger(name).setLevel(max(least, root.level))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else ""
