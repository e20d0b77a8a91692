"""Frames: eight bytes of lengths, a msgpack header, and the arrays' bytes one after the other.

    0  4  header length, little endian
    4  4  body length
    8     header: [type, id, ...], arrays described as [name, dtype, shape, values]
          body: the arrays whose `values` is None, in that order, C-contiguous

Object arrays (text, binary, missing values, nested lists) stand in the header itself.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import msgpack
import numpy as np

from rayfleet_serving.config import Wanted
from rayfleet_serving.link.call import Call, Failure, Reply, RouterLoad, Timing, Trouble
from rayfleet_serving.protocol import outputs

LENGTHS = struct.Struct("<II")
MAX_FRAME = 2**31
"""Bytes. `maxRequestBytes` ends at 1 GiB, and a JSON number of two bytes may become eight."""

LONGEST_BEGIN = 64 * 1024
"""Bytes of a header in which a call's number and its requests' sizes are."""

Arrays = dict[str, np.ndarray]
Buffers = list[bytes | memoryview]


class FrameError(Exception):
    """The peer sent something that is no frame; the connection cannot go on."""


class Type(IntEnum):
    """What a frame is. A kind that the other end does not know is let pass: it may be of an older release."""

    HELLO = 0
    CALL = 1
    REPLY = 2
    ERROR = 3
    CANCEL = 4
    TROUBLE = 5
    LOAD = 6
    NEED = 7


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


def load(content: RouterLoad) -> Buffers:
    """What a router has seen; a replica answers it with a NEED, where it has one."""
    return _frame([Type.LOAD, 0, *content], {})


def need(wanted: Wanted) -> Buffers:
    """How many replicas are needed, by the one that answers."""
    return _frame([Type.NEED, 0, wanted.replicas, wanted.reason], {})


def read_load(header: list[Any]) -> RouterLoad:
    """The content of a LOAD frame. A newer router may say more."""
    ongoing, latency, replicas = header[2:5]
    counts = {int(bucket): int(count) for bucket, count in latency.items()}
    return RouterLoad(float(ongoing), counts, int(replicas))


def read_need(header: list[Any]) -> Wanted:
    """The content of a NEED frame."""
    return Wanted(replicas=header[2], reason=header[3])


def trouble(content: Trouble | None) -> Buffers:
    """What ails the replica, None once nothing does. It belongs to no call; an older router takes no notice of it."""
    return _frame([Type.TROUBLE, -1, list(content) if content is not None else None], {})


def read_trouble(header: list[Any]) -> Trouble | None:
    """The content of a TROUBLE frame. A newer replica may say more."""
    if header[2] is None:
        return None
    reason, message = header[2][:2]
    return Trouble(str(reason), str(message))


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
        self._skip = 0

    def feed(self, data: bytes) -> None:
        """Take what came off the socket."""
        self.add(data)
        self.cut()

    def add(self, data: bytes | memoryview) -> None:
        """The first half of `feed`. Where it raises `MemoryError`, it has taken nothing."""
        skipped = min(self._skip, len(data))
        self._buffer += data[skipped:] if skipped else data
        self._skip -= skipped

    def cut(self) -> None:
        """The second half. Where there is no memory for a frame, it raises `MemoryError` and may be called again."""
        while len(self._buffer) >= self._wanted:
            header_length, body_length = LENGTHS.unpack_from(self._buffer)
            end = LENGTHS.size + header_length + body_length
            if end > self.limit:
                raise FrameError(f"a frame of {end} bytes where {self.limit} are allowed")
            self._wanted = end
            if len(self._buffer) < end:
                return
            # Arrays keep a view of their frame, so each gets memory of its own: the buffer's, if it is all of that.
            whole = len(self._buffer) == end
            frame = memoryview(self._buffer if whole else self._buffer[:end])[LENGTHS.size :]
            try:
                header = msgpack.unpackb(frame[:header_length], strict_map_key=False, unicode_errors="surrogatepass")
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                raise FrameError(f"no msgpack header: {error}") from error
            if not isinstance(header, list) or len(header) < 2:
                raise FrameError("the header is no list of type, number and the rest")
            if whole:
                self._buffer = bytearray()
            else:
                del self._buffer[:end]
            self._wanted = LENGTHS.size
            self._on_frame(header, frame[header_length:])

    @property
    def arriving(self) -> int:
        """Bytes of the frame that arrives, or of its beginning where no more is known."""
        return self._wanted

    def drop(self) -> list[Any]:
        """Give up the frame that arrives, with what is still to come of it.

        Returns:
            The first items of its header, as many as can be told; at most three.

        Raises:
            FrameError: there is none.
        """
        if len(self._buffer) < LENGTHS.size:
            raise FrameError("no frame has begun")
        header_length, body_length = LENGTHS.unpack_from(self._buffer)
        begin = bytes(self._buffer[LENGTHS.size : LENGTHS.size + min(header_length, LONGEST_BEGIN)])
        here = min(len(self._buffer), LENGTHS.size + header_length + body_length)
        self._skip = LENGTHS.size + header_length + body_length - here
        self._buffer = self._buffer[here:]
        self._wanted = LENGTHS.size
        unpacker = msgpack.Unpacker(strict_map_key=False, read_size=LONGEST_BEGIN, unicode_errors="surrogatepass")
        unpacker.feed(begin)
        items: list[Any] = []
        with contextlib.suppress(ValueError, msgpack.UnpackException):
            for _ in range(min(3, unpacker.read_array_header())):
                items.append(unpacker.unpack())
        return items


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
