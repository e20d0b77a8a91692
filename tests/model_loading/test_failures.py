"""Models that cannot be loaded, or answer oddly, say what is wrong and what would be right."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest
import yaml
from mlflow.models import infer_signature
from model_loading import models
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve.context import _set_internal_replica_context
from ray.serve.schema import ReplicaRank

from rayfleet_serving.config import ModelArgs, ModelIdentity
from rayfleet_serving.digest import tree_digest
from rayfleet_serving.link.call import Call
from rayfleet_serving.model.app import Model
from rayfleet_serving.model.errors import LoadError, OutputError
from rayfleet_serving.model.flavors import load
from rayfleet_serving.model.flavors.containers import as_array

BLOCKED = """
import importlib.abc, pathlib, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[2]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from rayfleet_serving.model.flavors import LoadError, load
try:
    load(pathlib.Path(sys.argv[1]), allow_code_execution=False, gpu_memory_bytes=None)
except LoadError as error:
    print(error)
"""

PACKAGES = [
    (models.pytorch_pt2, "torch", "pytorch"),
    (models.onnx_tensor, "onnxruntime", "onnx"),
    (models.sklearn_frame, "skops", "sklearn"),
    (models.xgboost_booster, "xgboost", "xgboost"),
    (models.transformers_text, "transformers", "transformers"),
]


@pytest.mark.parametrize(("build", "package", "extra"), PACKAGES, ids=[package for _, package, _ in PACKAGES])
def test_missing_package_names_the_extra(build: Any, package: str, extra: str, saved: Any) -> None:
    """In a process where the package cannot be imported, as in an image without it."""
    command = [sys.executable, "-c", BLOCKED, str(saved(build)), package]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("MissingPackage: ")
    assert f"needs {package}, which is not installed: pip install 'rayfleet[{extra}]'" in said


def test_package_of_the_artifacts_own_code(tmp_path: Path, saved: Any) -> None:
    path = Path(shutil.copytree(saved(models.pyfunc_array), tmp_path / "model"))
    document = yaml.safe_load((path / "MLmodel").read_text())
    document["flavors"]["python_function"]["loader_module"] = "no_such_package.loader"
    (path / "MLmodel").write_text(yaml.safe_dump(document))
    with pytest.raises(
        LoadError, match="needs no_such_package, which is not installed: add it to the image"
    ) as refused:
        load(path, allow_code_execution=True, gpu_memory_bytes=None)
    assert refused.value.reason == "MissingPackage"


@pytest.mark.parametrize("shapes", [(("n", 2), (1,)), ((8, 2), (1, 2))], ids=repr)
def test_a_graph_with_an_input_that_has_no_rows(shapes: Any, tmp_path: Path) -> None:
    models.onnx_scaled(*shapes)(tmp_path / "model")
    with pytest.raises(LoadError, match=r"graph's input '(x|scale)' always has [18] rows, and not so all") as refused:
        load(tmp_path / "model", allow_code_execution=False, gpu_memory_bytes=None)
    assert refused.value.reason == "UnsupportedFlavor"


@pytest.mark.parametrize(("rows", "static_batch"), [("n", None), (8, 8)])
def test_a_graph_whose_inputs_agree_on_their_rows(rows: Any, static_batch: int | None, tmp_path: Path) -> None:
    models.onnx_scaled((rows, 2), (rows, 1))(tmp_path / "model")
    model = load(tmp_path / "model", allow_code_execution=False, gpu_memory_bytes=None)
    assert model.static_batch == static_batch
    x, scale = np.ones((8, 2), np.float32), np.arange(8, dtype=np.float32)[:, None]
    assert model.predict({"x": x, "scale": scale}, "tensors", {}).outputs["y"].tolist() == (x * scale).tolist()


def test_flavor_that_nobody_runs(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {mleap: {}}\n")
    with pytest.raises(LoadError, match=r"has flavors \['mleap'\]; none can be served") as refused:
        load(tmp_path, allow_code_execution=True, gpu_memory_bytes=None)
    assert refused.value.reason == "UnsupportedFlavor"


GARBAGE = [
    (models.pytorch_pt2, "data/model.pt2"),
    (models.onnx_tensor, "model.onnx"),
    (models.xgboost_booster, "model.ubj"),
    (models.transformers_text, "model/model.safetensors"),
]


@pytest.mark.parametrize(("build", "file"), GARBAGE, ids=[file for _, file in GARBAGE])
def test_garbage_is_a_corrupt_model(build: Any, file: str, tmp_path: Path, saved: Any) -> None:
    path = Path(shutil.copytree(saved(build), tmp_path / "model"))
    assert (path / file).exists()
    (path / file).write_bytes(b"\x00garbage" * 64)
    with pytest.raises(LoadError) as refused:
        load(path, allow_code_execution=False, gpu_memory_bytes=None)
    assert refused.value.reason == "CorruptModel"
    assert str(path) in refused.value.message


class Says(mlflow.pyfunc.PythonModel):
    """Answers whatever it was told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "returned NoneType"),
        (3.5, "returned float"),
        ("text", "returned str"),
        ({}, "no outputs"),
        (np.float32(1), "returned float32"),
        (np.array(1.0), "single value in output 'output'"),
        ({"y": 1}, "single value in output 'y'"),
    ],
    ids=repr,
)
def test_answer_without_a_batch_axis(answer: Any, says: str, tmp_path: Path) -> None:
    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Says(answer), pip_requirements=[])
    model = load(tmp_path / "model", allow_code_execution=True, gpu_memory_bytes=None)
    with pytest.raises(OutputError, match=says):
        model.predict({"input": np.zeros((2, 3))}, "tensor", {})


