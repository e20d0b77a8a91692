"""Traces: a line for each request, or for each rate.

    time,rows                                   duration,rate
    2026-03-01T08:00:00.120Z,1                  60s,10
    2026-03-01T08:00:00.345Z,4                  120s,60

As CSV with this header, or as JSON lines with these names (`{"time": 0.12}`). Without a header, CSV is times. A time is
RFC 3339, seconds since 1970, or seconds from the beginning; a duration is seconds, or like 2m30s. `rows` may be left
out: then each request has one.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from rayfleet_operator.api import quantity
from rayfleet_operator.api.forms import shown
from rayfleet_operator.simulation.arrivals import MOST_REQUESTS, Arrivals, Piece

SINCE_1970 = 1e9
"""Times from here on are seconds since 1970: no run is thirty years long."""
MOST_SECONDS = 2.5e11
"""No date is later."""
MOST_ROWS = 1_000_000
TIMES = ("time", "rows")
RATES = ("duration", "rate", "rows")
RIGHT = "write time, time,rows, duration,rate or duration,rate,rows"
NOTHING = "no request; write a line for each, with its time"

Record = dict[str, Any]


class TraceError(ValueError):
    """What is wrong, and what would be right."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        """From 1; 0 where it is the trace as a whole."""


def read(lines: Iterable[str]) -> Arrivals | list[Piece]:
    """What the lines say: requests, or rates to make some from. Raises `TraceError`."""
    told = _told(lines)
    first = next(told, None)
    if first is None:
        raise TraceError(0, NOTHING)
    number, line = first
    records: Iterable[tuple[int, Record]]
    if line.startswith("{"):
        records = _json(chain([first], told))
        number, record = next(records)
        names = _known(list(record), number)
        records = chain([(number, record)], records)
    elif line.lstrip('"')[:1].isalpha():
        names = _known([name.strip().strip('"').lower() for name in line.split(",")], number)
        records = _csv(told, names)
    else:
        names = list(TIMES[: line.count(",") + 1])
        records = _csv(chain([first], told), names)
    records = iter(records)
    if (begin := next(records, None)) is None:
        raise TraceError(0, NOTHING)
    records = chain([begin], records)
    return _times(records) if "time" in names else _rates(records)


def _told(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers. A # begins a comment."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, text


def _known(names: list[str], line: int) -> list[str]:
    if not (set(names) <= set(TIMES) and "time" in names) and not (
        set(names) <= set(RATES) and {*RATES[:2]} <= {*names}
    ):
        raise TraceError(line, f"{shown(', '.join(names))} are not the columns of a trace; {RIGHT}")
    if len(set(names)) < len(names):
        raise TraceError(line, f"{shown(', '.join(names))}: a column stands there twice; {RIGHT}")
    return names


def _csv(told: Iterable[tuple[int, str]], names: Sequence[str]) -> Iterator[tuple[int, Record]]:
    for number, line in told:
        values = [value.strip().strip('"') for value in line.split(",")]
        if len(values) != len(names):
            right = f"write {', '.join(names)}"
            raise TraceError(number, f"{len(values)} values where there are {len(names)} columns; {right}")
        yield number, dict(zip(names, values, strict=True))


def _json(told: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Record]]:
    for number, line in told:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise TraceError(number, f"column {error.colno}: not JSON: {error.msg}") from None
        except (RecursionError, ValueError):
            raise TraceError(number, "cannot be read as JSON") from None
        if not isinstance(record, dict):
            raise TraceError(number, f'{shown(record)} is not an object; write it like {{"time": 0.12}}')
        yield number, record


def _field(record: Record, name: str, number: int) -> object:
    if name not in record:
        raise TraceError(number, f"{name}: missing; {RIGHT}")
    return record[name]


def _rows(record: Record, names: tuple[str, ...], number: int) -> int:
    if len(record) > 1 and (unknown := record.keys() - {*names}):
        raise TraceError(number, f"{shown(min(unknown))} is not known; write {', '.join(names)}")
    value = record.get("rows", 1)
    text = str(value)
    if isinstance(value, bool | float) or not (
        text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= MOST_ROWS
    ):
        raise TraceError(
            number, f"rows: {shown(value)} is no number of rows; write whole numbers from 1 to {MOST_ROWS}"
        )
    return int(text)


def _times(records: Iterable[tuple[int, Record]]) -> Arrivals:
    times, rows = array("d"), array("l")
    for number, record in records:
        time = _time(_field(record, "time", number), number)
        if times and (time >= SINCE_1970) != (times[0] >= SINCE_1970):
            raise TraceError(number, "time: some are moments and some seconds from the beginning; write one of the two")
        if len(times) == MOST_REQUESTS:
            raise TraceError(number, f"more than {MOST_REQUESTS} requests; replay a shorter time")
        times.append(time)
        rows.append(_rows(record, TIMES, number))
    order = range(len(times))
    if any(times[at] > times[at + 1] for at in range(len(times) - 1)):
        # Logs are written when requests end.
        order = sorted(order, key=times.__getitem__)  # type: ignore[assignment]
    begin = times[order[0]] if times[0] >= SINCE_1970 else 0.0
    sizes = None if set(rows) == {1} else array("l", (rows[at] for at in order))
    return Arrivals(
        array("d", (times[at] - begin for at in order)),
        sizes,
        lasts_s=times[order[-1]] - begin,
        began=datetime.fromtimestamp(begin, UTC) if begin else None,
    )


def _time(value: object, number: int) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = _moment(value)
    if isinstance(value, bool) or not 0 <= seconds < MOST_SECONDS:
        right = "write RFC 3339 with a time zone, like 2026-03-01T08:00:00.12Z, or seconds"
        raise TraceError(number, f"time: {shown(value)} is no time; {right}")
    return seconds


def _moment(value: object) -> float:
    """Seconds since 1970; NaN for what is no moment in a time zone."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment.timestamp() if moment is not None and moment.tzinfo is not None else math.nan
    except (ValueError, OverflowError):
        return math.nan


def _rates(records: Iterable[tuple[int, Record]]) -> list[Piece]:
    pieces = []
    total = 0.0
    for number, record in records:
        duration = _duration(_field(record, "duration", number), number)
        rate = _rate(_field(record, "rate", number), number)
        pieces.append(Piece(duration, rate, _rows(record, RATES, number)))
        total += duration * rate
        if total > MOST_REQUESTS:
            raise TraceError(number, f"until here more than {MOST_REQUESTS} requests; replay a shorter time")
    return pieces


def _duration(value: object, number: int) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        try:
            seconds = quantity.parse_duration(value) if isinstance(value, str) else math.nan
        except ValueError:
            seconds = math.nan
    if isinstance(value, bool) or not 0 < seconds < SINCE_1970:
        raise TraceError(number, f"duration: {shown(value)} is no duration; write seconds, or like 2m30s")
    return seconds


def _rate(value: object, number: int) -> float:
    try:
        rate = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if isinstance(value, bool) or not (math.isfinite(rate) and rate >= 0):
        raise TraceError(number, f"rate: {shown(value)} is no rate; write requests a second, like 10 or 0.5")
    return rate
