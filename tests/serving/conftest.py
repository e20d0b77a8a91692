"""One `rayfleet up` for all tests here, with a model of every flavour on it, each from a local folder."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cloudpickle
import httpx
import mlflow.pyfunc
import numpy as np
import pytest
import yaml
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from model_loading.test_flavors import CASES, Case
from rayfleet_up import RayfleetUp

SERVED = {
    "pytorch-pt2": "pytorch_pt2",
    "pytorch-one-row": "pytorch_pt2_one_row",
    "pytorch-pickle": "pytorch_pickle",
    "onnx": "onnx_tensor",
    "sklearn-frame": "sklearn_frame",
    "sklearn-probabilities": "sklearn_probabilities",
    "xgboost-frame": "xgboost_booster",
    "transformers": "transformers_text",
    "pyfunc-params": "pyfunc_array",
    "pyfunc-mixed": "pyfunc_sentences",
}
"""Model name: builder in the flavour tests."""


class Picky(mlflow.pyfunc.PythonModel):
    """Doubles; raises on 13, and takes the seconds that a negative number says."""

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        import time

        if (model_input == 13).any():
            raise ValueError("13 brings bad luck")
        slowest = -float(model_input.min())
        if slowest > 0:
            time.sleep(slowest)
        return model_input * 2


class Gate(mlflow.pyfunc.PythonModel):
    """Writes down what it is given, and does not answer before the gate is open. Both are files in `folder`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        import time
        from pathlib import Path

        with (Path(self.folder) / "given").open("a") as given:
            given.writelines(f"{value:g}\n" for value in model_input.ravel())
        while not (Path(self.folder) / "open").exists():
            time.sleep(0.01)
        return model_input


class Digits(mlflow.pyfunc.PythonModel):
    """The three models below have the signatures of tests/protocol/models.py."""

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        return np.repeat(model_input.mean(axis=(1, 2, 3))[:, None], 10, axis=1)


class Pair(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: dict[str, np.ndarray], params: dict[str, Any] | None = None) -> Any:
        left, right = model_input["left"].astype(np.float64), model_input["right"]
        return {"sum": left.sum(axis=1) + right, "product": left * right[:, None]}


class Houses(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        price = model_input["rooms"] * model_input["area"]
        return (price * (1 - (params or {}).get("discount", 0.0))).to_numpy(np.float64)


class Loose(mlflow.pyfunc.PythonModel):
    """No signature: whatever comes is taken, and its rows are counted."""

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        return list(range(len(model_input)))


def signatures() -> dict[str, ModelSignature]:
    """The signatures of tests/protocol/models.py as MLflow writes them."""
    columns = [
        ColSpec("integer", "rooms"),
        ColSpec("double", "area"),
        ColSpec("string", "city"),
        ColSpec("boolean", "garden"),
        ColSpec("datetime", "sold", required=False),
        ColSpec("binary", "photo", required=False),
    ]
    params = ParamSchema([ParamSpec("discount", "double", 0.0, None), ParamSpec("cities", "string", ["Paris"], (-1,))])
    float32, float64, uint8 = np.dtype("float32"), np.dtype("float64"), np.dtype("uint8")
    return {
        "digits": ModelSignature(Schema([TensorSpec(float32, (-1, 1, 8, 8))]), Schema([TensorSpec(float32, (-1, 10))])),
        "pair": ModelSignature(
            Schema([TensorSpec(uint8, (-1, 3), "left"), TensorSpec(float64, (-1,), "right")]),
            Schema([TensorSpec(float64, (-1,), "sum"), TensorSpec(float64, (-1, 3), "product")]),
        ),
        "houses": ModelSignature(Schema(columns), Schema([TensorSpec(float64, (-1,))]), params),
    }


@dataclass(frozen=True)
class Zoo:
    """What is served, and where."""

    up: RayfleetUp
    cases: dict[str, Case]
    folders: dict[str, Path]
    gate: Path
    """Folder of the files of `Gate`."""

    @property
    def url(self) -> str:
        return self.up.url


def deployment(name: str, folder: Path, **spec: Any) -> dict[str, Any]:
    model = {"uri": str(folder), **spec.pop("model", {})}
    return {
        "apiVersion": "rayfleet.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": model, "resources": {"cpu": "500m"}, **spec},
    }


