"""For every flavour and every protocol, the answer over HTTP equals a direct MLflow prediction."""

from __future__ import annotations

import json
from typing import Any

import httpx
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest

from .conftest import SERVED, Zoo

ROWS = (1, 3)


def rows_of(zoo: Zoo, name: str, rows: int) -> Any:
    case = zoo.cases[name]
    data = case.data if not isinstance(case.data, dict) else next(iter(case.data.values()))
    return data[:rows]


def expected(zoo: Zoo, name: str, rows: int) -> Any:
    """What MLflow's own loader answers; a model with a fixed batch of one is asked row by row."""
    model = mlflow.pyfunc.load_model(str(zoo.folders[name]))
    data = rows_of(zoo, name, rows)
    if zoo.cases[name].static_batch == 1:
        return np.concatenate([plain(model.predict(data[i : i + 1])) for i in range(rows)])
    return plain(model.predict(data))


def plain(answer: Any) -> Any:
    """A prediction as one array."""
    if isinstance(answer, dict):
        (answer,) = answer.values()
    if isinstance(answer, pd.DataFrame):
        answer = answer.to_numpy() if answer.shape[1] > 1 else answer.iloc[:, 0].to_numpy()
    return np.asarray(answer)


def same(got: Any, want: Any) -> None:
    """Numbers within 1e-5, text to the letter, value by value where a table has both."""
    if want.dtype.kind not in "OUS":
        np.testing.assert_allclose(np.asarray(got, want.dtype).reshape(want.shape), want, rtol=1e-5, atol=1e-5)
        return
    values = np.asarray(got, object).ravel()
    assert len(values) == want.size
    for ours, theirs in zip(values, want.ravel(), strict=True):
        assert ours == (pytest.approx(theirs, rel=1e-5, abs=1e-5) if isinstance(theirs, float) else theirs)


def oip_body(data: Any) -> dict[str, Any]:
    if isinstance(data, pd.DataFrame):
        inputs = [tensor(column, data[column].to_numpy()) for column in data]
    else:
        inputs = [tensor("input", np.asarray(data))]
    return {"id": "r-1", "inputs": inputs}


def tensor(name: str, array: np.ndarray) -> dict[str, Any]:
    kinds = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "int32": "INT32", "object": "BYTES"}
    kind = kinds.get(str(array.dtype), "BYTES")
    return {"name": name, "shape": list(array.shape), "datatype": kind, "data": array.ravel().tolist()}


def invocations_body(data: Any) -> dict[str, Any]:
    if isinstance(data, pd.DataFrame):
        return {"dataframe_split": json.loads(data.to_json(orient="split", index=False))}
    return {"inputs": np.asarray(data).tolist()}


def predict_body(data: Any) -> Any:
    if isinstance(data, pd.DataFrame):
        # MLflow numbers the only column of a model without column names; ours is called "input".
        return json.loads(data.rename(columns={0: "input"}).to_json(orient="records"))
    return {"instances": np.asarray(data).tolist()}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", SERVED)
def test_open_inference_protocol(zoo: Zoo, client: httpx.Client, name: str, rows: int) -> None:
    metadata = client.get(f"/v2/models/{name}").json()
    body = oip_body(rows_of(zoo, name, rows))
    if len(body["inputs"]) == 1 and metadata["inputs"]:
        body["inputs"][0]["name"] = metadata["inputs"][0]["name"]
    response = client.post(f"/v2/models/{name}/infer", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["model_name"], answer["id"]) == (name, "r-1")
    assert response.headers["x-rayfleet-model-version"] == answer["model_version"] == metadata["versions"][0]
    outputs = [np.array(out["data"], object).reshape(rows, -1) for out in answer["outputs"]]
    same(np.concatenate(outputs, axis=1), expected(zoo, name, rows))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", SERVED)
def test_mlflow_invocations(zoo: Zoo, client: httpx.Client, name: str, rows: int) -> None:
    response = client.post(f"/{name}/invocations", json=invocations_body(rows_of(zoo, name, rows)))
    assert response.status_code == 200, response.text
    same(_values(response.json()["predictions"]), expected(zoo, name, rows))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", [name for name in SERVED if name != "pytorch-pt2"])
def test_predict(zoo: Zoo, client: httpx.Client, name: str, rows: int) -> None:
    response = client.post(f"/{name}/predict", json=predict_body(rows_of(zoo, name, rows)))
    assert response.status_code == 200, response.text
    assert response.json()["model"] == name
    same(_values(response.json()["predictions"]), expected(zoo, name, rows))


def test_predict_gives_labels_with_the_confidence_of_the_scores(zoo: Zoo, client: httpx.Client) -> None:
    scores = expected(zoo, "pytorch-pt2", 3)
    confidences = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    response = client.post("/pytorch-pt2/predict", json=predict_body(rows_of(zoo, "pytorch-pt2", 3)))
    assert response.status_code == 200, response.text
    for row, prediction in zip(confidences, response.json()["predictions"], strict=True):
        assert prediction["label"] == ["cat", "dog", "owl"][row.argmax()]
        assert prediction["confidence"] == pytest.approx(row.max(), rel=1e-5)
        assert [each["confidence"] for each in prediction["top"]] == pytest.approx(sorted(row)[::-1][:2], rel=1e-5)


def test_params_reach_the_model(client: httpx.Client) -> None:
    body = {"inputs": [[1.0, 2.0, 3.0, 4.0]], "params": {"factor": 5}}
    response = client.post("/pyfunc-params/invocations", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["predictions"] == [[5.0, 10.0, 15.0, 20.0]]


def _values(predictions: Any) -> Any:
    """Predictions of any JSON shape as one array: records by row, dicts of lists by their only key."""
    if isinstance(predictions, dict):
        (predictions,) = predictions.values()
    if predictions and isinstance(predictions[0], dict):
        rows = [list(record.values()) for record in predictions]
        predictions = [row[0] for row in rows] if len(rows[0]) == 1 else rows
    return np.array(predictions, dtype=object) if predictions and isinstance(predictions[0], str) else predictions
