"""The cap on a process' memory, for real: each in a process of its own, which takes what it can get."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pytest
from hostile import ROWS, Neighbour
from mlflow.models import infer_signature
from model_loading import models

from rayfleet_serving.model import process_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the private memory of a process")

LIBRARIES = {
    "numpy": "f = lambda n: np.ones((n, 4096)).sum(axis=1)",
    "torch": "import torch\nf = lambda n: torch.ones(n, 4096).sum(dim=1).numpy()",
    "sklearn": """
from sklearn.linear_model import LinearRegression
model = LinearRegression().fit(np.random.rand(10, 2), np.random.rand(10, 4096))
f = lambda n: model.predict(np.ones((n, 2)))[:, 0]
""",
    "onnxruntime": """
import onnxruntime
from onnx import parser
graph = "g (float[n,1] x) => (float[n,4096] y) { s = Constant<value = int64[2] {1, 4096}>() y = Expand(x, s) }"
model = parser.parse_model('<ir_version: 8, opset_import: ["" : 13]> ' + graph)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
f = lambda n: session.run(None, {"x": np.ones((n, 1), np.float32)})[0][:, 0]
""",
    "xgboost": """
import xgboost
model = xgboost.train({"objective": "multi:softprob", "num_class": 4096, "max_depth": 1},
                      xgboost.DMatrix(np.random.rand(4096, 1), label=np.arange(4096)), 1)
f = lambda n: model.inplace_predict(np.ones((n, 1), np.float32))[:, 0]
""",
    "pandas": """
import pandas as pd
f = lambda n: pd.DataFrame(np.ones((n, 4096))).astype("float32").sum(axis=1).to_numpy()
""",
    "python": "f = lambda n: np.array([sum([float(i)] * 4096) for i in range(n) if held.append([0.5] * 4096) is None])",
}
"""Each takes tens of KiB for a row."""

HALVED = """
import asyncio, time
import numpy as np
from rayfleet_serving.link.call import Call, Failure
from rayfleet_serving.model.calls import Calls
from rayfleet_serving.model.execution import Execution
from rayfleet_serving.model.pending import PendingCall, Segment
from rayfleet_serving.model.share import Share
from rayfleet_serving.protocol.message import InferenceResult

held = []
{library}
f(2)
share = Share(memory_bytes=None, gpu_memory_bytes=256 * 2**20)
share.hold()

def predict(inputs, form, params):
    held.clear()
    return InferenceResult({{"y": f(len(inputs["x"]))}}, "array")