@pytest.fixture(scope="package")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    root = tmp_path_factory.mktemp("zoo")
    by_name = {case.build.__name__: case for case in CASES}
    cases = {name: by_name[builder] for name, builder in SERVED.items()}
    folders = {name: root / name for name in [*cases, "picky", "gate"]}
    documents = []
    # The replicas cannot import these test files, so the models' classes travel with the models.
    for module in {Picky.__module__, *(case.build.__module__ for case in CASES)}:
        cloudpickle.register_pickle_by_value(sys.modules[module])
    for name, case in cases.items():
        case.build(folders[name])
        documents.append(deployment(name, folders[name], model={"allowCodeExecution": case.code}))
    example = np.zeros((2, 1), np.float32)
    mlflow.pyfunc.save_model(
        folders["picky"], python_model=Picky(), signature=infer_signature(example, example), pip_requirements=[]
    )
    documents.append(
        deployment(
            "picky",
            folders["picky"],
            model={"allowCodeExecution": True},
            limits={"maxQueuedRequests": 40, "requestTimeout": "10s", "maxRequestBytes": "64Ki"},
        )
    )
    gate = root / "gate-files"
    gate.mkdir()
    (gate / "open").touch()
    mlflow.pyfunc.save_model(
        folders["gate"], python_model=Gate(str(gate)), signature=infer_signature(example, example), pip_requirements=[]
    )
    patient = {"requestTimeout": "120s"}
    documents.append(deployment("gate", folders["gate"], model={"allowCodeExecution": True}, limits=patient))
    models = {"digits": Digits(), "pair": Pair(), "houses": Houses()}
    for name, signature in signatures().items():
        folders[name] = root / name
        mlflow.pyfunc.save_model(folders[name], python_model=models[name], signature=signature, pip_requirements=[])
        documents.append(deployment(name, folders[name], model={"allowCodeExecution": True}))
    folders["loose"] = root / "loose"
    mlflow.pyfunc.save_model(folders["loose"], python_model=Loose(), pip_requirements=[])
    documents.append(deployment("loose", folders["loose"], model={"allowCodeExecution": True}))
    next(item for item in documents if item["metadata"]["name"] == "digits")["spec"]["transform"] = {
        "input": {"image": {"resize": [8, 8], "mode": "L"}},
        "output": {"classification": {"labels": [f"digit {i}" for i in range(10)], "topK": 3}},
    }
    image = {"resize": [9, 9], "mode": "L"}
    spec = next(item["spec"] for item in documents if item["metadata"]["name"] == "pytorch-pt2")
    spec["transform"] = {
        "input": {"image": image},
        "output": {"classification": {"labels": ["cat", "dog", "owl"], "topK": 2}},
    }
    yaml_folder = root / "models"
    yaml_folder.mkdir()
    (yaml_folder / "zoo.yaml").write_text(yaml.safe_dump_all(documents))
    with RayfleetUp([yaml_folder], folder=root / "up") as up:
        up.wait_ready(*folders, seconds=240)
        yield Zoo(up, cases, folders, gate)


@pytest.fixture(scope="package")
def client(zoo: Zoo) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=zoo.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="package", autouse=True)
def bodiless(zoo: Zoo) -> Iterator[socket.socket]:
    """A request without its body: the answer takes 15 s, in which other tests run."""
    with socket.create_connection(("127.0.0.1", urlsplit(zoo.url).port), timeout=60) as connection:
        connection.sendall(b"POST /v2/models/picky/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n[")
        yield connection
