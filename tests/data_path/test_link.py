"""The link between router and replica over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from rayfleet_serving.link import frame
from rayfleet_serving.link.call import Call, Failure, Reply, Timing
from rayfleet_serving.link.client import CallError, Link, ReplicaLostError
from rayfleet_serving.link.frame import Reader
from rayfleet_serving.link.server import Endpoint, LinkServer

DTYPES = st.one_of(
    nps.boolean_dtypes(),
    nps.integer_dtypes(endianness="="),
    nps.floating_dtypes(endianness="="),
    nps.datetime64_dtypes(max_period="ns", min_period="ns", endianness="="),
    nps.unicode_string_dtypes(endianness="="),
)
ARRAYS = DTYPES.flatmap(
    lambda dtype: nps.arrays(dtype, nps.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values if not any(isinstance(value, list) for value in values) else None
    for index, value in enumerate(values):
        array[index] = value
    return array


def over_the_wire(buffers: frame.Buffers, cut: int) -> tuple[list[Any], memoryview]:
    """Feed a frame in pieces of `cut` bytes."""
    data = b"".join(bytes(buffer) for buffer in buffers)
    frames: list[tuple[list[Any], memoryview]] = []
    reader = Reader(lambda header, body: frames.append((header, body)), limit=frame.MAX_FRAME)
    for begin in range(0, len(data), cut):
        reader.feed(data[begin : begin + cut])
    ((header, body),) = frames
    return header, body


@given(st.dictionaries(st.text(max_size=5), ARRAYS, max_size=3), st.lists(VALUES, max_size=4), st.integers(1, 4000))
def test_a_call_comes_out_as_it_went_in(arrays: dict[str, np.ndarray], values: list[Any], cut: int) -> None:
    inputs = {**arrays, "objects!": objects(values)}
    call = Call(inputs, [1, 2], "frame", {"k": [1.5, "x"]}, [0.5, 30.0])
    header, body = over_the_wire(frame.call(7, call), cut)
    assert header[:2] == [frame.Type.CALL, 7]
    got = frame.read_call(header, body)
    assert got[1:] == call[1:]
    assert list(got.inputs) == list(inputs)
    for name, array in arrays.items():
        assert (got.inputs[name].dtype, got.inputs[name].shape) == (array.dtype, array.shape)
        assert got.inputs[name].tobytes() == np.ascontiguousarray(array).tobytes()
    assert got.inputs["objects!"].tolist() == objects(values).tolist()


@given(ARRAYS, st.integers(1, 4000))
def test_a_reply_comes_out_as_it_went_in(array: np.ndarray, cut: int) -> None:
    reply = Reply({"y": array}, [1, 0], "tensors", {1: Failure("ModelError", "bad")}, Timing(0.1, 0.2, 0.3))
    header, body = over_the_wire(frame.reply(3, reply), cut)
    got = frame.read_reply(header, body)
    assert got[1:] == reply[1:]
    assert got.outputs["y"].tobytes() == np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("sizes", [[4], [1, 3]])
@pytest.mark.parametrize("inputs", [{"x": np.ones((4, 9000))}, {"x": objects([["text"] * 30_000] * 4)}])
@given(st.integers(20, 120_000), st.integers(100, 50_000))
def test_a_call_that_is_given_up_says_whose_it_is_and_the_next_one_is_read(
    inputs: dict[str, np.ndarray], sizes: list[int], here: int, cut: int
) -> None:
    data = b"".join(map(bytes, frame.call(7, Call(inputs, sizes, "tensor", {}, [1.0] * len(sizes)))))
    data += b"".join(map(bytes, frame.cancel(8)))
    assert here < len(data) - 100
    read: list[list[Any]] = []
    reader = Reader(lambda header, body: read.append(header), limit=frame.MAX_FRAME)
    reader.feed(data[:here])
    assert reader.drop() == [frame.Type.CALL, 7, sizes]
    for begin in range(here, len(data), cut):
        reader.feed(data[begin : begin + cut])
    assert read == [[frame.Type.CANCEL, 8]]


def test_nothing_is_given_up_before_it_has_begun() -> None:
    reader = Reader(lambda header, body: None, limit=frame.MAX_FRAME)
    reader.feed(b"\0" * 7)
    with pytest.raises(frame.FrameError):
        reader.drop()


async def double(call: Call) -> Reply:
    return Reply({"y": call.inputs["x"] * 2}, call.sizes, "array", {}, Timing(0, 0, 0))


def call_of(*values: float) -> Call:
    return Call({"x": np.array(values)[:, None]}, [1] * len(values), "tensors", {}, [30.0] * len(values))


@contextlib.asynccontextmanager
async def serving(infer: Callable[[Call], Awaitable[Reply]] = double) -> AsyncIterator[Endpoint]:
    server = LinkServer(infer, replica="r1", host="127.0.0.1")
    endpoint = await server.start()
    try:
        yield endpoint
    finally:
        server.close()


async def test_many_calls_share_one_connection() -> None:
    async with serving() as endpoint:
        link = await Link.connect(endpoint, lambda link: None)
        replies = await asyncio.gather(*(link.infer(call_of(float(i))) for i in range(100)))
        assert [float(reply.outputs["y"][0, 0]) for reply in replies] == [2.0 * i for i in range(100)]
        big = Call({"x": np.ones((4, 1_000_000))}, [4], "tensors", {}, [30.0])
        assert (await link.infer(big)).outputs["y"].sum() == 8_000_000
        assert link.ongoing == 0
        link.close()


def test_it_works_on_the_loop_that_ray_uses() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_many_calls_share_one_connection())


async def test_a_wrong_token_gets_nothing() -> None:
    async with serving() as endpoint:
        link = await Link.connect(endpoint._replace(token="guess"), lambda link: None)
        with pytest.raises(ReplicaLostError):
            await link.infer(call_of(1.0))


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n" * 9, b"\0" * 64, b"\x05\0\0\0\0\0\0\0\xc1\xc1\xc1\xc1\xc1"]
)
async def test_garbage_closes_its_own_connection_only(garbage: bytes) -> None:
    async with serving() as endpoint:
        good = await Link.connect(endpoint, lambda link: None)
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.write(garbage)
        writer.write_eof()
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        assert (await good.infer(call_of(1.0))).outputs["y"][0, 0] == 2.0
        writer.close()


async def test_a_stranger_gets_no_memory() -> None:
    async with serving() as endpoint:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.write(frame.LENGTHS.pack(2**30, 0))
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


async def test_a_failed_call_says_why_and_the_connection_goes_on() -> None:
    async def fail_once(call: Call) -> Reply:
        if call.inputs["x"][0, 0] == 1:
            raise RuntimeError("no device")
        return await double(call)

    async with serving(fail_once) as endpoint:
        link = await Link.connect(endpoint, lambda link: None)
        with pytest.raises(CallError, match="RuntimeError: no device"):
            await link.infer(call_of(1.0))
        assert (await link.infer(call_of(2.0))).outputs["y"][0, 0] == 4.0


async def test_an_odd_answer_costs_no_other_call_its_own() -> None:
    async def count(call: Call) -> Reply:
        value = call.inputs["x"][0, 0]
        odd = objects([{("a", "b"): 1, np.int64(2): {(3, 4): [5]}}])
        outputs = {"y": odd} if value == 1 else {"y": call.inputs["x"] * 2}
        # No replica of ours would write such a failure.
        return Reply(outputs, [1], "array", {0: ("too", "many", "words")} if value == 2 else {}, Timing(0, 0, 0))  # type: ignore[dict-item]

    lost: list[Link] = []
    async with serving(count) as endpoint:
        link = await Link.connect(endpoint, lost.append)
        answers = await asyncio.gather(*(link.infer(call_of(float(i))) for i in range(4)), return_exceptions=True)
        first, keyed, unreadable, last = answers
        assert isinstance(first, Reply)
        assert isinstance(last, Reply)
        assert last.outputs["y"][0, 0] == 6.0
        assert isinstance(keyed, Reply)
        assert keyed.outputs["y"].tolist() == [{"('a', 'b')": 1, 2: {"(3, 4)": [5]}}]
        assert isinstance(unreadable, CallError)
        assert "cannot be read" in str(unreadable)
        assert not lost
        link.close()


async def test_calls_on_a_lost_connection_fail_at_once() -> None:
    entered = asyncio.Event()

    async def never(call: Call) -> Reply:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    lost: list[Link] = []
    async with serving(never) as endpoint:
        link = await Link.connect(endpoint, lost.append)
        waiting = asyncio.ensure_future(link.infer(call_of(1.0)))
        await entered.wait()
        link.close()
        with pytest.raises(ReplicaLostError):
            await waiting
        with pytest.raises(ReplicaLostError):
            await link.infer(call_of(1.0))
    assert lost == [link]


async def test_a_cancelled_call_is_cancelled_in_the_replica() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(call: Call) -> Reply:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(wait) as endpoint:
        link = await Link.connect(endpoint, lambda link: None)
        waiting = asyncio.ensure_future(link.infer(call_of(1.0)))
        await entered.wait()
        waiting.cancel()
        async with asyncio.timeout(20):
            await cancelled.wait()
        assert link.ongoing == 0


async def test_a_call_given_up_before_it_was_read_leaves_nothing_behind() -> None:
    server = LinkServer(double, replica="r1", host="127.0.0.1")
    link = await Link.connect(await server.start(), lambda link: None)
    calls = [asyncio.ensure_future(link.infer(call_of(1.0))) for _ in range(50)]
    await asyncio.sleep(0)
    for each in calls:
        each.cancel()
    assert (await link.infer(call_of(2.0))).outputs["y"][0, 0] == 4.0
    assert (link.ongoing, server.ongoing) == (0, 0)
    link.close()
    server.close()
