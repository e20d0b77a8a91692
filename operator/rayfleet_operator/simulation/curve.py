"""How long a batch takes: measured at some numbers of rows, a line between them.

As JSON, which `rayfleet measure` writes:

    {"batchSeconds": {"1": 0.022, "8": 0.036}, "hopSeconds": 0.003, "startUpSeconds": 6.5}
"""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from rayfleet_operator.api import quantity
from rayfleet_operator.api.forms import shown

MOST_ROWS = 4096
"""`maxBatchSize` goes no further."""
MOST_CHARACTERS = 1 << 20
"""Of a curve's document: anything longer is something else."""
MOST_SECONDS = 1e9
KNOWN = {"batchSeconds", "hopSeconds", "startUpSeconds", "model", "version"}


class CurveError(ValueError):
    """What is wrong with a curve, where in it, and what would be right."""


@dataclass(frozen=True)
class Curve:
    """Of one model on one kind of machine."""

    points: tuple[tuple[int, float], ...]
    """Rows, and the seconds of a batch of so many; rows ascend. At least one."""
    hop_s: float = 0.0
    """What a lone request takes beside its batch: HTTP, the routers, the hop to the replica and back."""
    start_up_s: float | None = None
    """From the decision for a replica until it answers; None where it was not measured."""
    model: str = ""
    version: str = ""

    def seconds(self, rows: int) -> float:
        """Of a batch of so many rows: on the line between the two points beside it. Below the first point it is the
        first point's; beyond the last, the line through the last two goes on, and does not fall."""
        at = bisect_left(self.points, (rows, -1.0))
        if at == 0 or len(self.points) == 1:
            return self.points[0][1]
        if at == len(self.points):
            (low, first), (high, second) = self.points[-2:]
            return max(second, second + (rows - high) * (second - first) / (high - low))
        (low, first), (high, second) = self.points[at - 1 : at + 1]
        return first + (rows - low) * (second - first) / (high - low)

    def text(self) -> str:
        """As JSON, with a newline at the end."""
        document: dict[str, Any] = {"model": self.model, "version": self.version} if self.model else {}
        document["batchSeconds"] = {str(rows): round(seconds, 6) for rows, seconds in self.points}
        document["hopSeconds"] = round(self.hop_s, 6)
        if self.start_up_s is not None:
            document["startUpSeconds"] = round(self.start_up_s, 3)
        return json.dumps(document, indent=1) + "\n"


def read(text: str) -> Curve:
    """The curve that a JSON document holds. Raises `CurveError`."""
    if len(text) > MOST_CHARACTERS:
        raise CurveError("too long to be a curve; rayfleet measure writes one")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise CurveError(f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise CurveError("nested too deeply to be a curve") from None
    except ValueError:
        raise CurveError("has a number of thousands of digits") from None
    if not isinstance(document, dict):
        raise CurveError(f"{shown(document)} is not a curve; rayfleet measure writes one")
    if unknown := document.keys() - KNOWN:
        raise CurveError(f"{shown(min(unknown))} is not known; write {', '.join(sorted(KNOWN))}")
    seconds = document.get("batchSeconds")
    if not isinstance(seconds, dict) or not seconds:
        raise CurveError('batchSeconds: missing; write {"batchSeconds": {"1": 0.02, "8": 0.05}}')
    points = {_rows(key): _positive(value, f"batchSeconds.{key}") for key, value in seconds.items()}
    start_up = document.get("startUpSeconds")
    return Curve(
        tuple(sorted(points.items())),
        hop_s=_seconds(document.get("hopSeconds", 0.0), "hopSeconds"),
        start_up_s=None if start_up is None else _seconds(start_up, "startUpSeconds"),
        model=_text(document, "model"),
        version=_text(document, "version"),
    )


def parse(text: str) -> Curve:
    """A curve as a person types it: `1=20ms,8=50ms`. Raises `CurveError`."""
    points: dict[int, float] = {}
    for part in text.split(","):
        rows, equals, duration = part.strip().partition("=")
        if not equals:
            raise CurveError(f"{shown(part)} is not ROWS=DURATION; write it like 1=20ms,8=50ms")
        try:
            points[_rows(rows.strip())] = quantity.parse_duration(duration.strip())
        except ValueError as error:
            raise CurveError(f"{shown(part)}: {error}") from None
        if points[_rows(rows.strip())] <= 0:
            raise CurveError(f"{shown(part)}: a batch takes time; write more than 0s")
    return Curve(tuple(sorted(points.items())))


def _rows(key: str) -> int:
    if not (key.isascii() and key.isdigit() and 1 <= len(key) <= 4 and 1 <= int(key) <= MOST_ROWS):
        raise CurveError(f"{shown(key)} is not a number of rows; write whole numbers from 1 to {MOST_ROWS}")
    return int(key)


def _seconds(value: object, field: str) -> float:
    # JSON's whole numbers have no end, and what compares them to a float raises nothing.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_SECONDS:
        raise CurveError(f"{field}: {shown(value)} is no time; write seconds as a number that is not below 0")
    return float(value)


def _positive(value: object, field: str) -> float:
    seconds = _seconds(value, field)
    if seconds == 0:
        raise CurveError(f"{field}: a batch takes time; write more than 0")
    return seconds


def _text(document: dict[str, Any], field: str) -> str:
    value = document.get(field, "")
    if not isinstance(value, str):
        raise CurveError(f"{field}: {shown(value)} is not text")
    return value
