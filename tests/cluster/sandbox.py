"""Linux namespaces in which everything that belongs to one purpose runs, and with which it ends.

A sandbox has its own process table, mounts and, where wanted, network. Its first process only reaps; when that one is
killed, the kernel ends every other, and mounts, links, routes and packet filters go with them. Nothing is kept about it
in files: it is found among the machine's processes by its command line, so there is no pid that could be stale.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.binaries import binary
from cluster.deadline import until

MARK = "--rayfleet-test-sandbox="
FIRST = '"$@" >/dev/null 2>&1 </dev/null & echo $!'
DETACHED = 'log=$1; shift; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!'


class SandboxError(RuntimeError):
    """A command in a sandbox failed; the message holds what it said."""


@dataclass(frozen=True)
class Sandbox:
    """`name` is a path that stands for its purpose, such as the folder where its state is."""

    name: Path
    network: bool = True
    """Whether it has a network of its own, /run included, where much of a network's state is kept."""

    def pid(self) -> int | None:
        """The first process, as the machine numbers it; None when there is no such sandbox."""
        mark = f"{MARK}{self.name}"
        return next((pid for pid in _pids() if _owner(pid) == os.geteuid() and mark in command_line(pid)[1:2]), None)

    def create(self) -> None:
        """Make the namespaces; there must be none of this name."""
        unshared = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--propagation", "private"]
        if self.network:
            unshared.append("--net")
        first = [str(binary("pause")), f"{MARK}{self.name}"]
        # Without --fork the shell itself stays outside, and its child becomes the new process table's first.
        _run([*unshared, "sh", "-c", FIRST, "sh", *first])
        until(f"the sandbox {self.name} is there", lambda: self.pid() is not None, 10, every=0.01)
        self.run("mount", "-t", "proc", "proc", "/proc")
        self.run("mount", "--make-rshared", "/")  # what is mounted for a pod is seen by its containers
        if self.network:
            self.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
            self.run("ip", "link", "set", "lo", "up")

    def destroy(self) -> None:
        """End everything in it; does nothing when it is gone."""
        while (pid := self.pid()) is not None:
            members = [pid, *self._members(pid)]
            _kill(pid, signal.SIGKILL)
            until(f"the processes of {self.name} ended", lambda: not any(map(living, members)), 60)  # noqa: B023

    def _enter(self) -> list[str]:
        pid = self.pid()
        if pid is None:
            raise SandboxError(f"nothing runs for {self.name}")
        network = ["--net"] if self.network else []
        return ["nsenter", f"--target={pid}", "--mount", "--pid", "--uts", "--ipc", *network, "--wd=/"]

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command inside, for `subprocess`."""
        return [*self._enter(), *command]

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a command inside and answer its output. Raises SandboxError."""
        return _run(self.command(*command), stdin)

    def start(self, command: Sequence[str], log: Path) -> None:
        """Start a program inside and leave it running."""
        _run([*self._enter(), "--no-fork", "sh", "-c", DETACHED, "sh", str(log), *command])

    def find(self, program: str) -> int | None:
        """The process inside that was started by the command line's first word; None when there is none."""
        first = self.pid()
        if first is None:
            return None
        return next((pid for pid in self._members(first) if command_line(pid)[:1] == [program]), None)

    def signal(self, program: str, number: signal.Signals) -> None:
        """Send a signal to a program inside; nothing happens when it does not run."""
        if (pid := self.find(program)) is not None:
            _kill(pid, number)

    def end(self, program: str, number: signal.Signals, seconds: float) -> None:
        """Send a signal to a program inside and wait until nothing of it is left. Raises TimeoutError."""
        if (pid := self.find(program)) is not None:
            _kill(pid, number)
            until(f"{program} ended", lambda: not living(pid), seconds)

    def _members(self, first: int) -> list[int]:
        own = _namespace(first)
        return [pid for pid in _pids() if pid != first and own is not None and _namespace(pid) == own]


def sandboxes() -> list[Path]:
    """The names of all sandboxes of this machine, whoever made them."""
    return named(command_line(pid) for pid in _pids())


def named(command_lines: Iterable[Sequence[str]]) -> list[Path]:
    """The names of those sandboxes whose first processes are among these."""
    marks = (word for words in command_lines for word in words[1:2])
    return sorted({Path(mark.removeprefix(MARK)) for mark in marks if mark.startswith(MARK)})


def command_line(pid: int) -> list[str]:
    """The words a process was started with; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def living(pid: int) -> bool:
    """Whether the process is there and is not one that ended and was not waited for.

    It lives as long as any of its threads: a killed one keeps its sockets until the last has gone.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    return any(_state(pid, thread) not in "ZX" for thread in threads)


def _state(pid: int, thread: str) -> str:
    try:
        return Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _owner(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _run(command: Sequence[str], stdin: str | None = None) -> str:
    ran = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SandboxError(f"{' '.join(command)} failed:\n{(ran.stderr or ran.stdout).strip()}")
    return ran.stdout