def test_another_number_of_rows_is_left_to_the_caller(tmp_path: Path) -> None:
    """A model that sums its rows up is run request by request."""
    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Says(np.ones(1)), pip_requirements=[])
    model = load(tmp_path / "model", allow_code_execution=True, gpu_memory_bytes=None)
    assert model.predict({"input": np.zeros((2, 3))}, "tensor", {}).outputs["output"].tolist() == [1.0]


def test_what_the_model_raises_comes_through(saved: Any) -> None:
    model = load(saved(models.sklearn_frame), allow_code_execution=False, gpu_memory_bytes=None)
    with pytest.raises(ValueError, match="NaN"):
        model.predict({name: np.array([np.nan]) for name in "abcd"}, "frame", {})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "i"),
        ([1, 2.5], "f"),
        ([[1, 2], [3, 4]], "i"),
        (["a", "b"], "U"),
        ([1, "a"], "O"),
        ([[1], [2, 3]], "O"),
        ([{"a": 1}, {}], "O"),
        ([None, 1], "O"),
        ([b"a\0", b"b"], "O"),
        ([["a"], ["b"]], "O"),
        ([np.zeros(2), np.zeros(2)], "f"),
    ],
    ids=repr,
)
def test_lists_keep_their_values(values: list[Any], kind: str) -> None:
    array = as_array(values)
    assert array.dtype.kind == kind
    assert len(array) == len(values)
    if kind != "f":
        assert array.tolist() == values


class PanicError(BaseException):
    """As pyo3 raises for a panic in Rust."""


