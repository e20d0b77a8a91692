"""Small real models of every flavour, saved by MLflow, and the data they answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import mlflow.onnx
import mlflow.pyfunc
import mlflow.pytorch
import mlflow.sklearn
import mlflow.transformers
import mlflow.xgboost
import numpy as np
import pandas as pd
import torch
import xgboost
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import Schema, TensorSpec
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

RANDOM = np.random.default_rng(7)
FEATURES = RANDOM.normal(size=(64, 4)).astype(np.float32)
CLASSES = (FEATURES[:, 0] + FEATURES[:, 1] > 0).astype(np.int64) + (FEATURES[:, 2] > 1)
TABLE = pd.DataFrame(FEATURES.astype(np.float64), columns=["a", "b", "c", "d"])
MIXED = pd.DataFrame({"age": RANDOM.integers(1, 90, 64), "city": RANDOM.choice(["Oslo", "Rome"], 64)})
NO_PIP: dict[str, Any] = {"pip_requirements": []}


class Convolution(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
        )
        self.head = torch.nn.Linear(16, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(image))  # type: ignore[no-any-return]


class TwoTowers(torch.nn.Module):
    """Two inputs, a tuple of outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.user = torch.nn.Linear(4, 2)
        self.item = torch.nn.Linear(3, 2)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        score = self.user(user) - self.item(item)
        return score, score.argmax(1)


