"""`rayfleet up` on a real Ray with real models."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from model_files import save_model, write_model
from rayfleet_up import RayfleetUp

from rayfleet_operator.local import state

ROWS = {"inputs": [[1.0, 2.0], [3.0, 4.0]]}


def ask(up: RayfleetUp, model: str) -> httpx.Response:
    return httpx.post(f"{up.url}/{model}/invocations", json=ROWS, timeout=30)


def answer(up: RayfleetUp, model: str) -> float:
    """What the model answers to every row."""
    response = ask(up, model)
    assert response.status_code == 200, response.text
    first, second = response.json()["predictions"]
    assert first == second
    return float(round(first, 6))


@contextmanager
def under_load(up: RayfleetUp, model: str) -> Iterator[list[tuple[int, str]]]:
    """Four clients in closed loops; the list gets the status and version of each answer."""
    answers: list[tuple[int, str]] = []
    over = threading.Event()

    def client() -> None:
        with httpx.Client(timeout=30) as http:
            while not over.is_set():
                response = http.post(f"{up.url}/{model}/invocations", json=ROWS)
                answers.append((response.status_code, response.headers.get("x-rayfleet-model-version", "")))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_model_answers_on_this_machine_alone(up: RayfleetUp) -> None:
    assert answer(up, "first") == 1
    assert httpx.get(f"{up.url}/v2/models/first/ready").json() == {"ready": True}
    for page in ("/docs", "/metrics", "/openapi.json"):
        assert httpx.get(f"{up.url}{page}").status_code == 200
        assert page in up.output or page == "/openapi.json"


def test_nothing_of_ray_and_serve_takes_requests_from_elsewhere(up: RayfleetUp) -> None:
    """Not on the loopback alone: HAProxy's pages of numbers, and the replicas' gRPC, which asks for the token."""
    inodes = set()
    for pid in up.marked():
        try:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                inodes.add(os.readlink(link))
        except OSError:
            continue
    outside = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            fields = row.split()
            address, port = fields[1].split(":")
            loopback = address == "0100007F" or address.endswith("FFFF00000100007F") or address == "0" * 24 + "01000000"
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes and not loopback:
                outside.append(int(port, 16))
    for port in outside:
        try:
            answered = httpx.post(f"http://127.0.0.1:{port}/first/invocations", json=ROWS, timeout=5)
        except httpx.HTTPError:
            continue  # It speaks gRPC.
        assert answered.status_code >= 400
        assert "predictions" not in answered.text


def test_edited_under_load_no_request_fails(up: RayfleetUp, served: Path, models: dict[int, Path]) -> None:
    with under_load(up, "first") as answers:
        up.wait("some answers", lambda: len(answers) > 20)
        write_model(served, "first", models[2])
        up.wait("the new version answers", lambda: answers[-1][1] != answers[0][1])
        up.wait_ready("first")
        switched = len(answers)
        up.wait("some more answers", lambda: len(answers) > switched + 20)
    assert {status for status, _ in answers} == {200}
    assert len({version for _, version in answers}) == 2
    assert len({version for _, version in answers[switched + 4 :]}) == 1, "the old version is gone"
    assert answer(up, "first") == 2
    shown = up.model("first")
    assert shown is not None
    assert [version.weight for version in shown.versions] == [100]
    write_model(served, "first", models[1])
    up.wait("the first version answers again", lambda: answer(up, "first") == 1)


def test_a_new_file_is_a_new_model_and_without_it_the_model_is_gone(
    up: RayfleetUp, served: Path, models: dict[int, Path]
) -> None:
    file = write_model(served, "second", models[2])
    up.wait_ready("first", "second")
    assert (answer(up, "first"), answer(up, "second")) == (1, 2)
    file.unlink()
    up.wait("the model is removed", lambda: up.model("second") is None)
    assert ask(up, "second").status_code == 404
    assert answer(up, "first") == 1
    assert "second: removed" in up.output
    assert "the files changed and were read again" in up.output


def test_a_mistake_in_a_file_is_shown_and_ends_nothing(up: RayfleetUp, served: Path, models: dict[int, Path]) -> None:
    file = served / "first.yaml"
    file.write_text(file.read_text().replace("uri:", "url:"))

    def problems() -> tuple[str, ...]:
        found = up.state()
        return found.status.problems if found else ()

    up.wait("the mistake is shown", problems)
    assert any("spec.model.url" in problem for problem in problems())
    assert answer(up, "first") == 1
    shown = up.cli("status")
    assert shown.returncode == 0
    assert "spec.model.url" in shown.stdout
    write_model(served, "first", models[1])
    up.wait("the mistake is gone", lambda: not problems())


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A model that does not load."""
    model = save_model(tmp_path / "broken", 3)
    next(model.glob("model.*")).write_bytes(b"no model")
    return model


def degraded(up: RayfleetUp) -> bool:
    shown = up.model("first")
    return shown is not None and shown.condition("Degraded").status == "True"


