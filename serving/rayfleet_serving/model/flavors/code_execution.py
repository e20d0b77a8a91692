"""Which models run code of their own when loaded, told from the files alone, before any library opens them.

Two walls: `refuse_declared_code` reads MLmodel and refuses what says of itself that it runs code; each flavour then
loads only from formats that cannot carry code, whatever MLmodel says. `mlflow_switches` are MLflow's own refusals,
set while a model is loaded through MLflow.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from rayfleet_serving.model.environment import environment
from rayfleet_serving.model.errors import LoadError
from rayfleet_serving.model.mlmodel import MLmodel


def not_allowed(model: MLmodel, why: str) -> LoadError:
    """The refusal, with what would be right."""
    return LoadError(
        "CodeExecutionNotAllowed",
        f"loading {model.root} can run code from the artifact: {why}. If you trust whoever wrote it, set "
        "spec.model.allowCodeExecution: true; otherwise log the model in a format without code "
        "(pytorch: pt2, sklearn: skops, transformers: safetensors, onnx, xgboost)",
    )


def refuse_declared_code(model: MLmodel) -> None:
    """Refuses a model whose MLmodel declares code to run.

    Raises:
        LoadError: CodeExecutionNotAllowed.
    """
    for flavor, conf in model.flavors.items():
        if conf.get("code"):
            raise not_allowed(model, f"flavor {flavor} brings code_paths in {conf['code']!r}")
        if conf.get("model_code_path"):
            raise not_allowed(model, f"flavor {flavor} is a model from code, {conf['model_code_path']!r}")
        if conf.get("serialization_format") in ("pickle", "cloudpickle"):
            raise not_allowed(model, f"flavor {flavor} is serialized with {conf['serialization_format']}")
    if model.flavors.get("python_function", {}).get("python_model"):
        raise not_allowed(model, "it is a pickled PythonModel")


def mlflow_switches(*, allow: bool) -> AbstractContextManager[None]:
    """MLflow's own switches for code execution. MLflow 3.17 knows only the first; 3.18 and later honour both."""
    value = str(allow).lower()
    return environment({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": value, "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": value})
