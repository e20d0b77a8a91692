"""Every flavour answers what MLflow's own loader answers: same values, same container, for any number of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.pytorch
import numpy as np
import orjson
import pandas as pd
import pytest
import torch
from model_loading import models
from model_loading.models import FEATURES, IMAGES, MIXED, TABLE, TEXTS

from rayfleet_serving.model.flavors import load, warmup_inputs
from rayfleet_serving.protocol import oip, outputs
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult
from rayfleet_serving.signature import ModelMetadata


@dataclass(frozen=True)
class Case:
    build: Callable[[Path], None]
    flavor: str
    data: Any
    """32 rows or more in the container MLflow's pyfunc takes."""
    answer: str
    """The form of the result."""
    code: bool = False
    rows: tuple[int, ...] = (1, 3, 32)
    static_batch: int | None = None


CASES = [
    Case(models.pytorch_pt2, "pytorch", IMAGES, "array"),
    Case(models.pytorch_pt2_one_row, "pytorch", IMAGES, "array", rows=(1,), static_batch=1),
    Case(models.pytorch_pickle, "pytorch", IMAGES, "array", code=True),
    Case(models.pytorch_frame, "pytorch", TABLE, "frame", code=True),
    Case(models.onnx_tensor, "onnx", FEATURES, "tensors"),
    Case(models.onnx_unnamed_output, "onnx", FEATURES, "tensors"),
    Case(models.onnx_one_row, "onnx", FEATURES, "tensors", rows=(1,), static_batch=1),
    Case(models.onnx_classifier_frame, "onnx", TABLE, "frame"),
    Case(models.sklearn_frame, "sklearn", TABLE, "array"),
    Case(models.sklearn_probabilities, "sklearn", FEATURES, "array"),
    Case(models.sklearn_forest, "sklearn", FEATURES, "array", code=True),
    Case(models.sklearn_pickle_mixed, "sklearn", MIXED, "array", code=True),
    Case(models.sklearn_no_signature, "sklearn", FEATURES, "array"),
    Case(models.xgboost_booster, "xgboost", TABLE, "array"),
    Case(models.xgboost_classifier, "xgboost", FEATURES, "array"),
    Case(models.transformers_text, "transformers", pd.DataFrame({0: TEXTS}), "frame"),
    Case(models.pyfunc_array, "pyfunc", FEATURES, "array", code=True),
    Case(models.pyfunc_frame, "pyfunc", TABLE, "frame", code=True),
    Case(models.pyfunc_sentences, "pyfunc", MIXED, "list", code=True),
    Case(models.pyfunc_dicts, "pyfunc", MIXED, "list", code=True),
    Case(models.pyfunc_series, "pyfunc", MIXED, "frame", code=True),
    Case(models.pyfunc_unnamed_series, "pyfunc", MIXED, "frame", code=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.build.__name__)
def test_answers_what_mlflow_answers(case: Case, saved: Callable[..., Path]) -> None:
    path = saved(case.build)
    model = load(path, allow_code_execution=case.code, gpu_memory_bytes=None)
    assert model.flavor == case.flavor
    assert model.static_batch == case.static_batch
    reference = mlflow.pyfunc.load_model(str(path))
    for rows in case.rows:
        data = case.data[:rows]
        inputs, form = as_inputs(data)
        result = model.predict(inputs, form, {})
        assert result.form == case.answer
        assert_same(result, reference.predict(data))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.build.__name__)
def test_each_output_of_the_metadata_can_be_asked_for_by_its_name(case: Case, saved: Callable[..., Path]) -> None:
    model = load(saved(case.build), allow_code_execution=case.code, gpu_memory_bytes=None)
    metadata = ModelMetadata(name="m", version="1", model_id="m", flavor=model.flavor, signature=model.signature)
    described = [output["name"] for output in orjson.loads(oip.model_metadata(metadata, ["1"]))["outputs"]]
    inputs, form = as_inputs(case.data[:1])
    body = oip.request_document(InferenceRequest(inputs, 1, form))
    result = model.predict(inputs, form, {})
    for asked in [described] + [[name] for name in described]:
        body["outputs"] = [{"name": name} for name in asked]
        decoded = oip.decode(outputs.dumps(body), model.signature)
        answer = oip.encode(result, decoded, model.signature, model_name="m", model_version="1", request_id="r")
        assert [output["name"] for output in orjson.loads(answer)["outputs"]] == asked or not described


TENSORS = [
    (models.pyfunc_text_tensor, models.WORDS),
    (models.pyfunc_text_pairs, models.PAIRS),
    (models.pyfunc_bytes_tensor, models.RAW),
    (models.pyfunc_days_tensor, models.DAYS),
    (models.pyfunc_seconds_tensor, models.SECONDS),
    (models.pyfunc_named_tensors, models.NAMED),
]


