"""JSON values to numpy, one strict conversion for each dtype of a signature.

Nothing is converted silently: 300 is no uint8, 2.5 is no integer (2.0 is), "1" and true are no numbers, 1e39 is no
float32. The conversions look at the set of the values' types first, which costs about as much as the conversion
itself, and search for the value at fault only once something is wrong.
"""

from __future__ import annotations

import base64
import binascii
import re
from array import array as compact
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson

from rayfleet_serving.protocol.jsontext import TooDeepError, kind, loads, show

Array = np.ndarray[Any, Any]
Convert = Callable[[Sequence[Any], bool], Array]
"""(flat values, whether null is a missing value) -> one-dimensional array. Raises `BadValueError`."""

NUMBERS = frozenset({int, float})
FIRST_INSTANT, LAST_INSTANT = datetime(1677, 9, 22, tzinfo=UTC), datetime(2262, 4, 11, tzinfo=UTC)
"""What fits into 64 bits of nanoseconds."""
NANOSECONDS = re.compile(r"\.\d{6}(\d{1,3})(?!\d)")


class BadValueError(Exception):
    """The value at `index` of the flat values does not belong there."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Dtype:
    """One dtype of a signature, as JSON and the Open Inference Protocol see it."""

    name: str
    """As in `signature.Field.dtype`."""
    oip: str
    """The Open Inference Protocol's datatype."""
    convert: Convert


def _numbers(dtype: str) -> Convert:
    def convert(values: Sequence[Any], missing: bool) -> Array:
        if not set(map(type, values)) <= NUMBERS:
            values = _checked(values, NUMBERS, f"{dtype} takes numbers", missing, float("nan"))
        if dtype == "float64":
            return np.fromiter(values, np.float64, len(values))
        if dtype == "float32" and values:
            # array turns what is out of range into infinity without a warning; JSON itself cannot bring any.
            numbers: Array = np.frombuffer(compact("f", values), np.float32)
        else:
            with np.errstate(over="ignore"):
                numbers = np.fromiter(values, np.float64, len(values)).astype(dtype)
        if np.isinf(numbers).any():
            index = int(np.isinf(numbers).argmax())
            raise BadValueError(index, f"{show(values[index])} is out of the range of {dtype}")
        return numbers

    return convert


def _integers(dtype: str) -> Convert:
    limits = np.iinfo(dtype)
    wanted = f"{dtype} takes whole numbers from {limits.min} to {limits.max}"

    def convert(values: Sequence[Any], missing: bool) -> Array:
        kinds = set(map(type, values))
        if kinds != {int}:
            if not kinds <= NUMBERS:
                _checked(values, NUMBERS, wanted, False, None)
            values = [_whole(index, value, wanted) for index, value in enumerate(values)]
        try:
            return np.fromiter(values, dtype, len(values))
        except OverflowError:
            index = next(i for i, value in enumerate(values) if not limits.min <= value <= limits.max)
            raise BadValueError(index, f"{show(values[index])} is out of range; {wanted}") from None

    return convert


def _whole(index: int, value: float, wanted: str) -> int:
    if type(value) is float and not value.is_integer():
        raise BadValueError(index, f"{show(value)} is not whole; {wanted}")
    return int(value)


def _booleans(values: Sequence[Any], missing: bool) -> Array:
    if set(map(type, values)) - {bool}:
        _checked(values, {bool}, "bool takes true and false", False, None)
    return np.fromiter(values, np.bool_, len(values))


def _strings(values: Sequence[Any], missing: bool) -> Array:
    if set(map(type, values)) - {str}:
        values = _checked(values, {str}, "str takes strings", missing, None)
    return np.array(values, dtype=object)


def _text_bytes(values: Sequence[Any], missing: bool) -> Array:
    return _objects([None if text is None else text.encode() for text in _strings(values, missing)])


def _base64(values: Sequence[Any], missing: bool) -> Array:
    decoded: list[bytes | None] = []
    for index, text in enumerate(_strings(values, missing)):
        try:
            # MLflow's own encoder breaks lines.
            decoded.append(None if text is None else base64.b64decode("".join(text.split()), validate=True))
        except (binascii.Error, ValueError):
            raise BadValueError(index, f"{show(text)} is not base64; binary data travels as base64") from None
    return _objects(decoded)


def _instants(values: Sequence[Any], missing: bool) -> Array:
    if set(map(type, values)) - {str}:
        values = _checked(values, {str}, "dates travel as ISO 8601 text", missing, None)
    return np.array([_instant(index, text) for index, text in enumerate(values)], dtype="datetime64[ns]")


