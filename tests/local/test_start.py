"""`rayfleet up` that does not come to serve."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from model_files import write_model
from rayfleet_up import RayfleetUp


@pytest.mark.parametrize(
    ("files", "arguments", "code", "said"),
    [
        ({"a.yaml": "kind: ["}, [], 1, ["a.yaml:"]),
        ({"a.yaml": "{}"}, [], 1, ["no ModelDeployment in"]),
        ({}, ["missing.yaml"], 1, ["missing.yaml: no such file"]),
        ({"a.yaml": None}, ["--fleet", "vision"], 1, ["there is no ModelFleet vision"]),
        ({"a.yaml": None}, ["--port", "0"], 2, ["--port"]),
        (
            {"a.yaml": None},
            ["--gpus", "1", "--gpu-memory", "24"],
            2,
            ["24 is less than 1M", "with its unit, like 24Gi"],
        ),
        ({"a.yaml": None}, ["--address", "127.0.0.1:8265"], 2, ["http://127.0.0.1:8265"]),
        ({"a.yaml": None}, ["--address", "http://127.0.0.1:9"], 1, ["http://127.0.0.1:9", "URL of Ray's dashboard"]),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(
    tmp_path: Path, files: dict[str, str | None], arguments: list[str], code: int, said: list[str]
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, text in files.items():
        if text is None:
            write_model(folder, Path(name).stem, "/models/1")
        else:
            (folder / name).write_text(text)
    ended = RayfleetUp([], folder=tmp_path).cli("up", folder, *arguments)
    assert ended.returncode == code, ended.stdout + ended.stderr
    for each in said:
        assert each in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Starting Ray" not in ended.stdout


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        file = write_model(tmp_path, name, "/models/1")
        file.write_text(file.read_text().replace("cpu:", "cpus:").replace("uri:", "url:"))
    ended = RayfleetUp([], folder=tmp_path).cli("up", tmp_path)
    assert ended.returncode == 1
    for each in ("a.yaml", "b.yaml", "spec.resources.cpus", "spec.model.url"):
        assert each in ended.stderr


@pytest.mark.parametrize(("below", "why"), [(".", "File exists"), ("deeper", "Not a directory")])
def test_a_state_folder_that_cannot_be_one_is_named(tmp_path: Path, below: str, why: str) -> None:
    write_model(tmp_path, "a", "/models/1")
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / below
    ended = RayfleetUp([], folder=tmp_path, env={"RAYFLEET_STATE_DIR": str(folder)}).cli("up", tmp_path)
    assert ended.returncode == 1
    assert f"no state can be kept in {folder}: {why}; name a folder" in ended.stderr
    assert "RAYFLEET_STATE_DIR" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ctrl_c_while_ray_starts_ends_with_0_and_leaves_nothing(tmp_path: Path) -> None:
    write_model(tmp_path, "a", "/models/1")
    up = RayfleetUp([tmp_path], folder=tmp_path)
    up.start()
    up.wait("Ray is being started", lambda: up.marked())
    up.interrupt()
    # A second one, as impatient people send, ends it all the same.
    os.kill(up.process.pid if up.process else 0, signal.SIGINT)
    assert up.stop() == 0
    assert up.cli("status").returncode == 1


def test_when_ray_ends_by_itself_it_is_said_and_the_exit_code_is_1(tmp_path: Path) -> None:
    write_model(tmp_path, "a", "/models/1")
    up = RayfleetUp([tmp_path], folder=tmp_path, env={"RAY_SERVE_ENABLE_HA_PROXY": "0"})
    up.start()
    up.wait("Ray runs", lambda: "Ray runs on this machine" in up.output)
    up.wait("what serves instead of HAProxy is said", lambda: "HAProxy is not used" in up.output)
    deadline = time.monotonic() + 60
    while up.running:
        assert time.monotonic() < deadline, up.output
        for pid in up.marked():
            command = Path(f"/proc/{pid}/cmdline")
            try:
                if b"gcs_server" in command.read_bytes():
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.1)
    assert up.stop() == 1
    assert "Ray ended by itself" in up.output
