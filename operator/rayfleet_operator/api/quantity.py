"""Durations and quantities as Kubernetes writes them, read into numbers.

Durations follow Go's `time.ParseDuration` without its sign: "30s", "5ms", "1m30s", "1.5h".
Quantities follow apimachinery's `resource.Quantity` without its sign: "500m", "0.33", "4Gi", "1e3".
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|ms|s|m|h))+", re.ASCII)
_DURATION_PART = re.compile(r"([0-9]+)(?:\.([0-9]+))?(ns|us|µs|ms|s|m|h)", re.ASCII)
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}

_QUANTITY = re.compile(
    r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([eE][+-]?[0-9]{1,2})|(n|u|m|k|[KMGTPE]i|[MGTPE]))?", re.ASCII
)
_FACTOR = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}


def parse_duration(text: str) -> float:
    """Seconds in a duration; ValueError when it is not one. Each part is cut off at whole nanoseconds, as in Go."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration; write it like 30s, 5ms or 1m30s")
    nanoseconds = 0
    for whole, fraction, unit in _DURATION_PART.findall(text):
        nanoseconds += int(f"{whole}{fraction}") * _NANOSECONDS[unit] // 10 ** len(fraction)
    return nanoseconds / 10**9


def parse_quantity(text: str) -> Decimal:
    """The exact value of a quantity; ValueError when it is not one."""
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a quantity; write it like 1, 0.5, 500m or 4Gi")
    number, exponent, suffix = match.groups()
    if exponent:
        return Decimal(number + exponent)
    return Decimal(number) * _FACTOR[suffix] if suffix else Decimal(number)


def parse_bytes(text: str) -> int:
    """Whole bytes in a quantity, rounded up as Kubernetes does; ValueError when it is not one."""
    return math.ceil(parse_quantity(text))


def parse_count(text: str) -> float:
    """CPUs or GPUs in a quantity; ValueError when it is not one."""
    return float(parse_quantity(text))
