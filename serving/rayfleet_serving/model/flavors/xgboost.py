"""XGBoost: a Booster or a model of its scikit-learn API, read from XGBoost's own format, which carries no code.

XGBoost has no limit on the GPU memory it allocates, so there is no cap for a model whose device is a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import xgboost

from rayfleet_serving.model.errors import LoadError
from rayfleet_serving.model.flavors import containers
from rayfleet_serving.model.flavors.base import Arrays
from rayfleet_serving.model.mlmodel import MLmodel
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.signature import InputForm


class XGBoostModel:
    """A model and its `predict`, with feature names checked."""

    flavor = "xgboost"
    writes_inputs = False

    def __init__(self, booster: xgboost.Booster | xgboost.XGBModel, model: MLmodel) -> None:
        self.signature = model.signature
        self.static_batch = model.static_batch
        self._model = model
        self._booster = booster
        self._accepted = set(inspect.signature(booster.predict).parameters)

    def predict(self, inputs: Arrays, form: InputForm, params: dict[str, Any]) -> InferenceResult:
        """As `LoadedModel.predict`; parameters `predict` does not know are ignored, as in MLflow."""
        data = containers.native(inputs, form, self._model)
        if isinstance(self._booster, xgboost.Booster):
            data = xgboost.DMatrix(data)
        known = {k: v for k, v in containers.params(params, self.signature).items() if k in self._accepted}
        answer = self._booster.predict(data, **({"validate_features": True} | known))
        return containers.result(answer, self.signature)


def load(model: MLmodel) -> XGBoostModel:
    """Loads the model.

    Raises:
        LoadError: UnsupportedFlavor where MLmodel names a class that is not one of XGBoost's models.
        Exception: what XGBoost raises for a file it cannot read.
    """
    conf = model.flavors["xgboost"]
    loaded = _model_class(model, conf.get("model_class", "xgboost.core.Booster"))()
    loaded.load_model(str(model.inside(conf.get("data"))))
    return XGBoostModel(loaded, model)


def _model_class(model: MLmodel, qualified: str) -> Callable[[], xgboost.Booster | xgboost.XGBModel]:
    """The class MLmodel names, looked up among XGBoost's public ones and never imported by name."""
    cls = getattr(xgboost, qualified.rpartition(".")[2], None)
    if isinstance(cls, type) and issubclass(cls, xgboost.Booster | xgboost.XGBModel):
        return cls
    raise LoadError("UnsupportedFlavor", f"{model.root}/MLmodel: model_class {qualified!r} is none of XGBoost's models")
