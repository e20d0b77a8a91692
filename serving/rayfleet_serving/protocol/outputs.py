"""Arrays out: what orjson needs to be told about numpy's other dtypes."""

from __future__ import annotations

import base64
import sys
from datetime import date, datetime, time
from typing import Any

import numpy as np
import orjson

Array = np.ndarray[Any, Any]

OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
"""Floats are written with the fewest digits that read back as the same value of their own dtype; NaN and infinities
as null."""


def dumps(document: Any) -> bytes:
    """JSON of a document with arrays and whatever else a model answers in it.

    What JSON has no form for does not cost the answer: half a character is written as "?", and an integer beyond 64
    bits as the nearest double, or as text beyond the largest.
    """
    try:
        return orjson.dumps(document, default=plain, option=OPTIONS)
    except TypeError:
        return orjson.dumps(_mended(document), default=lambda value: _mended(plain(value)), option=OPTIONS)


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_mended(key) if isinstance(key, str) else key: _mended(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_mended(item) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        return _mended(value.tolist())
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return plain(value)
    return value


def jsonable(array: Array) -> Any:
    """The array in a form that orjson writes: itself where it can, nested lists of Python values where not."""
    if array.dtype.kind == "M":
        return np.array(instants(array.ravel()), dtype=object).reshape(array.shape).tolist()
    if array.dtype.kind in "biuf" and array.dtype.itemsize <= 8:
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return array.tolist()


def plain(value: Any) -> Any:
    """orjson's `default`: values inside object arrays, as MLflow's encoder writes them; the text of anything else."""
    if isinstance(value, np.ndarray):
        return jsonable(value)
    if isinstance(value, np.datetime64):
        return instants(np.array([value]))[0]
    if isinstance(value, np.generic):
        item = value.item()
        if isinstance(item, np.generic):  # what Python has no type for: long doubles
            return str(item)
        return item if isinstance(item, int | float | str | list | tuple | None) else plain(item)
    if isinstance(value, bytes | bytearray):
        return base64.encodebytes(value).decode("ascii")
    if type(value).__name__ in ("NaTType", "NAType"):  # pandas' missing values, without importing pandas
        return None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return list(value)
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if isinstance(value, int):  # one beyond 64 bits: msgpack asks about these
        return float(value) if abs(value) <= sys.float_info.max else str(value)
    return str(value)


def native(value: Any) -> Any:
    """msgpack's `default`, which is asked once for each value: as `plain`, with arrays as lists.

    Read back and written by orjson, a value is what it would have been without msgpack in between, but for float32,
    which gets the digits of its double. msgpack itself keeps bytes as they are.
    """
    given = plain(value)
    return keyed(given.tolist() if isinstance(given, np.ndarray) else given)


def keyed(value: Any) -> Any:
    """The value with keys that JSON and msgpack have a form for: neither asks its `default` about keys."""
    if isinstance(value, dict):
        return {_key(key): keyed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [keyed(item) for item in value]
    return value


def _key(key: Any) -> Any:
    if isinstance(key, str | int | float | None):
        return key
    given = plain(key)
    return given if isinstance(given, str | int | float | None) else str(key)


def instants(array: Array) -> list[str | None]:
    """Dates as ISO 8601 without an offset, as pandas writes them: a fraction only where there is one; NaT is None."""
    texts: list[str | None] = []
    for text in np.datetime_as_string(array.astype("datetime64[ns]")).tolist():
        whole, _, fraction = text.partition(".")
        digits = fraction.rstrip("0")
        width = 0 if not digits else 6 if len(digits) <= 6 else 9
        texts.append(None if text == "NaT" else f"{whole}.{fraction[:width]}" if width else whole)
    return texts
