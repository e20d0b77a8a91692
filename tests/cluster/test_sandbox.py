"""A sandbox ends as a whole, is found without any file, and touches nothing outside it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.deadline import until
from cluster.sandbox import Sandbox, SandboxError, command_line, living

pytestmark = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="namespaces need Linux and root")

SLEEP = shutil.which("sleep") or "sleep"


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path / "sandbox")
    made.create()
    yield made
    made.destroy()


def test_everything_in_it_ends_with_it(sandbox: Sandbox, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    sandbox.run("mount", "-t", "tmpfs", "tmpfs", str(mounted))
    wire = ["type", "veth", "peer", "name", "inside", "netns", str(sandbox.pid())]
    subprocess.run(["ip", "link", "add", "rayfleet-gone", *wire], check=True)
    sandbox.start([SLEEP, "600"], tmp_path / "log")
    until("it sleeps", lambda: sandbox.find(SLEEP) is not None)
    inside = sandbox.find(SLEEP)
    assert inside is not None

    sandbox.destroy()

    assert sandbox.pid() is None
    assert not living(inside)
    assert str(mounted) not in Path("/proc/mounts").read_text()
    until("the wire is gone", lambda: "rayfleet-gone" not in Path("/proc/net/dev").read_text())


LAST_THREAD = """
import ctypes, socket, sys, threading, time
listening = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=time.sleep, args=(600,)).start()
print(listening.getsockname()[1], flush=True)
sys.stdin.readline()
ctypes.CDLL(None).syscall(60, 0)  # exit, of this thread alone
"""


def test_a_process_lives_until_its_last_thread_is_gone() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LAST_THREAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        process.stdin.write(b"\n")
        process.stdin.flush()
        until("its first thread is gone", lambda: not command_line(process.pid))
        assert living(process.pid)
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))
        process.kill()
        until("all of it is gone", lambda: not living(process.pid))
        socket.create_server(("127.0.0.1", port)).close()


def test_another_object_of_the_same_name_finds_it(sandbox: Sandbox) -> None:
    assert Sandbox(sandbox.name).pid() == sandbox.pid()
    Sandbox(sandbox.name).destroy()
    assert sandbox.pid() is None


def test_the_same_program_outside_is_not_touched(sandbox: Sandbox, tmp_path: Path) -> None:
    with subprocess.Popen([SLEEP, "600"]) as outside:
        try:
            assert sandbox.find(SLEEP) is None
            sandbox.signal(SLEEP, signal.SIGKILL)
            sandbox.start([SLEEP, "600"], tmp_path / "log")
            until("it sleeps", lambda: sandbox.find(SLEEP) is not None)
            sandbox.signal(SLEEP, signal.SIGKILL)
            until("it ended", lambda: sandbox.find(SLEEP) is None)
            assert outside.poll() is None
        finally:
            outside.kill()


def test_two_live_beside_each_other(sandbox: Sandbox, tmp_path: Path) -> None:
    other = Sandbox(tmp_path / "other")
    other.create()
    other.destroy()
    assert sandbox.run("echo", "still here") == "still here\n"


def test_a_command_in_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="nothing runs for"):
        Sandbox(tmp_path).run("true")


def test_to_destroy_none_does_nothing(tmp_path: Path) -> None:
    Sandbox(tmp_path).destroy()
