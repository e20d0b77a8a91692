"""What is said to a running `up`, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.local.commands import Commands, Said
from rayfleet_operator.plan.rollout import ABORT_ANNOTATION, PROMOTE_ANNOTATION, RETRY_ANNOTATION


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path / "127.0.0.1_8000.commands")


def model(name: str = "digits", **annotations: str) -> ModelDeployment:
    rollout = {"strategy": "Canary", "steps": [{"weight": 10}]}
    return ModelDeployment.model_validate(
        {
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"model": {"uri": f"models:/{name}/1"}, "rollout": rollout},
        }
    )


def test_nothing_said_changes_nothing(commands: Commands) -> None:
    models = [model(), model("faces")]
    assert commands.applied(models) == models


def test_what_is_said_goes_before_the_file_and_concerns_one_model(commands: Commands) -> None:
    commands.say("digits", Said(abort="digits-1", paused=True))
    first, second = commands.applied([model(**{PROMOTE_ANNOTATION: "x", "team": "vision"}), model("faces")])
    assert first.metadata.annotations == {ABORT_ANNOTATION: "digits-1", "team": "vision"}
    assert first.spec.rollout.paused
    assert second == model("faces")
    commands.say("digits", Said(retry="now"))
    (first,) = commands.applied([model()])
    assert (first.metadata.annotations, first.spec.rollout.paused) == ({RETRY_ANNOTATION: "now"}, False)


def test_another_process_hears_of_it(commands: Commands, tmp_path: Path) -> None:
    other = Commands(tmp_path / "127.0.0.1_8000.commands")
    assert other.said == {}
    commands.say("digits", Said(promote="digits-1/0"))
    assert other.said == {"digits": Said(promote="digits-1/0")}
    commands.say("faces", Said(paused=False))
    assert other.said.keys() == {"digits", "faces"}
    assert [file.name for file in tmp_path.iterdir()] == ["127.0.0.1_8000.commands"], "nothing is left beside it"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"models": {"digits": {"promote": 3}}}', "\x00", "x" * 10_000])
def test_a_file_that_cannot_be_read_changes_nothing(commands: Commands, tmp_path: Path, text: Any) -> None:
    commands.say("digits", Said(paused=True))
    assert commands.said["digits"].paused
    (tmp_path / "127.0.0.1_8000.commands").write_text(text)
    assert commands.said["digits"].paused


def test_a_later_up_hears_of_a_pause_and_of_nothing_else(commands: Commands, tmp_path: Path) -> None:
    commands.say("digits", Said(rollback="m-2/t/m-1", paused=True))
    commands.say("faces", Said(abort="faces-1/t", paused=False))
    later = Commands(tmp_path / "127.0.0.1_8000.commands")
    later.begin()
    assert later.said == {"digits": Said(paused=True)}
    later.say("digits", Said(paused=False))
    later.begin()
    assert list(tmp_path.iterdir()) == []
    later.begin()