def test_a_version_that_does_not_load_takes_no_request_and_its_labels_are_given_to_no_other(
    up: RayfleetUp, served: Path, models: dict[int, Path], broken: Path
) -> None:
    def predicted() -> object:
        return httpx.post(f"{up.url}/first/predict", json={"instances": [[1.0, 2.0]]}, timeout=30).json()

    plain = predicted()
    labels = {"output": {"classification": {"labels": ["cat"], "activation": "None", "topK": 1}}}
    with under_load(up, "first") as answers:
        write_model(served, "first", broken, transform=labels)
        up.wait("the table says that it failed", lambda: degraded(up))
    shown = up.model("first")
    assert shown is not None
    assert shown.ready
    assert [version.weight for version in shown.versions] == [100, 0]
    assert shown.versions[1].message
    assert {status for status, _ in answers} == {200}
    assert len({version for _, version in answers}) == 1
    assert predicted() == plain
    write_model(served, "first", models[1], transform=labels)
    up.wait("the version that answers has the labels", lambda: predicted() != plain)
    up.wait("the failed version is gone", lambda: not degraded(up))
    write_model(served, "first", models[1])
    up.wait("it has none", lambda: predicted() == plain)


def test_status_and_predict_find_it_by_themselves(up: RayfleetUp, tmp_path: Path) -> None:
    (shown,) = json.loads(up.cli("status", "--json").stdout)
    assert (shown["running"], shown["url"], shown["pid"]) == (True, up.url, up.process.pid if up.process else 0)
    assert [model["name"] for model in shown["status"]["models"]] == ["first"]
    assert shown["age_seconds"] < 60
    table = up.cli("status")
    assert table.returncode == 0
    assert "first" in table.stdout
    assert "100 %" in table.stdout
    assert "1 of 1" in table.stdout
    (version,) = shown["status"]["models"][0]["versions"]
    assert (version["replicas_running"], version["replicas_target"]) == (1, 1)

    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(ROWS))
    answered = up.cli("predict", "first", rows)
    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout)["predictions"] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("name", "text", "arguments", "code", "said"),
    [
        ("rows.json", json.dumps(ROWS), ["nobody"], 1, "404"),
        ("rows.json", '{"inputs": [["a"]]}', ["first"], 1, "400"),
        ("rows.json", "{}", ["first", "--url", "http://127.0.0.1:9"], 1, "cannot be reached"),
        ("rows.json", "{}", ["first", "--port", "9"], 1, "no rayfleet up is running on port 9"),
        ("rows.txt", "{}", ["first"], 2, "neither JSON nor an image"),
    ],
)
def test_predict_says_what_is_wrong(
    up: RayfleetUp, tmp_path: Path, name: str, text: str, arguments: list[str], code: int, said: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    answered = up.cli("predict", arguments[0], file, *arguments[1:])
    assert (answered.returncode, answered.stdout) == (code, "")
    assert said in answered.stderr
    assert "Traceback" not in answered.stderr


def test_a_taken_port_is_refused_before_anything_starts(
    up: RayfleetUp, served: Path, tmp_path: Path, models: dict[int, Path]
) -> None:
    again = up.cli("up", served, "--port", str(up.port))
    assert again.returncode == 1
    assert f"another rayfleet up (process {up.process.pid if up.process else 0})" in again.stderr
    # With a state folder of its own it sees only that something listens.
    stranger = RayfleetUp([served], folder=tmp_path, port=up.port)
    refused = stranger.cli("up", served, "--port", str(up.port))
    assert refused.returncode == 1
    assert "in use by another program" in refused.stderr
    assert "Starting Ray" not in again.stdout + refused.stdout


def test_two_at_once_and_one_is_killed(up: RayfleetUp, tmp_path: Path, models: dict[int, Path]) -> None:
    write_model(tmp_path, "other", models[2])
    env = {"RAYFLEET_STATE_DIR": up.env["RAYFLEET_STATE_DIR"]}
    second = RayfleetUp([tmp_path / "other.yaml"], folder=tmp_path, env=env)
    second.start()
    try:
        second.wait_ready("other")
        assert (answer(up, "first"), answer(second, "other")) == (1, 2)
        assert "HAProxy is not used" not in second.output
        assert ask(up, "other").status_code == ask(second, "first").status_code == 404
        both = json.loads(up.cli("status", "--json").stdout)
        assert {urlsplit(shown["url"]).port for shown in both} == {up.port, second.port}
        file = tmp_path / "rows.json"
        file.write_text(json.dumps(ROWS))
        assert "choose one with --port" in up.cli("predict", "first", file).stderr
        assert up.cli("predict", "first", file, "--port", str(up.port)).returncode == 0

        found = second.state()
        assert found is not None
        assert found.folder is not None
        second.interrupt(signal.SIGKILL)
        assert second.process is not None
        second.process.wait(20)
        deadline = time.monotonic() + 20
        while second.marked() or Path(found.folder).exists():
            assert time.monotonic() < deadline, second.marked()
            time.sleep(0.1)
    finally:
        if second.running:
            second.stop()
    assert answer(up, "first") == 1
    said = up.cli("status", "--port", str(second.port))
    assert said.returncode == 1
    assert "was killed" in said.stderr
    for killed in state.killed(Path(up.env["RAYFLEET_STATE_DIR"])):
        state.forget(Path(up.env["RAYFLEET_STATE_DIR"]), killed)