@pytest.mark.parametrize(("build", "data"), TENSORS, ids=lambda part: getattr(part, "__name__", ""))
def test_tensors_of_text_bytes_and_dates_reach_the_model_as_mlflow_gives_them(
    build: Callable[[Path], None], data: Any, saved: Callable[..., Path]
) -> None:
    path = saved(build)
    model = load(path, allow_code_execution=True, gpu_memory_bytes=None)
    tensors = data if isinstance(data, dict) else {"input": data}
    body = oip.request_document(InferenceRequest(tensors, 4, model.signature.form))
    for tensor in body["inputs"]:
        tensor.pop("parameters", None)
        if tensor["name"] == "raw" or data is models.RAW:
            tensor["data"] = [value.decode() for value in models.RAW]  # bytes tensors travel as their text
    request = oip.decode(outputs.dumps(body), model.signature)
    result = model.predict(request.inputs, request.form, {})
    assert_same(result, mlflow.pyfunc.load_model(str(path)).predict(data))
    zeros = warmup_inputs(model.signature, 2, None)
    assert zeros is not None
    assert len(model.predict(*zeros).outputs["output"]) == 2
    zeros = warmup_inputs(model.signature, 2, None)
    assert zeros is not None
    assert {len(array) for array in model.predict(*zeros).outputs.values()} == {2}


def as_inputs(data: Any) -> tuple[dict[str, np.ndarray], Any]:
    if isinstance(data, np.ndarray):
        return {"input": data}, "tensor"
    return {("input" if name == 0 else name): data[name].to_numpy() for name in data.columns}, "frame"


def assert_same(result: InferenceResult, expected: Any) -> None:
    """The same values in the same container."""
    if isinstance(expected, pd.Series):
        expected = pd.DataFrame(expected)
    if isinstance(expected, pd.DataFrame):
        assert result.form == "frame"
        assert list(result.outputs) == [str(name) for name in expected.columns]
        pairs = [(array, expected.iloc[:, i].to_numpy()) for i, array in enumerate(result.outputs.values())]
    elif isinstance(expected, dict):
        assert result.form == "tensors"
        assert list(result.outputs) == list(expected)
        pairs = [(result.outputs[name], array) for name, array in expected.items()]
    else:
        assert result.form == ("list" if isinstance(expected, list) else "array")
        (array,) = result.outputs.values()
        pairs = [(array, expected)]
    for ours, theirs in pairs:
        if ours.dtype.kind in "OUS":
            assert ours.tolist() == list(theirs)
        else:
            assert ours.dtype == np.asarray(theirs).dtype
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_several_tensors_in_and_out(saved: Callable[..., Path], rows: int) -> None:
    path = saved(models.two_towers)
    model = load(path, allow_code_execution=False, gpu_memory_bytes=None)
    user, item = FEATURES[:rows], FEATURES[:rows, :3]
    # Whatever the request's order, the signature's decides.
    result = model.predict({"item": item, "user": user}, "tensors", {})
    score, best = mlflow.pytorch.load_model(str(path))(torch.from_numpy(user), torch.from_numpy(item))
    assert (result.form, list(result.outputs)) == ("tensors", ["score", "best"])
    np.testing.assert_allclose(result.outputs["score"], score.detach().numpy(), atol=1e-5)
    assert result.outputs["best"].tolist() == best.tolist()


def test_without_a_signature_tensors_go_in_by_name(saved: Callable[..., Path]) -> None:
    model = load(saved(models.two_towers_pickle), allow_code_execution=True, gpu_memory_bytes=None)
    result = model.predict({"item": FEATURES[:3, :3], "user": FEATURES[:3]}, "tensors", {})
    with torch.no_grad():
        score, _ = models.TwoTowers()(torch.from_numpy(FEATURES[:3]), torch.from_numpy(FEATURES[:3, :3]))
    assert list(result.outputs) == ["output_0", "output_1"]
    np.testing.assert_allclose(result.outputs["output_0"], score.numpy(), atol=1e-5)


def test_read_only_input_is_not_written_to(saved: Callable[..., Path]) -> None:
    model = load(saved(models.pytorch_pickle), allow_code_execution=True, gpu_memory_bytes=None)
    model._module.register_forward_pre_hook(lambda module, args: args[0].zero_())  # type: ignore[attr-defined]
    images = IMAGES[:2].copy()
    images.flags.writeable = False
    model.predict({"input": images}, "tensor", {})
    np.testing.assert_array_equal(images, IMAGES[:2])


def test_parameters_reach_the_model_and_defaults_are_filled(saved: Callable[..., Path]) -> None:
    model = load(saved(models.pyfunc_array), allow_code_execution=True, gpu_memory_bytes=None)
    for params, factor in [({}, 3), ({"factor": 5}, 5)]:
        (answer,) = model.predict({"input": FEATURES[:2]}, "tensor", params).outputs.values()
        np.testing.assert_allclose(answer, FEATURES[:2] * factor)


def test_type_hints_get_lists(saved: Callable[..., Path]) -> None:
    model = load(saved(models.pyfunc_hinted), allow_code_execution=True, gpu_memory_bytes=None)
    assert model.signature.form == "frame"
    result = model.predict({"input": TEXTS[:3]}, "frame", {})
    assert result.form == "list"
    assert result.outputs["output"].tolist() == ["A GOOD FILM", "BAD", "A FILM"]
