"""Models that are good neighbours, and one that is not: told to by a file, so that it was healthy when it started.

models = Neighbours(folder)          # saved, and described to `rayfleet up` in folder/"deployments"
models.turn("hoards")                # from now on, until it says "behaves"
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow.pyfunc
import numpy as np
import yaml
from mlflow.models import infer_signature

ROWS = np.ones((2, 4), np.float32)
BODY = {"instances": [[1.0, 2.0, 3.0, 4.0]]}
ANSWER = 10.0
GOOD = ("left", "right")
HOSTILE = "hostile"
WAYS = ("hoards", "spins", "crashes")
MEMORY = "700Mi"
TIMEOUT = "1s"


class Neighbour(mlflow.pyfunc.PythonModel):
    """Sums its row. What its file says decides whether it does anything else."""

    def __init__(self, mood: str | None) -> None:
        self.mood = mood
        self.kept: list[Any] = []

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        import os
        import time
        from pathlib import Path

        # Rows of zeros are what it is warmed up with.
        mood = Path(self.mood).read_text() if self.mood and model_input.any() else "behaves"
        way, _, each = mood.partition(" ")
        seconds = float(each or 0) * len(model_input)
        try:
            while way == "hoards":
                self.kept.append(np.ones(2**20))
        except MemoryError:
            # A batch that fails comes again in halves, down to single rows: each row is worked for once.
            seconds *= len(model_input) == 1
            raise
        finally:
            until = time.thread_time() + seconds
            while time.thread_time() < until:
                pass
        while way == "spins":
            pass
        if way == "crashes":
            os._exit(1)
        self.kept.clear()
        # About a millisecond of work, so that a neighbour on the same cores would be felt.
        weights = np.ones((4, 64), np.float32)
        for _ in range(20):
            np.tanh(model_input @ weights).sum()
        return model_input.sum(axis=1)


class Heavy(mlflow.pyfunc.PythonModel):
    """Takes a GiB when it is loaded."""

    def load_context(self, context: Any) -> None:
        self.weights = np.ones(2**27)

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        return model_input


# The class goes into the models as it is: nobody can import this file where they are loaded.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Neighbours:
    """Three models in a folder, and the file that says how one of them is."""

    def __init__(self, folder: Path) -> None:
        self.deployments = folder / "deployments"
        self.deployments.mkdir()
        self._mood = folder / "mood"
        self.turn("behaves")
        for name in (*GOOD, HOSTILE):
            mlflow.pyfunc.save_model(
                folder / name,
                python_model=Neighbour(str(self._mood) if name == HOSTILE else None),
                signature=infer_signature(ROWS, ROWS.sum(axis=1)),
                pip_requirements=[],
            )
            self._describe(name, folder / name)

    def add_heavy(self) -> Path:
        """One more that does not fit into the memory that it is given; the file that asks for it."""
        path = self._mood.with_name("heavy")
        signature = infer_signature(ROWS, ROWS)
        mlflow.pyfunc.save_model(path, python_model=Heavy(), signature=signature, pip_requirements=[])
        return self._describe("heavy", path)

    def turn(self, mood: str) -> None:
        """Have the hostile one be so from its next call on: one of `WAYS`, or "behaves". With a number, as in
        "behaves 0.02", it takes so many seconds of a CPU for each row besides."""
        new = self._mood.with_suffix(".new")
        new.write_text(mood)
        new.replace(self._mood)

    def _describe(self, name: str, path: Path) -> Path:
        spec = {
            "model": {"uri": str(path), "allowCodeExecution": True},
            "resources": {"cpu": "0.3", "memory": MEMORY},
            "limits": {"requestTimeout": TIMEOUT if name == HOSTILE else "30s"},
        }
        head = {"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name}}
        file = self.deployments / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**head, "spec": spec}))
        return file