class Doubler(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        return model_input * (params or {}).get("factor", 2)


class Sentences(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        return [f"{city} at {age}" for city, age in zip(model_input["city"], model_input["age"], strict=True)]


class Dicts(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        return [{"age": int(age), "tags": ["x"] * (int(age) % 3)} for age in model_input["age"]]


class Column(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        return model_input["age"] + 1


class UnnamedColumn(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        return pd.Series(model_input["age"].to_numpy())


class Hinted(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return [text.upper() for text in model_input]


class Shown(mlflow.pyfunc.PythonModel):
    """Answers with what it was given, and in which dtype."""

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        arrays = model_input.values() if isinstance(model_input, dict) else [model_input]
        return [[f"{part.dtype.kind} {part.tolist()}" for part in row] for row in zip(*arrays, strict=True)]


IMAGES = RANDOM.normal(size=(32, 1, 9, 9)).astype(np.float32)


def pytorch_pt2(path: Path) -> None:
    mlflow.pytorch.save_model(Convolution().eval(), path, input_example=IMAGES[:4], **NO_PIP)


def pytorch_pt2_one_row(path: Path) -> None:
    mlflow.pytorch.save_model(Convolution().eval(), path, input_example=IMAGES[:1], **NO_PIP)


def pytorch_pickle(path: Path) -> None:
    signature = infer_signature(IMAGES, np.zeros((32, 3), np.float32))
    mlflow.pytorch.save_model(Convolution(), path, signature=signature, serialization_format="pickle", **NO_PIP)


def pytorch_frame(path: Path) -> None:
    model = torch.nn.Linear(4, 2)
    signature = infer_signature(TABLE, pd.DataFrame(np.zeros((1, 2), np.float32)))
    mlflow.pytorch.save_model(model, path, signature=signature, serialization_format="pickle", **NO_PIP)


def onnx_tensor(path: Path) -> None:
    mlflow.onnx.save_model(onnx_linear(batch=None), path, input_example=FEATURES, **NO_PIP)


def onnx_unnamed_output(path: Path) -> None:
    signature = infer_signature(FEATURES, FEATURES[:, 0])
    mlflow.onnx.save_model(onnx_linear(batch=None), path, signature=signature, **NO_PIP)


def onnx_one_row(path: Path) -> None:
    mlflow.onnx.save_model(onnx_linear(batch=1), path, **NO_PIP)


def onnx_classifier_frame(path: Path) -> None:
    from skl2onnx import to_onnx

    model = LogisticRegression().fit(TABLE.to_numpy(), CLASSES)
    graph = to_onnx(model, FEATURES[:1], options={"zipmap": False}, target_opset=17)
    graph.graph.output.pop()  # only the label: one value for each row
    mlflow.onnx.save_model(graph, path, signature=infer_signature(TABLE), **NO_PIP)


def sklearn_frame(path: Path) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(TABLE, CLASSES)
    mlflow.sklearn.save_model(model, path, input_example=TABLE[:2], **NO_PIP)


def sklearn_probabilities(path: Path) -> None:
    model = LogisticRegression().fit(FEATURES, CLASSES)
    mlflow.sklearn.save_model(
        model, path, signature=infer_signature(FEATURES), pyfunc_predict_fn="predict_proba", **NO_PIP
    )


def sklearn_forest(path: Path) -> None:
    model = RandomForestClassifier(5, random_state=0).fit(FEATURES, CLASSES)
    trusted = ["sklearn.tree._tree.Tree"]
    signature = infer_signature(FEATURES)
    mlflow.sklearn.save_model(model, path, signature=signature, skops_trusted_types=trusted, **NO_PIP)


def sklearn_pickle_mixed(path: Path) -> None:
    encode = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
    model = make_pipeline(encode, LinearRegression()).fit(MIXED, MIXED["age"] * 2.0)
    mlflow.sklearn.save_model(model, path, input_example=MIXED[:2], serialization_format="cloudpickle", **NO_PIP)


def sklearn_no_signature(path: Path) -> None:
    mlflow.sklearn.save_model(LinearRegression().fit(FEATURES, CLASSES), path, **NO_PIP)


def xgboost_booster(path: Path) -> None:
    model = xgboost.train({"max_depth": 2}, xgboost.DMatrix(TABLE, label=CLASSES), 5)
    mlflow.xgboost.save_model(model, path, input_example=TABLE[:2], **NO_PIP)


def xgboost_classifier(path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=5).fit(FEATURES, CLASSES)
    mlflow.xgboost.save_model(model, path, signature=infer_signature(FEATURES), **NO_PIP)


def transformers_text(path: Path) -> None:
    mlflow.transformers.save_model(tiny_classifier(), path, input_example=["a good film", "bad"], **NO_PIP)


def pyfunc_array(path: Path) -> None:
    signature = infer_signature(FEATURES, FEATURES, params={"factor": 3})
    mlflow.pyfunc.save_model(path, python_model=Doubler(), signature=signature, **NO_PIP)


def pyfunc_frame(path: Path) -> None:
    mlflow.pyfunc.save_model(path, python_model=Doubler(), signature=infer_signature(TABLE, TABLE), **NO_PIP)


def pyfunc_sentences(path: Path) -> None:
    mlflow.pyfunc.save_model(path, python_model=Sentences(), signature=infer_signature(MIXED), **NO_PIP)


def pyfunc_dicts(path: Path) -> None:
    mlflow.pyfunc.save_model(path, python_model=Dicts(), signature=infer_signature(MIXED), **NO_PIP)


def pyfunc_unnamed_series(path: Path) -> None:
    signature = infer_signature(MIXED, pd.Series([1, 2]))
    mlflow.pyfunc.save_model(path, python_model=UnnamedColumn(), signature=signature, **NO_PIP)


def pyfunc_series(path: Path) -> None:
    mlflow.pyfunc.save_model(path, python_model=Column(), signature=infer_signature(MIXED), **NO_PIP)


WORDS = np.array(["a", "bc", "é", ""])
PAIRS = np.array([["a", "bc"], ["é", ""], ["d", "e"], ["", "f"]])
RAW = np.array([b"a", b"bc", b"\xc3\xa9", b""])
DAYS = np.array(["2024-02-29", "1969-07-20", "2000-01-01", "2024-01-31"], dtype="datetime64[D]")
SECONDS = DAYS.astype("datetime64[s]") + np.timedelta64(45_000, "s")


def pyfunc_text_tensor(path: Path) -> None:
    mlflow.pyfunc.save_model(path, python_model=Shown(), signature=infer_signature(WORDS), **NO_PIP)


def pyfunc_text_pairs(path: Path) -> None:
    mlflow.pyfunc.save_model(path, python_model=Shown(), signature=infer_signature(PAIRS), **NO_PIP)


def pyfunc_bytes_tensor(path: Path) -> None:
    mlflow.pyfunc.save_model(path, python_model=Shown(), signature=infer_signature(RAW), **NO_PIP)


def pyfunc_days_tensor(path: Path) -> None:
    mlflow.pyfunc.save_model(path, python_model=Shown(), signature=infer_signature(DAYS), **NO_PIP)


def pyfunc_seconds_tensor(path: Path) -> None:
    mlflow.pyfunc.save_model(path, python_model=Shown(), signature=infer_signature(SECONDS), **NO_PIP)


NAMED = {"words": PAIRS, "raw": RAW, "when": DAYS, "number": np.arange(4.0)}


def pyfunc_named_tensors(path: Path) -> None:
    mlflow.pyfunc.save_model(path, python_model=Shown(), signature=infer_signature(NAMED), **NO_PIP)


def pyfunc_hinted(path: Path) -> None:
    mlflow.pyfunc.save_model(path, python_model=Hinted(), **NO_PIP)


def onnx_linear(batch: int | None) -> Any:
    """A graph whose input has the given batch dimension; None leaves it open."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    model = LinearRegression().fit(FEATURES, CLASSES)
    return to_onnx(model, initial_types=[("x", FloatTensorType([batch, 4]))], target_opset=17)


def onnx_scaled(*shapes: tuple[int | str, ...]) -> Callable[[Path], None]:
    """Saves a graph that multiplies its inputs `x` and `scale`, of these shapes."""

    def save(path: Path) -> None:
        from onnx import parser

        x, scale = (",".join(map(str, shape)) for shape in shapes)
        graph = f"g (float[{x}] x, float[{scale}] scale) => (float[] y) {{ y = Mul(x, scale) }}"
        model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {graph}')
        mlflow.onnx.save_model(model, path, **NO_PIP)

    return save


def tiny_classifier() -> Any:
    """A text classifier of random weights over eight words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast, pipeline

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(3)
    config = DistilBertConfig(
        vocab_size=8, dim=8, n_heads=2, n_layers=1, hidden_dim=16, max_position_embeddings=16, initializer_range=1.0
    )
    return pipeline("text-classification", model=DistilBertForSequenceClassification(config), tokenizer=fast)


TEXTS = np.array((["a good film", "bad", "a film", "good bad good"] * 8), dtype=object)


def two_towers(path: Path) -> None:
    inputs = [TensorSpec(np.dtype("float32"), (-1, 4), "user"), TensorSpec(np.dtype("float32"), (-1, 3), "item")]
    outputs = [TensorSpec(np.dtype("float32"), (-1, 2), "score"), TensorSpec(np.dtype("int64"), (-1,), "best")]
    mlflow.pytorch.save_model(
        TwoTowers().eval(),
        path,
        signature=ModelSignature(Schema(inputs), Schema(outputs)),
        input_example=(FEATURES[:4], FEATURES[:4, :3].copy()),
        **NO_PIP,
    )


def two_towers_pickle(path: Path) -> None:
    mlflow.pytorch.save_model(TwoTowers(), path, serialization_format="pickle", **NO_PIP)
