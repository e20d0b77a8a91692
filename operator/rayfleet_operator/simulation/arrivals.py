"""When requests come: as they came, or by rates.

At a rate, requests come independently of each other: the times between them are exponential (a Poisson process).
Chance is handed in as a source of numbers in [0, 1), so that the same one gives the same arrivals.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rayfleet_operator.api import quantity
from rayfleet_operator.api.forms import shown

MOST_REQUESTS = 20_000_000
"""A run keeps about 50 bytes of each."""
DAY_S = 86_400.0
DAY_PIECES = 288
"""Of a day's curve: five minutes at one rate."""


class ShapeError(ValueError):
    """What is wrong with a shape, and what would be right."""


@dataclass(frozen=True)
class Piece:
    """A time with one rate."""

    duration_s: float
    rate: float
    """Requests a second."""
    rows: int = 1
    """Of each request."""


@dataclass(frozen=True)
class Arrivals:
    """The requests of one run."""

    times: Sequence[float]
    """Seconds from the beginning, ascending."""
    rows: Sequence[int] | None = None
    """Of each request; None: one each."""
    lasts_s: float = 0.0
    """Until when requests might have come."""
    began: datetime | None = None
    """When the beginning was, with a time zone; None where that is not known."""


def expected(pieces: Iterable[Piece]) -> float:
    """Requests to be expected of the pieces."""
    return sum(piece.duration_s * piece.rate for piece in pieces)


def poisson(pieces: Sequence[Piece], chance: Callable[[], float]) -> Arrivals:
    """Arrivals at the rate of each piece, one piece after the other."""
    times, rows = array("d"), array("l")
    begin = 0.0
    for piece in pieces:
        end, now = begin + piece.duration_s, begin
        while piece.rate > 0:
            # Of an exponential distribution by its inverse; 1 - chance() is never 0.
            now -= math.log(1.0 - chance()) / piece.rate
            if now >= end:
                break
            times.append(now)
            rows.append(piece.rows)
        begin = end
    single = all(piece.rows == 1 for piece in pieces)
    return Arrivals(times, None if single else rows, lasts_s=begin)


def shape(text: str) -> list[Piece]:
    """The pieces of a shape: `steps:60s@10,2m@60` or `day:2@20`. Raises `ShapeError`."""
    name, colon, rest = text.partition(":")
    if colon and name == "steps":
        return [_step(part) for part in rest.split(",")]
    if colon and name == "day":
        low, high = _two(rest, "day:LOW@HIGH, requests a second at night and at the peak")
        return day(_rate(low, rest), _rate(high, rest))
    raise ShapeError(f"{shown(text)} is no shape; write steps:60s@10,120s@60,60s@10 or day:2@20")


def day(low: float, high: float) -> list[Piece]:
    """A day from midnight on: least at 3 o'clock, most at 15, a sine between."""
    middle, swing = (low + high) / 2, (high - low) / 2
    length = DAY_S / DAY_PIECES
    return [
        Piece(length, middle - swing * math.cos(2 * math.pi * ((number + 0.5) / DAY_PIECES - 3 / 24)))
        for number in range(DAY_PIECES)
    ]


def _step(part: str) -> Piece:
    duration, rate = _two(part.strip(), "DURATION@RATE, like 60s@10")
    try:
        seconds = quantity.parse_duration(duration)
    except ValueError as error:
        raise ShapeError(f"{shown(part)}: {error}") from None
    return Piece(seconds, _rate(rate, part))


def _two(text: str, right: str) -> tuple[str, str]:
    first, at, second = text.partition("@")
    if not at or not first or not second:
        raise ShapeError(f"{shown(text)} is not {right}")
    return first, second


def _rate(text: str, part: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not (math.isfinite(rate) and rate >= 0):
        raise ShapeError(f"{shown(part)}: {shown(text)} is no rate; write requests a second, like 10 or 0.5")
    return rate
