"""JSON bodies in, with errors that say where the text stops being JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from rayfleet_serving.protocol.errors import malformed
from rayfleet_serving.protocol.message import RequestError

NOT_NUMBERS = ("NaN", "Infinity", "-Infinity", "nan", "inf", "-inf")
MAX_DEPTH = 64
"""Levels of arrays and objects. What a request holds is packed, printed and walked again, by code that stops at a few
hundred levels or recurses."""
STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Brackets as steps of int8, in and out."""
NOT_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
SHOWN = 40
"""Characters of a refused value that an error message repeats."""


class TooDeepError(Exception):
    """JSON nested over `MAX_DEPTH` levels."""

    def __init__(self) -> None:
        super().__init__(f"nested over {MAX_DEPTH} levels deep")


def parse(body: bytes) -> Any:
    """The JSON document in `body`.

    Raises:
        RequestError: 400 where it is empty, not UTF-8, not JSON (NaN and Infinity are not), or nested over `MAX_DEPTH`.
    """
    try:
        return loads(body)
    except orjson.JSONDecodeError as error:
        raise _malformed(body, error) from None
    except TooDeepError as error:
        raise malformed(f"The body is {error}.") from None


def loads(text: bytes | str) -> Any:
    """`orjson.loads` for what a client sent, within `MAX_DEPTH`.

    Raises:
        orjson.JSONDecodeError: not JSON.
        TooDeepError: nested over `MAX_DEPTH`.
    """
    document = orjson.loads(text)
    encoded = text.encode() if isinstance(text, str) else text
    # Few brackets cannot nest deep: that settles flat tensors and small records.
    if encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH and _depth(encoded) > MAX_DEPTH:
        raise TooDeepError
    return document


def show(value: Any) -> str:
    """A refused value as JSON, cut to a length that fits a sentence."""
    if isinstance(value, list | dict) and len(value) > SHOWN:
        return f"an array of {len(value)}" if isinstance(value, list) else f"an object of {len(value)}"
    try:
        text = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        text = str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def kind(value: Any) -> str:
    """What JSON calls a value's type, with its article."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _depth(text: bytes) -> int:
    """Levels of nesting of valid JSON, in time linear in its length."""
    if b"\\" in text:
        # Escaped backslashes first, so that a backslash before a quote is one that escapes it.
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(text.split(b'"')[::2])
    steps = np.frombuffer(outside_strings.translate(STEPS, NOT_BRACKETS), np.int8)
    return int(steps.cumsum(dtype=np.int32).max(initial=0))


def _malformed(body: bytes, error: orjson.JSONDecodeError) -> RequestError:
    if not body.strip():
        return malformed("The body is empty; a JSON document belongs there.")
    try:
        text = body.decode()
    except UnicodeDecodeError as wrong:
        return malformed(f"The body is not UTF-8: {wrong.reason} at byte {wrong.start}.")
    rest = text[max(0, error.pos - 1) : error.pos + 9].lstrip("[,: \n\t")
    hint = " JSON has no NaN or Infinity." if rest.startswith(NOT_NUMBERS) or rest.startswith("Inf") else ""
    reason = error.msg.split(": line ")[0]
    return malformed(f"The body is not JSON: {reason} at line {error.lineno} column {error.colno}.{hint}")
