"""Frames: eight bytes of lengths, a msgpack header, and the arrays' bytes one after the other.

    0  4  header length, little endian
    4  4  body length
    8     header: [type, id, ...], arrays described as [name, dtype, shape, values]
          body: the arrays whose `values` is None, in that order, C-contiguous

Object arrays (text, binary, missing values, nested lists) stand in the header itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import msgpack
import numpy as np

from rayfleet_serving.link.call import Call, Failure, Reply, Timing
from rayfleet_serving.protocol import outputs

LENGTHS = struct.Struct("<II")
MAX_FRAME = 2**31
"""Bytes. `maxRequestBytes` ends at 1 GiB, and a JSON number of two bytes may become eight."""

Arrays = dict[str, np.ndarray]
Buffers = list[bytes | memoryview]


class FrameError(Exception):
    """The peer sent something that is no frame; the connection cannot go on."""


class Type(IntEnum):
    """What a frame is."""

    HELLO = 0
    CALL = 1
    REPLY = 2
    ERROR = 3
    CANCEL = 4


def hello(token: str) -> Buffers:
    """The first frame of a connection."""
    return _frame([Type.HELLO, 0, token], {})


def call(number: int, content: Call) -> Buffers:
    """Raises `ValueError` where the call does not fit into a frame."""
    rest = [content.sizes, content.form, content.params, content.budgets]
    return _frame([Type.CALL, number, *rest], content.inputs)


def reply(number: int, content: Reply) -> Buffers:
    """Raises `ValueError` where the reply does not fit into a frame."""
    failures = {index: list(failure) for index, failure in content.failures.items()}
    rest = [content.rows, content.form, failures, list(content.timing)]
    return _frame([Type.REPLY, number, *rest], content.outputs)


def error(number: int, message: str) -> Buffers:
    """The call could not be answered at all."""
    return _frame([Type.ERROR, number, message], {})


def cancel(number: int) -> Buffers:
    """Nobody waits for this call any more."""
    return _frame([Type.CANCEL, number], {})


def read_call(header: list[Any], body: memoryview) -> Call:
    """The call of a CALL frame. Its arrays are views of `body`."""
    sizes, form, params, budgets, arrays = header[2:]
    return Call(_arrays(arrays, body), sizes, form, params, budgets)


def read_reply(header: list[Any], body: memoryview) -> Reply:
    """The reply of a REPLY frame. Its arrays are views of `body`."""
    rows, form, failures, timing, arrays = header[2:]
    named = {index: Failure(*failure) for index, failure in failures.items()}
    return Reply(_arrays(arrays, body), rows, form, named, Timing(*timing))


class Reader:
    """Cuts a stream of bytes into frames of at most `limit` bytes and hands them to `on_frame(header, body)`.

    Raises `FrameError`, and whatever `on_frame` raises.
    """

    def __init__(self, on_frame: Callable[[list[Any], memoryview], None], *, limit: int) -> None:
        self.limit = limit
        self._on_frame = on_frame
        self._buffer = bytearray()
        self._wanted = LENGTHS.size

    def feed(self, data: bytes) -> None:
        """Take what came off the socket."""
        self._buffer += data
        while len(self._buffer) >= self._wanted:
            header_length, body_length = LENGTHS.unpack_from(self._buffer)
            end = LENGTHS.size + header_length + body_length
            if end > self.limit:
                raise FrameError(f"a frame of {end} bytes where {self.limit} are allowed")
            if len(self._buffer) < end:
                self._wanted = end
                return
            # Arrays keep a view of their frame, so the frame gets memory of its own.
            frame = memoryview(self._buffer[LENGTHS.size : end])
            del self._buffer[:end]
            self._wanted = LENGTHS.size
            try:
                header = msgpack.unpackb(frame[:header_length], strict_map_key=False, unicode_errors="surrogatepass")
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                raise FrameError(f"no msgpack header: {error}") from error
            if not isinstance(header, list) or len(header) < 2:
                raise FrameError("the header is no list of type, number and the rest")
            self._on_frame(header, frame[header_length:])


def _frame(header: list[Any], arrays: Arrays) -> Buffers:
    described: list[list[Any]] = []
    buffers: Buffers = []
    size = 0
    for name, array in arrays.items():
        if array.dtype.hasobject:
            described.append([name, "O", array.shape, outputs.keyed(array.ravel().tolist())])
        else:
            array = np.ascontiguousarray(array)
            described.append([name, array.dtype.str, array.shape, None])
            if array.nbytes:
                buffers.append(array.reshape(-1).view(np.uint8).data)
            size += array.nbytes
    if arrays or header[0] in (Type.CALL, Type.REPLY):
        header.append(described)
    # A model's text may hold half a character; it is passed on, and written as "?" where JSON cannot hold it.
    packed = msgpack.packb(header, default=outputs.native, unicode_errors="surrogatepass")
    if LENGTHS.size + len(packed) + size > MAX_FRAME:
        raise ValueError(f"{size} bytes do not fit into one call; the limit is {MAX_FRAME}")
    return [LENGTHS.pack(len(packed), size) + packed, *buffers]


def _arrays(described: list[Any], body: memoryview) -> Arrays:
    arrays: Arrays = {}
    offset = 0
    for name, dtype, shape, values in described:
        if values is not None:
            array = np.empty(len(values), dtype=object)
            for index, value in enumerate(values):
                array[index] = value
        else:
            kind = np.dtype(dtype)
            count = math.prod(shape)
            empty = count == 0 or kind.itemsize == 0
            array = np.empty(count, kind) if empty else np.frombuffer(body, kind, count, offset)
            offset += array.nbytes
        arrays[name] = array.reshape(shape)
    return arrays
