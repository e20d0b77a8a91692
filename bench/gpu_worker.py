"""One model in a process of its own, for `bench.gpu`: `python -m bench.gpu_worker KIND OPTIONS`.

It says `ready`, waits for a line, and prints what it measured as JSON.

- serve: a closed loop of 64 callers through the batcher, for some seconds;
- hoard: a batch that does not fit, then memory without end, through a library that has a limit;
- unlimited: memory without end past every library's limit, under the guard that a replica has.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import gpu_models
from rayfleet_serving.link.call import Call, Failure, Reply, Trouble
from rayfleet_serving.model.batcher import Batcher
from rayfleet_serving.model.calls import Calls
from rayfleet_serving.model.errors import out_of_memory
from rayfleet_serving.model.execution import Execution
from rayfleet_serving.model.guard import Guard
from rayfleet_serving.model.pending import PendingCall, Segment
from rayfleet_serving.model.share import GPU_SLACK, open_share
from rayfleet_serving.protocol.message import InferenceResult

MIB = 2**20
CALLERS = 64
ROWS = 65536
"""Of the batch that does not fit: each takes 64 KiB in the wide models."""


class Model:
    """A loaded model within its share."""

    def __init__(self, options: dict[str, Any], kind: str) -> None:
        self.device = options["device"]
        self.share = open_share(memory_bytes=None, gpu_memory_bytes=options["cap"])
        self.free = self._free()
        self.loaded = gpu_models.load(kind, self.device, Path(options["folder"]), self.share)
        self.calls = Calls(self.loaded.predict, self.share, static_batch=None)
        self.input = self.loaded.signature.inputs[0].name

    def used(self) -> tuple[int, str]:
        """Bytes that this process takes of what is shared, and who says so."""
        if (used := self.share.gpu_memory_used()) is not None:
            return used, "NVML" if self.device == "cuda" else "the process"
        return self.free - self._free(), "the GPU's free memory"

    def _free(self) -> int:
        if self.device != "cuda":
            return 0
        import torch

        return int(torch.cuda.mem_get_info()[0])

    def keep(self, held: list[Any], size: int) -> None:
        """Take `size` bytes through PyTorch, for good."""
        import torch

        held.append(torch.ones(size // 4, device=self.device))


def segment(name: str, array: np.ndarray, requests: int) -> Segment:
    rows = len(array) // requests
    call = Call({name: array}, [rows] * requests, "tensor", {}, [600.0] * requests)
    reply: asyncio.Future[Reply] = asyncio.new_event_loop().create_future()
    return Segment(PendingCall(call, time.perf_counter(), reply), 0, requests)


def ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


async def serve(options: dict[str, Any]) -> dict[str, Any]:
    model = Model(options, "mlp")
    execution = Execution(model.calls, max_batch_size=options["max_batch"], writes_inputs=model.loaded.writes_inputs)
    batcher = Batcher(execution, max_wait_s=0.005)
    row = gpu_models.rows(model.device, 1)
    for rows in (1, 2, 4, 8, 16, 32):
        model.calls.warm_up({model.input: np.repeat(row, rows, axis=0)}, "tensor", {})
    ready()
    took: list[float] = []
    begin, busy_before = time.perf_counter(), model.calls.busy_s

    async def caller() -> None:
        while (sent := time.perf_counter()) < begin + options["seconds"]:
            reply = await batcher.infer(Call({model.input: row}, [1], "tensor", {}, [600.0]))
            assert not reply.failures, reply.failures
            took.append(time.perf_counter() - sent)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    seconds = time.perf_counter() - begin
    return {
        "rows": len(took) / seconds,
        "p99_ms": 1e3 * float(np.percentile(took, 99)),
        "busy": (model.calls.busy_s - busy_before) / seconds,
    }


def hoard(options: dict[str, Any]) -> dict[str, Any]:
    kind = options["model"]
    model = Model(options, kind)
    ready()
    session = getattr(model.loaded, "_session", None)
    if model.device == "cuda" and session is not None and "CUDAExecutionProvider" not in session.get_providers():
        return {"why": "onnxruntime does not find its CUDA libraries, and would run on the CPU"}
    if options.get("forever"):
        _go_on(model)
    if kind == "wide":
        answered = _answered(model)
        used, by = _until_full(model)
    else:  # its arena keeps the pieces that it took: a large one would leave no room to come near the limit
        used, by = _widest(model)
        answered = _answered(model)
    return {
        "asked": ROWS,
        "answered": answered,
        "halved": model.calls.out_of_memory,
        "used": used,
        "measured_by": by,
        "context": options["cap"] - (model.share.library_bytes or options["cap"]),
    }


def _answered(model: Model) -> int:
    """Rows of a batch that does not fit which are answered."""
    execution = Execution(model.calls, max_batch_size=ROWS, writes_inputs=False)
    outcomes = execution.run([segment(model.input, np.zeros((ROWS, 1), np.float32), 64)])
    return sum(len(next(iter(each.outputs.values()))) for _, each in outcomes if not isinstance(each, Failure))


def _until_full(model: Model) -> tuple[int, str]:
    held: list[Any] = []
    with model.share.enforced():
        try:
            while True:
                model.keep(held, 16 * MIB)
        except Exception as error:
            if not out_of_memory(error):
                raise
        return model.used()


def _widest(model: Model) -> tuple[int, str]:
    """onnxruntime keeps what each larger batch took, in steps that are small enough to come near its limit."""
    rows = 128
    while True:
        try:
            model.calls.warm_up({model.input: np.zeros((rows, 1), np.float32)}, "tensor", {})
        except Exception as error:
            if not out_of_memory(error):
                raise
            return model.used()
        rows += 128


def _go_on(model: Model) -> None:
    """Ask for more for ever, as a model would whose every request fails."""
    held: list[Any] = []
    while True:
        try:
            with model.share.enforced():
                model.keep(held, 16 * MIB)
        except Exception as error:
            if not out_of_memory(error):
                raise
            time.sleep(0.001)


async def unlimited(options: dict[str, Any]) -> dict[str, Any]:
    """Where it is watched it never returns: the guard ends the process."""
    device, cap = options["device"], options["cap"]
    share = open_share(
        memory_bytes=None if device == "cuda" else cap, gpu_memory_bytes=cap if device == "cuda" else None
    )
    held: list[Any] = []
    crossed: list[float] = []

    def used() -> int:
        return (share.gpu_memory_used() if device == "cuda" else share.memory_used()) or 0

    def predict(inputs: Any, form: Any, params: Any) -> InferenceResult:
        import torch

        while True:
            held.append(torch.ones(4 * MIB, device=device))
            if not crossed and used() > cap + GPU_SLACK:
                crossed.append(time.perf_counter())
            time.sleep(0.02)

    calls = Calls(predict, share, static_batch=None)
    told: list[str] = []

    def end(code: int) -> None:
        seconds = time.perf_counter() - crossed[0] if crossed else 0.0
        print(json.dumps({"seconds": seconds, "used": used(), "said": told[-1]}), flush=True)
        os._exit(code)

    def tell(trouble: Trouble | None) -> threading.Event:
        told.append(trouble.message if trouble else "")
        heard = threading.Event()
        heard.set()
        return heard

    guard = Guard("it", tell=tell, end=end)
    guard.watch(calls, share)
    ready()
    if device == "cuda" and share.gpu_memory_used() is None:
        return {"why": "NVML does not tell what this process has on the GPU"}
    guard.start()
    await asyncio.to_thread(calls, {"x": np.zeros((1, 1))}, "tensor", {})
    return {"why": "it came to an end"}


def main() -> None:
    kind, options = sys.argv[1], json.loads(sys.argv[2])
    if kind == "hoard":
        found = hoard(options)
    else:
        found = asyncio.run(unlimited(options) if kind == "unlimited" else serve(options))
    print(json.dumps(found), flush=True)
    os._exit(0)  # libraries that are at their cap may fail to end


if __name__ == "__main__":
    main()
