"""The YAML that we show people is valid, and `rayfleet validate` needs nothing but the base install."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(file for file in (ROOT / "examples").rglob("*.yaml") if "rayfleet.io/" in file.read_text())

WITHOUT_EXTRAS = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ray", "mlflow", "numpy", "pandas", "torch", "sklearn", "orjson", "rich", "obstore"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from rayfleet_operator.cli.main import main
main()
"""


def _validate(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, "validate", str(path)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_example_is_valid_with_the_base_install(file: Path) -> None:
    result = _validate(file)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout


def test_readme_yaml_is_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    (tmp_path / "readme.yaml").write_text("---\n".join(blocks))
    result = _validate(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