NO_WEIGHTS = ValueError("no weights at data\udcff")
RAISED = [NO_WEIGHTS, PanicError("panicked"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()]


class Broken(mlflow.pyfunc.PythonModel):
    """Answers no zeros, and not its own example."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        if (model_input < 10).any():
            raise self.error
        return model_input


def broken(path: Path, *, example: bool, error: BaseException = NO_WEIGHTS) -> Path:
    signature = infer_signature(models.FEATURES)
    mlflow.pyfunc.save_model(path, python_model=Broken(error), signature=signature, pip_requirements=[])
    if example:
        # What log_model writes of an example; it would not write one the model refuses.
        document = yaml.safe_load((path / "MLmodel").read_text())
        document["saved_input_example_info"] = {"serving_input_path": "serving_input_example.json"}
        (path / "MLmodel").write_text(yaml.safe_dump(document))
        (path / "serving_input_example.json").write_text('{"inputs": [[1, 2, 3, 4], [5, 6, 7, 8]]}')
    return path


class Replica(Model.func_or_class):  # type: ignore[name-defined,misc]
    """Serve awaits `__del__`; Python, which calls it as well, cannot."""

    def __del__(self) -> None:
        pass


@pytest.fixture
def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """Builds the model app's replica as Serve does, in this process."""
    monkeypatch.setattr("ray.serve.context._INTERNAL_REPLICA_CONTEXT", None)  # put back after the test
    name = DeploymentID(name="model", app_name="broken")
    _set_internal_replica_context(
        replica_id=ReplicaID(unique_id="r1", deployment_id=name),
        servable_object=None,  # type: ignore[arg-type]
        _deployment_config=DeploymentConfig(),
        rank=ReplicaRank(rank=0, node_rank=0, local_rank=0),
        world_size=1,
    )
    monkeypatch.setenv("RAYFLEET_CACHE_DIR", str(tmp_path / "cache"))

    async def build(path: Path) -> Any:
        digest = tree_digest(path)
        identity = ModelIdentity(version="1", model_id=digest.replace(":", "-"), artifact_uri=str(path), digest=digest)
        made = Replica.__new__(Replica)
        await Replica.__init__(made, ModelArgs(name="broken", identity=identity, allow_code_execution=True))
        return made

    return build


async def test_a_model_that_raises_on_its_own_example_never_becomes_ready(tmp_path: Path, replica: Any) -> None:
    with pytest.raises(LoadError, match=r"raised on its own input example: .*no weights at data") as refused:
        await replica(broken(tmp_path / "model", example=True))
    assert refused.value.reason == "WarmUpFailed"
    assert refused.value.message.encode()


@pytest.mark.parametrize("error", RAISED[1:], ids=lambda error: type(error).__name__)
async def test_whatever_a_model_raises_on_its_own_example_is_told(
    error: BaseException, tmp_path: Path, replica: Any
) -> None:
    with pytest.raises(LoadError, match=f"raised on its own input example: {type(error).__name__}") as refused:
        await replica(broken(tmp_path / "model", example=True, error=error))
    assert refused.value.reason == "WarmUpFailed"


class Neighbours(mlflow.pyfunc.PythonModel):
    """Answers with the third row, so only where there is one, and raises on more than three."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        if len(model_input) > 3:
            raise self.error
        return model_input["a"] - model_input["a"].iloc[2]


def neighbours(path: Path, rows: int, error: Exception = NO_WEIGHTS) -> Path:
    """Logged with an example of so many rows."""
    table = models.TABLE[:rows]
    model, signature = Neighbours(error), infer_signature(table)
    mlflow.pyfunc.save_model(path, python_model=model, signature=signature, input_example=table, pip_requirements=[])
    return path


async def test_a_model_that_answers_its_example_as_a_whole_becomes_ready(tmp_path: Path, replica: Any) -> None:
    made = await replica(neighbours(tmp_path / "model", rows=3))
    assert len((await made.metadata(None)).input_example["dataframe_split"]["data"]) == 1
    call = Call({name: models.TABLE[name].to_numpy()[:3] for name in "abcd"}, [3], "frame", {}, [30.0])
    assert (await made._batcher.infer(call)).rows == [3]
    await Model.func_or_class.__del__(made)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("rows", "error"), [(64, ValueError("x")), (4, MemoryError("x"))], ids=["cut", "memory"])
async def test_what_says_nothing_about_requests_is_told_and_no_more(
    rows: int, error: Exception, tmp_path: Path, replica: Any, caplog: Any
) -> None:
    """The first rows of a long example are another example, and memory that several rows lack may do for one."""
    caplog.set_level(logging.WARNING)
    made = await replica(neighbours(tmp_path / "model", rows, error))
    assert f"raised on {min(rows, 32)} rows made from its own input example: {type(error).__name__}" in caplog.text
    await Model.func_or_class.__del__(made)  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_without_an_example_a_model_may_refuse_zeros(
    error: BaseException, tmp_path: Path, replica: Any, caplog: Any
) -> None:
    caplog.set_level(logging.WARNING)
    made = await replica(broken(tmp_path / "model", example=False, error=error))
    await made.reconfigure({})
    assert f"Warm-up with 1 rows failed: {type(error).__name__}" in caplog.text
    call = Call({"input": np.full((2, 4), 10, np.float32)}, [1, 1], "tensor", {}, [30.0, 30.0])
    assert (await made._batcher.infer(call)).rows == [1, 1]
    await Model.func_or_class.__del__(made)  # type: ignore[attr-defined]


LABELS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "plain": (b"cat\ndog\n", ("cat", "dog")),
    "with a byte order mark": (b"\xef\xbb\xbfcat\r\ndog\r\n", ("cat", "dog")),
    "not UTF-8": ("Bär\nKuh".encode("latin-1"), ("B\ufffdr", "Kuh")),
}


@pytest.mark.parametrize("case", LABELS)
async def test_labels_are_read_whatever_wrote_them(case: str, saved: Any, tmp_path: Path, replica: Any) -> None:
    content, labels = LABELS[case]
    path = Path(shutil.copytree(saved(models.sklearn_frame), tmp_path / "model"))
    (path / "labels.txt").write_bytes(content)
    made = await replica(path)
    assert (await made.metadata("labels.txt")).labels == labels
    await Model.func_or_class.__del__(made)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["nowhere.txt", "data", "a/" * 5 + "b", "x" * 300, "../escape.txt"])
async def test_labels_that_cannot_be_had_are_none(name: str, saved: Any, tmp_path: Path, replica: Any) -> None:
    made = await replica(saved(models.sklearn_frame))
    (made._path.parent / "escape.txt").write_text("cat")
    assert (await made.metadata(name)).labels == ()
    await Model.func_or_class.__del__(made)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "flavor"), [(models.pyfunc_array, "pyfunc"), (models.transformers_text, "transformers")]
)
def test_what_mlflow_loads_is_given_the_cap_of_gpu_memory(
    model: Any, flavor: str, saved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    monkeypatch.setattr(f"rayfleet_serving.model.flavors.{flavor}.torch_device", asked.append)
    load(saved(model), allow_code_execution=True, gpu_memory_bytes=1 << 30)
    assert asked == [1 << 30]
