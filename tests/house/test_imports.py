"""The import contracts hold, and what both sides import is as light as it says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVING = ROOT / "serving" / "rayfleet_serving"


def test_import_contracts_hold() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "allowed"), [("config.py", {"pydantic"}), ("signature.py", {"pydantic"}), ("digest.py", set())]
)
def test_module_imports_nothing_else(module: str, allowed: set[str]) -> None:
    tree = ast.parse((SERVING / module).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) == allowed


WITHOUT_AN_INSTALLATION = """
import sys
sys.modules.update(dict.fromkeys(("pydantic", "orjson", "mlflow", "ray", "httpx", "obstore")))
import bench.gpu, bench.gpu_worker
from rayfleet_serving.model.flavors import onnx, pytorch
"""


def test_the_gpu_benchmark_runs_where_nothing_can_be_installed() -> None:
    """Machines with a GPU to try it on have PyTorch, and often no way to get anything else."""
    command = [sys.executable, "-c", WITHOUT_AN_INSTALLATION]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


WATCHED = """
import sys
from pathlib import Path
from bench import gpu
(row,) = gpu.watched("cpu", Path(sys.argv[1]))
print(row)
sys.exit("ended itself" not in row.measured)
"""


def test_the_gpu_benchmark_ends_what_takes_more_than_its_cap(tmp_path: Path) -> None:
    """Its worker stands in for a replica, so nothing else sees it break when a replica changes."""
    command = [sys.executable, "-c", WATCHED, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
