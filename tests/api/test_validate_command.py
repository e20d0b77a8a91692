"""`rayfleet validate`, as a person calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rayfleet_operator.cli.main import main

GOOD = """\
apiVersion: rayfleet.io/v1alpha1
kind: ModelDeployment
metadata: {name: resnet}
spec: {model: {uri: models:/ResNet50@champion}}
---
apiVersion: rayfleet.io/v1alpha1
kind: ModelFleet
metadata: {name: vision}
"""


def validate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["validate", *map(str, arguments)])


def test_says_what_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(GOOD)
    result = validate(file)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"{file}:6: ModelFleet/vision is valid",
        f"{file}:1: ModelDeployment/resnet is valid",
        "2 valid",
    ]


def test_prints_every_problem_and_fails(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(
        GOOD.replace("resnet", "other").replace("vision", "Text").replace("models:/", "m:")
    )
    result = validate(tmp_path)
    assert result.exit_code == 1
    first, second, *rest = result.output.splitlines()
    assert first.startswith(f"{tmp_path}/b.yaml:4: ModelDeployment/other spec.model.uri: 'm:ResNet50@champion' is not")
    assert second.startswith(f"{tmp_path}/b.yaml:8: ModelFleet/Text metadata.name: 'Text' is not")
    assert rest[-1] == "2 problems, 2 valid"


def test_notes_go_to_standard_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{GOOD}---\napiVersion: v1\nkind: Secret\n")
    result = validate(tmp_path)
    assert result.exit_code == 0
    assert result.stderr == f"{tmp_path}/a.yaml:10: skipped: 'Secret' is not of rayfleet.io\n"


def test_a_folder_without_any_of_ours_fails(tmp_path: Path) -> None:
    result = validate(tmp_path)
    assert (result.exit_code, result.output) == (1, f"no ModelDeployment or ModelFleet in {tmp_path}\n")


@pytest.mark.parametrize("arguments", [(), ("--strict", "a.yaml")])
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    assert validate(*arguments).exit_code == 2


def test_a_missing_file_is_1() -> None:
    result = validate("nowhere.yaml")
    assert (result.exit_code, "nowhere.yaml: no such file" in result.output) == (1, True)