def _instant(index: int, text: str | None) -> np.datetime64:
    """UTC, where the text has an offset; as it stands, where it has none."""
    if text is None:
        return np.datetime64("NaT", "ns")
    try:
        parsed = datetime.fromisoformat(text)
        instant = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadValueError(index, f"{show(text)} is not ISO 8601, like 2024-01-31T12:00:00") from None
    if not FIRST_INSTANT <= instant <= LAST_INSTANT:
        raise BadValueError(index, f"{show(text)} is out of range; nanoseconds reach from 1677 to 2262")
    rest = NANOSECONDS.search(text)  # datetime stops at microseconds
    nanoseconds = np.timedelta64(int(rest[1].ljust(3, "0")) if rest else 0, "ns")
    return np.datetime64(instant.replace(tzinfo=None), "ns") + nanoseconds


def _objects(values: Sequence[Any], missing: bool = True) -> Array:
    """One element for each value, whatever it is; numpy would make an axis of lists of one length."""
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def _json_text(values: Sequence[Any], missing: bool) -> Array:
    """Objects that travel as JSON inside a string: the Open Inference Protocol has no datatype for them."""
    decoded: list[Any] = []
    for index, text in enumerate(_strings(values, missing)):
        try:
            decoded.append(None if text is None else loads(text))
        except orjson.JSONDecodeError:
            raise BadValueError(index, f"{show(text)} is not JSON; objects travel as JSON text in BYTES") from None
        except TooDeepError as error:
            raise BadValueError(index, f"{show(text)} is {error}") from None
    return _objects(decoded)


def _checked(values: Sequence[Any], allowed: Any, wanted: str, missing: bool, stand_in: Any) -> Sequence[Any]:
    """The values with `stand_in` for null, where null is allowed. Raises `BadValueError` for the first other type."""
    for index, value in enumerate(values):
        if type(value) not in allowed and not (missing and value is None):
            if type(value) is list:
                raise BadValueError(index, f"an array stands where a single value belongs; {wanted}")
            what = "a missing value (null)" if value is None else f"{kind(value)} ({show(value)})"
            raise BadValueError(index, f"{what} is not allowed; {wanted}")
    return [stand_in if value is None else value for value in values]


DTYPES = {
    dtype.name: dtype
    for dtype in (
        *(Dtype(name, f"FP{name[5:]}", _numbers(name)) for name in ("float16", "float32", "float64")),
        *(
            Dtype(f"{sign}int{bits}", f"{sign.upper()}INT{bits}", _integers(f"{sign}int{bits}"))
            for sign in ("", "u")
            for bits in (8, 16, 32, 64)
        ),
        Dtype("bool", "BOOL", _booleans),
        Dtype("str", "BYTES", _strings),
        Dtype("bytes", "BYTES", _base64),
        Dtype("datetime64[ns]", "BYTES", _instants),
        Dtype("object", "BYTES", _objects),
    )
}
TEXT_BYTES = Dtype("bytes", "BYTES", _text_bytes)
"""Bytes that travel as the UTF-8 text they are: bytes tensors, and BYTES without a content type."""
JSON_TEXT = Dtype("object", "BYTES", _json_text)
"""Objects in BYTES."""
BY_OIP = {dtype.oip: dtype for dtype in DTYPES.values() if dtype.oip != "BYTES"} | {"BYTES": DTYPES["str"]}


def of(name: str) -> Dtype:
    """The dtype called `name` in a signature. Dates of any unit are read as nanoseconds; what is unknown is taken as
    objects, for the model to judge."""
    return DTYPES.get(name) or DTYPES["datetime64[ns]" if name.startswith("datetime64") else "object"]


def inferred(values: Sequence[Any], missing: bool) -> Array:
    """For models without a signature: bool, int64, float64 or text where all values are that; with `missing`, anything
    else stays an object, as in a DataFrame."""
    kinds = set(map(type, values))
    known = kinds - {type(None)} if missing else kinds
    if known == {bool} == kinds:
        return _booleans(values, missing)
    if known == {int} == kinds:
        return DTYPES["uint64" if max(values) > np.iinfo(np.int64).max and min(values) >= 0 else "int64"].convert(
            values, missing
        )
    if known and known <= NUMBERS:
        return DTYPES["float64"].convert(values, missing)
    if known == {str}:
        return _strings(values, missing)
    if missing:
        return _objects(values)
    first = type(values[0])
    index = next((i for i, value in enumerate(values) if type(value) is not first), 0)
    raise BadValueError(index, f"{show(values[index])} is neither a number, a boolean nor a string like the others")


INFERRED = Dtype("any", "BYTES", inferred)
