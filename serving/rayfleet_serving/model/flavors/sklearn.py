"""scikit-learn: skops archives (no code) and, where allowed, pickles. Called by `python_function.predict_fn`."""

from __future__ import annotations

from typing import Any

import numpy as np

from rayfleet_serving.model.errors import LoadError
from rayfleet_serving.model.flavors import code_execution, containers
from rayfleet_serving.model.flavors.base import Arrays
from rayfleet_serving.model.mlmodel import MLmodel
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.signature import InputForm


class SklearnModel:
    """An estimator and the method of it that answers."""

    flavor = "sklearn"
    writes_inputs = True

    def __init__(self, estimator: Any, predict_fn: str, model: MLmodel) -> None:
        self.signature = model.signature
        self.static_batch = model.static_batch
        self._model = model
        self._predict = getattr(estimator, predict_fn)

    def predict(self, inputs: Arrays, form: InputForm, params: dict[str, Any]) -> InferenceResult:
        """As `LoadedModel.predict`; parameters are ignored, as in MLflow.

        A multi-output `predict_proba` answers a list with one array for each output: these become named tensors.
        """
        answer = self._predict(containers.native(inputs, form, self._model))
        if isinstance(answer, list) and answer and all(isinstance(part, np.ndarray) for part in answer):
            names = containers.output_names(self.signature, len(answer))
            answer = dict(zip(names, answer, strict=True))
        return containers.result(answer, self.signature)


def load(model: MLmodel, *, allow_code_execution: bool) -> SklearnModel:
    """Loads the estimator.

    Without `allow_code_execution` the file is opened as a skops archive whatever MLmodel calls it, and only types
    skops itself trusts are built: MLmodel's own list of trusted types comes from the artifact and is not taken.

    Raises:
        LoadError: CodeExecutionNotAllowed, CorruptModel or MissingPackage.
    """
    conf = model.flavors["sklearn"]
    path = model.inside(conf.get("pickled_model"))
    if not allow_code_execution:
        estimator = _load_trusted(model, str(path))
    else:
        import mlflow.sklearn

        with code_execution.mlflow_switches(allow=True):
            estimator = mlflow.sklearn.load_model(str(model.root))
    predict_fn = model.flavors.get("python_function", {}).get("predict_fn", "predict")
    if not hasattr(estimator, predict_fn):
        raise LoadError("UnsupportedFlavor", f"{type(estimator).__name__} has no {predict_fn}, which MLmodel asks for")
    return SklearnModel(estimator, predict_fn, model)


def _load_trusted(model: MLmodel, path: str) -> Any:
    import zipfile

    import skops.io  # type: ignore[import-untyped]

    if not zipfile.is_zipfile(path):
        raise code_execution.not_allowed(
            model, "its estimator is not a skops archive, so it would have to be unpickled"
        )
    if untrusted := skops.io.get_untrusted_types(file=path):
        raise code_execution.not_allowed(model, f"its skops archive builds types skops does not trust: {untrusted}")
    return skops.io.load(path, trusted=[])