calls = Calls(predict, share, static_batch=None)
execution = Execution(calls, max_batch_size=2**15, writes_inputs=False)
rows = {rows}
call = Call({{"x": np.ones((rows, 1), np.float32)}}, [rows // 4] * 4, "tensor", {{}}, [600.0] * 4)
batch = [Segment(PendingCall(call, time.perf_counter(), asyncio.new_event_loop().create_future()), 0, 4)]
outcomes = execution.run(batch)
failed = [outcome for _, outcome in outcomes if isinstance(outcome, Failure)]
answered = sum(len(outcome.outputs["y"]) for _, outcome in outcomes if not isinstance(outcome, Failure))
print(f"failed {{failed}} answered {{answered}} halved {{calls.out_of_memory > 0}}")
"""


def run(program: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_batch_beyond_the_cap_is_halved_until_it_fits(library: str) -> None:
    assert run(HALVED.format(library=LIBRARIES[library], rows=2**15)) == "failed [] answered 32768 halved True"


HOARDS = """
import numpy as np
from rayfleet_serving.model.calls import Calls
from rayfleet_serving.model.process_memory import read
from rayfleet_serving.model.share import Share, size

share = Share(memory_bytes=read().resident + 200 * 2**20, gpu_memory_bytes=None)
share.hold()
kept = []

def predict(inputs, form, params):
    while True:
        kept.append(np.ones(2**17))

calls = Calls(predict, share, static_batch=None)
for _ in range(3):
    try:
        calls({"x": np.ones((1, 1))}, "tensor", {})
    except MemoryError as error:
        said = str(error)
after = read()
print(calls.starved, calls.full, 170 < len(kept) < 340, share.over(), bytearray(16 * 2**20)[:1], said[:40])
"""


def test_a_model_that_allocates_without_end_stays_within_its_cap_and_leaves_the_process_its_reserve() -> None:
    said = run(HOARDS)
    assert said.startswith("3 True True None bytearray(b'\\x00') Unable to allocate"), said


POOL = """
import numpy as np
import torch
from rayfleet_serving.model.calls import Calls
from rayfleet_serving.model.process_memory import read
from rayfleet_serving.model.share import open_share
from rayfleet_serving.protocol.message import InferenceResult

torch.set_num_threads(32)
share = open_share(memory_bytes=read().resident + 64 * 2**20, gpu_memory_bytes=None, cpus=32.0)
share.hold()
predict = lambda *_: InferenceResult({"y": torch.ones(4_000_000).exp().sum()[None].numpy()}, "array")
Calls(predict, share, static_batch=None)({"x": np.ones((1, 1))}, "tensor", {})
print("computed")
"""


def test_stacks_of_as_many_threads_as_there_are_cpus_find_room_beside_a_small_model() -> None:
    """A library that cannot start a thread ends the process: "libgomp: Thread creation failed"."""
    assert run(POOL) == "computed"


LOADS = """
import pathlib, sys
from rayfleet_serving.model.flavors import LoadError, load
from rayfleet_serving.model.share import open_share
share = open_share(memory_bytes={memory}, gpu_memory_bytes={gpu})
try:
    load(pathlib.Path(sys.argv[1]), allow_code_execution=True, gpu_memory_bytes=share.library_bytes, share=share)
    print("loaded")
except LoadError as error:
    print(error)
"""


def loaded(path: Path, memory: str, gpu: str = "None") -> str:
    program = LOADS.format(memory=memory, gpu=gpu)
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", program, str(path)]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return ran.stdout.strip().splitlines()[-1]


def test_a_model_that_fits_is_loaded(saved: Any) -> None:
    assert loaded(saved(models.pytorch_pt2), str(4 * 2**30)) == "loaded"


def small(path: Path) -> None:
    """Needs no library, and brings its own code."""
    signature = infer_signature(ROWS, ROWS.sum(axis=1))
    mlflow.pyfunc.save_model(path, python_model=Neighbour(None), signature=signature, pip_requirements=[])


def test_where_there_is_no_gpu_no_library_takes_room_to_be_limited_on_one(saved: Any) -> None:
    assert loaded(saved(small), "None", gpu=str(64 * 2**20)) == "loaded"


def large(path: Path) -> None:
    """Takes 512 MiB when it is loaded, needs no library, and brings its own code, as a class in a function does."""

    class Large(mlflow.pyfunc.PythonModel):
        def load_context(self, context: Any) -> None:
            import numpy as np

            self.weights = np.ones(2**26)

        def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
            return model_input

    mlflow.pyfunc.save_model(path, python_model=Large(), signature=infer_signature(ROWS, ROWS), pip_requirements=[])


def test_a_model_that_does_not_fit_says_what_it_has(saved: Any) -> None:
    said = loaded(saved(large), "None", gpu=str(64 * 2**20))
    assert said.startswith("OutOfMemory: it needs more than its 64 MiB of GPU memory to be loaded: "), said
    assert "512" in said, said


def test_memory_that_the_libraries_fill_is_refused_with_both_numbers(saved: Any) -> None:
    said = loaded(saved(models.sklearn_frame), str(64 * 2**20))
    assert said.startswith("OutOfMemory: it needs more than its 64 MiB of memory: Python, Ray and the model's"), said


def test_what_the_process_has_is_read() -> None:
    memory = process_memory.read()
    assert memory is not None
    assert memory.data > 2**20
    assert 2**20 < memory.resident < 2**40
