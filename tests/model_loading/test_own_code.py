"""A model that brings code of its own leaves its entry in the cache as it was downloaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow.pyfunc
import pytest

from rayfleet_serving.digest import tree_digest

MODEL = """
import mlflow.pyfunc
from mlflow.models import set_model

from own_rules import FACTOR


class Own(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        import subprocess
        import sys

        import own_late

        code = subprocess.run([sys.executable, "-c", "import own_process"], cwd=own_late.FOLDER).returncode
        return model_input * FACTOR + own_late.OFFSET + code


set_model(Own())
"""

MODULES = {
    "own_rules.py": "FACTOR = 3\n",
    "own_late.py": "import pathlib\n\nOFFSET = 1\nFOLDER = pathlib.Path(__file__).parent\n",
    "own_process.py": "",
}

SERVE = """
import json
import sys
from pathlib import Path

import numpy as np

from rayfleet_serving.config import ModelIdentity
from rayfleet_serving.model.cache import ModelCache
from rayfleet_serving.model.flavors import load

uri, digest, root = sys.argv[1:]
identity = ModelIdentity(version="1", model_id=digest.replace(":", "-"), artifact_uri=uri, digest=digest)
path = ModelCache(Path(root)).fetch(identity, None)
model = load(path, allow_code_execution=True, gpu_memory_bytes=None)
(answer,) = model.predict({"input": np.array([2.0])}, "tensor", {}).outputs.values()
print(json.dumps([str(path), answer.tolist()]))
"""


def test_a_model_from_code_is_loaded_again_without_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes that may write bytecode, as Python does by default."""
    written = tmp_path / "written"
    written.mkdir()
    for name, text in {"own_model.py": MODEL, **MODULES}.items():
        (written / name).write_text(text)
    monkeypatch.syspath_prepend(written)  # MLflow runs the model to save it
    source = tmp_path / "source"
    mlflow.pyfunc.save_model(
        source,
        python_model=str(written / "own_model.py"),
        code_paths=[str(written / name) for name in MODULES],
        pip_requirements=[],
    )
    digest = tree_digest(source)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", SERVE, str(source), digest, str(tmp_path / "cache")]
    for _ in range(2):
        run = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        path, answer = json.loads(run.stdout.splitlines()[-1])
        assert answer == [7.0]
        assert tree_digest(Path(path)) == digest
        shutil.rmtree(source, ignore_errors=True)
