"""Picks the most native way to run a model directory, and refuses what may not run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from rayfleet_serving.model import mlmodel
from rayfleet_serving.model.errors import LoadError, describe, out_of_memory
from rayfleet_serving.model.flavors import code_execution
from rayfleet_serving.model.flavors.base import LoadedModel
from rayfleet_serving.model.share import Share

NATIVE = ("pytorch", "onnx", "sklearn", "xgboost", "transformers")
"""Flavours run by their own library, in order of preference; everything else runs as a pyfunc."""

EXTRAS = {
    "torch": "pytorch",
    "onnxruntime": "onnx",
    "sklearn": "sklearn",
    "skops": "sklearn",
    "xgboost": "xgboost",
    "transformers": "transformers",
}
"""The extra of this distribution that brings a package."""


def load(
    path: Path, *, allow_code_execution: bool, gpu_memory_bytes: int | None, share: Share | None = None
) -> LoadedModel:
    """Loads the model in `path` into this process, onto the visible GPU where its library can use one.

    Args:
        path: a model directory, with an MLmodel file.
        allow_code_execution: whether loading may run code from the artifact: pickle, code_paths, models from code.
        gpu_memory_bytes: what torch or onnxruntime may allocate on a GPU; None for no limit.
        share: what the whole process may take, enforced from here on.

    Raises:
        LoadError: MissingPackage, CodeExecutionNotAllowed, CorruptModel, UnsupportedFlavor or OutOfMemory.
    """
    _write_no_bytecode()
    model = mlmodel.read(path)
    if not allow_code_execution:
        code_execution.refuse_declared_code(model)
    flavor = next((name for name in NATIVE if name in model.flavors), "pyfunc")
    try:
        read = _reader(flavor, model, allow_code_execution, gpu_memory_bytes)
        if share is None:
            return read()
        share.hold()
        with share.enforced():
            loaded = read()
        share.loaded()
        return loaded
    except LoadError:
        raise
    except ModuleNotFoundError as e:
        raise _missing(e, path) from e
    except Exception as e:
        if out_of_memory(e):
            has = f"its {share.text}" if share is not None else "the memory here"
            raise LoadError("OutOfMemory", f"it needs more than {has} to be loaded: {describe(e)[:1000]}") from e
        raise LoadError("CorruptModel", f"{path} cannot be loaded as {flavor}: {type(e).__name__}: {e}") from e


def _write_no_bytecode() -> None:
    """Keeps Python from adding files to a model's folder, which is verified each time it is used.

    The bytecode of a module of the model's own would stand beside it. For good, and for processes the model starts: it
    may import such a module as late as in a request.
    """
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def _reader(
    flavor: str, model: mlmodel.MLmodel, allow_code_execution: bool, gpu_memory_bytes: int | None
) -> Callable[[], LoadedModel]:
    """What reads the model, with its library imported: that takes memory which is no model's."""
    # Each module imports its library: only the one needed is loaded.
    if flavor in ("transformers", "pyfunc"):
        import_module("mlflow.pyfunc")
    elif allow_code_execution and flavor in ("pytorch", "sklearn"):
        import_module(f"mlflow.{flavor}")
    if flavor == "pytorch":
        from rayfleet_serving.model.flavors import pytorch

        return partial(
            pytorch.load, model, allow_code_execution=allow_code_execution, gpu_memory_bytes=gpu_memory_bytes
        )
    if flavor == "onnx":
        from rayfleet_serving.model.flavors import onnx

        return partial(onnx.load, model, gpu_memory_bytes=gpu_memory_bytes)
    if flavor == "sklearn":
        from rayfleet_serving.model.flavors import sklearn

        return partial(sklearn.load, model, allow_code_execution=allow_code_execution)
    if flavor == "xgboost":
        from rayfleet_serving.model.flavors import xgboost

        return partial(xgboost.load, model)
    if flavor == "transformers":
        from rayfleet_serving.model.flavors import transformers

        for name in ("torch", "transformers"):
            import_module(name)
        return partial(
            transformers.load, model, allow_code_execution=allow_code_execution, gpu_memory_bytes=gpu_memory_bytes
        )
    from rayfleet_serving.model.flavors import pyfunc

    return partial(pyfunc.load, model, allow_code_execution=allow_code_execution, gpu_memory_bytes=gpu_memory_bytes)


def _missing(error: ModuleNotFoundError, path: Path) -> LoadError:
    package = (error.name or "").partition(".")[0]
    if package in EXTRAS:
        return LoadError(
            "MissingPackage",
            f"{path} needs {package}, which is not installed: pip install 'rayfleet[{EXTRAS[package]}]'",
        )
    return LoadError(
        "MissingPackage",
        f"{path} needs {package or error}, which is not installed: add it to the image, or log the model with its code",
    )
