"""One file for each way to run a model; `load` picks."""

from rayfleet_serving.model.flavors.base import LoadedModel, LoadError, OutputError
from rayfleet_serving.model.flavors.loader import load
from rayfleet_serving.model.flavors.warmup import run_example, warmup_inputs

__all__ = ["LoadError", "LoadedModel", "OutputError", "load", "run_example", "warmup_inputs"]
