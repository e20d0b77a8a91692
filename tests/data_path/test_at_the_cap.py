"""A replica whose model takes all the memory there is, for real: a process of its own under a cap, and a router's end.

Without memory that is kept for them, calls that arrive are lost with their connection, again and again, while the model
answers those that come through.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from closed_loop import until

from rayfleet_serving.link.call import Call
from rayfleet_serving.link.client import CallError, Link, ReplicaLostError
from rayfleet_serving.link.server import Endpoint
from rayfleet_serving.model.guard import EXIT_CODE
from rayfleet_serving.model.process_memory import MIB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the private memory of a process")

REPLICA = """
import asyncio, json, sys, threading, time
import numpy as np
from rayfleet_serving.link.server import LinkServer
from rayfleet_serving.model.batcher import Batcher
from rayfleet_serving.model.calls import Calls
from rayfleet_serving.model.execution import Execution
from rayfleet_serving.model.guard import Guard, in_loop
from rayfleet_serving.model.process_memory import read
from rayfleet_serving.model.share import Share
from rayfleet_serving.protocol.message import InferenceResult

kept = []

def take_all(*sizes):
    for size in sizes:
        try:
            while True:
                kept.append(bytearray(size))
        except MemoryError:
            pass

def take_more():
    # Outside of calls, where the limit is higher: as a model does that computes in threads of its own.
    while True:
        take_all(2**20, 2**14, 2**10, 100)
        time.sleep(0.01)

def predict(inputs, form, params):
    x = inputs["x"]
    if x[0, 0] == 1:
        take_all(2**20, 2**12)
        time.sleep(7)
    elif x[0, 0] == 2:
        threading.Thread(target=take_more, daemon=True).start()
    return InferenceResult({"y": x[:, :1].copy()}, "array")

async def main():
    loop = asyncio.get_running_loop()
    share = Share(memory_bytes=read().resident + 100 * 2**20, gpu_memory_bytes=None)
    guard = Guard("model a, version 1,", tell=in_loop(loop, lambda trouble: server.tell(trouble)))
    guard.start()
    share.hold()
    calls = Calls(predict, share, static_batch=None)
    batcher = Batcher(Execution(calls, max_batch_size=8, writes_inputs=False), max_wait_s=0, room=share)
    server = LinkServer(batcher.infer, replica="r", host="127.0.0.1", room=share)
    endpoint = await server.start()
    guard.watch(calls, share)
    print(json.dumps(endpoint), flush=True)
    await asyncio.Event().wait()

{loop}
"""

LOOPS = {
    "asyncio": "asyncio.run(main())",
    "uvloop": "import uvloop\nuvloop.run(main())",  # as in Ray
}


@contextmanager
def replica(loop: str) -> Iterator[tuple[subprocess.Popen[str], Endpoint]]:
    program = REPLICA.replace("{loop}", LOOPS[loop])
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, Endpoint(*json.loads(process.stdout.readline()))
        finally:
            process.kill()


async def asked(link: Link, value: float, size: int = 1024) -> str:
    """How a call of `size` bytes is answered."""
    try:
        async with asyncio.timeout(60):
            reply = await link.infer(Call({"x": np.full((1, size // 8), value)}, [1], "tensor", {}, [60.0]))
    except (ReplicaLostError, CallError, TimeoutError) as error:
        return type(error).__name__
    return reply.failures[0].code if reply.failures else "answered"


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_model_that_has_filled_its_cap_loses_no_call(loop: str) -> None:
    lost: list[Link] = []
    with replica(loop) as (process, endpoint):
        link = await Link.connect(endpoint, lost.append)
        assert await asked(link, 0) == "answered"
        filling = asyncio.ensure_future(asked(link, 1))
        await asyncio.sleep(0.2)  # it computes with everything taken for longer than a call waits for memory
        answers = Counter(await asyncio.gather(filling, *(asked(link, 0, 2 * MIB) for _ in range(8))))
        for _ in range(4):
            answers.update(await asyncio.gather(*(asked(link, 0) for _ in range(40))))
        assert answers == {"answered": 169}
        assert not lost
        assert process.poll() is None


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_call_beyond_what_there_can_be_is_answered_alone(loop: str) -> None:
    lost: list[Link] = []
    with replica(loop) as (process, endpoint):
        link = await Link.connect(endpoint, lost.append)
        assert await asked(link, 0, 400 * MIB) == "OutOfMemory"
        assert [await asked(link, 0) for _ in range(5)] == ["answered"] * 5
        assert not lost
        assert process.poll() is None


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_model_that_leaves_nothing_for_requests_is_replaced_and_says_why(loop: str) -> None:
    lost: list[Link] = []
    with replica(loop) as (process, endpoint):
        link = await Link.connect(endpoint, lost.append)
        assert await asked(link, 2) == "answered"
        answers: Counter[str] = Counter()

        async def ask() -> None:
            while link.connected:
                answers[await asked(link, 0, 256 * 1024)] += 1
                await asyncio.sleep(0.05)

        asking = [asyncio.ensure_future(ask()) for _ in range(3)]
        await until("it ends", lambda: process.poll() is not None, 60)
        await asyncio.gather(*asking)
        assert process.returncode == EXIT_CODE
        assert link.trouble is not None
        assert link.trouble.reason == "OutOfMemory"
        assert "left no memory, of its" in link.trouble.message
        assert sum(count for kind, count in answers.items() if kind != "answered") <= 6, answers
