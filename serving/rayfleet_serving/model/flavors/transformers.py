"""Hugging Face pipelines, through MLflow's own wrapper, which knows what each task takes and gives.

Nothing is fetched from the hub: a model that is only a reference to one there has no bytes to verify.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rayfleet_serving.model.errors import LoadError
from rayfleet_serving.model.flavors import code_execution
from rayfleet_serving.model.flavors.device import torch_device
from rayfleet_serving.model.flavors.pyfunc import PyfuncModel
from rayfleet_serving.model.mlmodel import MLmodel

DATA_SUFFIXES = (
    ".safetensors",
    ".json",
    ".txt",
    ".jinja",
    ".model",
    ".jsonl",
    ".yaml",
    ".md",
    ".spm",
    ".bpe",
    ".vocab",
)
"""Files a tokenizer, processor or model is read from without running anything."""

MODEL_SUFFIX = ".safetensors"


def load(model: MLmodel, *, allow_code_execution: bool, gpu_memory_bytes: int | None) -> PyfuncModel:
    """Loads the pipeline.

    Raises:
        LoadError: UnsupportedFlavor where the weights are not in the artifact; CodeExecutionNotAllowed.
    """
    conf = model.flavors["transformers"]
    for key in ("source_model_revision", "local_base_model_path"):
        if conf.get(key):
            raise LoadError(
                "UnsupportedFlavor",
                f"{model.root} only refers to weights elsewhere ({key}: {conf[key]}); log it with save_pretrained=True",
            )
    if not allow_code_execution:
        _refuse_code(model, conf)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub's client is first imported
    torch_device(gpu_memory_bytes)
    import mlflow.pyfunc

    with code_execution.mlflow_switches(allow=allow_code_execution):
        loaded = mlflow.pyfunc.load_model(str(model.root))
    return PyfuncModel(loaded, model, flavor="transformers")


def _refuse_code(model: MLmodel, conf: Any) -> None:
    """Custom code, pickled weights, and classes transformers does not have, for which MLflow trusts remote code."""
    import transformers

    if conf.get("peft_adaptor"):
        raise code_execution.not_allowed(model, "its PEFT adapter names modules to import")
    roots = [model.inside(conf.get("model_binary", "pipeline"))]
    if (model.root / "components").exists():
        roots.append(model.inside("components"))
    for file in sorted(file for root in roots for file in ([root] if root.is_file() else root.rglob("*"))):
        if file.is_file():
            _refuse_file(model, file)
    kinds = [("pipeline_model_type", conf.get("pipeline_model_type"))]
    kinds += [(f"{name}_type", conf.get(f"{name}_type")) for name in conf.get("components") or []]
    kinds += [("processor_type", conf["processor_type"])] if "processor_type" in conf else []
    for key, kind in kinds:
        if not isinstance(kind, str) or not hasattr(getattr(transformers, kind, None), "from_pretrained"):
            raise code_execution.not_allowed(
                model, f"{key} {kind!r} is no class of transformers {transformers.__version__}"
            )


def _refuse_file(model: MLmodel, file: Path) -> None:
    if file.suffix not in DATA_SUFFIXES:
        raise code_execution.not_allowed(model, f"{file.name} is neither safetensors nor plain data")
    if file.suffix == ".json" and _mentions(json.loads(file.read_text()), ("auto_map", "custom_pipelines")):
        raise code_execution.not_allowed(model, f"{file.name} names custom classes (auto_map)")


def _mentions(document: Any, keys: tuple[str, ...]) -> bool:
    """Whether any object in a JSON document has one of the keys."""
    if isinstance(document, dict):
        return any(key in document for key in keys) or any(_mentions(value, keys) for value in document.values())
    return isinstance(document, list) and any(_mentions(value, keys) for value in document)
