"""The keeper ends every process below it, however it was started and whatever it ignores."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rayfleet_operator.local import cluster, keeper, ports
from rayfleet_operator.local.variables import SESSION

# A child that left the session, a grandchild whose parent is gone, and both deaf to SIGTERM.
TREE = """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
    subprocess.Popen(sleep, start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, sleep)
        os._exit(0)
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "rayfleet-session"
    folder.mkdir()
    return folder


@pytest.fixture
def mark(request: pytest.FixtureRequest) -> Iterator[str]:
    mark = f"test-{os.getpid()}-{request.node.name}"
    yield mark
    for pid in cluster.marked(mark):
        os.kill(pid, signal.SIGKILL)


def start(folder: Path, mark: str, code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", keeper.__name__, str(folder), sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, SESSION: mark},
        start_new_session=True,
    )


def started(mark: str) -> set[int]:
    """The keeper and the whole tree, once it is there."""
    until(lambda: len(cluster.marked(mark)) == 4)
    return cluster.marked(mark)


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def none_left(pids: set[int]) -> bool:
    """Not even as entries that nobody collected."""
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def gone(session: str, folder: Path) -> bool:
    return not cluster.marked(session) and not folder.exists()


def until(met: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def test_when_its_input_ends_nothing_is_left(folder: Path, mark: str) -> None:
    process = start(folder, mark, TREE)
    pids = started(mark)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0
    assert none_left(pids)
    assert not folder.exists()


def test_sigterm_ends_everything(folder: Path, mark: str) -> None:
    process = start(folder, mark, TREE)
    pids = started(mark)
    process.terminate()
    assert process.wait(20) == 0
    assert none_left(pids)
    assert not folder.exists()


def test_when_the_command_ends_the_rest_does_and_its_last_words_are_told(folder: Path, mark: str) -> None:
    words = "print('a line\\n' * 999 + 'out of memory')"
    code = TREE.replace("time.sleep(600)\n", f"{words}\n    sys.exit(3)\n")
    process = start(folder, mark, code)
    assert process.stderr is not None
    error = process.stderr.read()
    assert process.wait(20) == 3
    # Whole lines, however many came before.
    assert set(error.split(b"\n")) == {b"a line", b"out of memory", b""}
    assert cluster.marked(mark) == set()
    assert not folder.exists()


def test_what_a_killed_keeper_left_is_ended_by_its_mark_alone(folder: Path, mark: str) -> None:
    process = start(folder, mark, TREE)
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, SESSION: f"{mark}-other"}
    )
    try:
        started(mark)
        process.kill()
        process.wait()
        asyncio.run(cluster.clean_up(mark, folder))
        assert cluster.marked(mark) == set()
        assert not folder.exists()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


async def test_when_the_keeper_alone_is_killed_stop_ends_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ray_command", lambda *_, **__: [sys.executable, "-c", textwrap.dedent(TREE)])
    ray = await cluster.LocalCluster.launch(os.environ)
    try:
        pids = await asyncio.to_thread(started, ray.session.id)
        (keeper_pid,) = {os.getsid(pid) for pid in pids} & children()
        os.kill(keeper_pid, signal.SIGKILL)
        await ray.ended()
        await ray.stop()
        assert gone(ray.session.id, ray.session.folder)
    finally:
        await cluster.clean_up(ray.session.id, ray.session.folder)


async def test_ray_gets_no_port_where_models_will_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the first that is free, nor one of its routers'."""
    given: list[int] = []

    def ray_command(folder: Path, *taken: int, gpus: int | None) -> list[str]:
        given.extend(taken)
        return [sys.executable, "-c", ""]

    def variables(environ: Mapping[str, str], *, free: list[int], ingress_port: int, **more: Any) -> dict[str, str]:
        given.extend([*free, *range(ingress_port, ingress_port + 500)])
        return dict(environ) | {"RAY_SERVE_ENABLE_HA_PROXY": "0"}

    monkeypatch.setattr(random, "sample", lambda among, count: list(among))
    monkeypatch.setattr(random, "choice", lambda among: among[0])
    monkeypatch.setattr(ports, "RANGE", range(31_000, 31_008))
    monkeypatch.setattr(ports, "taken", lambda port: False)
    monkeypatch.setattr(cluster, "INGRESS_PORTS", range(20_000, 21_000, 500))
    monkeypatch.setattr(cluster, "ray_command", ray_command)
    monkeypatch.setattr(cluster, "variables", variables)
    for port in (31_000, 20_250):
        given.clear()
        ray = await cluster.LocalCluster.launch(os.environ, port=port)
        await ray.stop()
        assert len(given) == 7 + 500
        assert port not in given


async def test_a_launch_that_fails_leaves_no_folder(folder: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "make_folder", lambda: folder)
    with pytest.raises(ValueError, match="null byte"):
        await cluster.LocalCluster.launch({**os.environ, "MODEL": "a\0b"})
    assert gone(mark, folder)


async def test_a_launch_that_finds_no_place_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(cluster.ClusterError, match=r"No such file or directory: '/nowhere/.*TMPDIR"):
        await cluster.LocalCluster.launch(os.environ)


def test_only_a_folder_of_a_session_is_removed(tmp_path: Path, mark: str) -> None:
    asyncio.run(cluster.clean_up(mark, tmp_path))
    assert tmp_path.exists()
