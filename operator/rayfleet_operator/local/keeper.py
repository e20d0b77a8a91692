"""The process between `rayfleet up` and Ray: it outlives the one and ends the other, whatever happens.

    python -m rayfleet_operator.local.keeper FOLDER COMMAND [ARGUMENT...]

It leads a session of its own, so that Ctrl-C in the terminal reaches `up` alone. On Linux it is the subreaper of all
that it starts: a process whose parent died becomes its child, and none is ever lost. When its standard input ends,
because `up` asks for it or because `up` is gone, SIGKILL included, it ends every process below it or of its session,
and removes FOLDER. The same happens when COMMAND ends by itself; COMMAND's exit code is then the keeper's. SIGTERM
means: at once.

Standard library only: it stays as long as Ray does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

OUTPUT = "ray.out"
"""What COMMAND writes, inside FOLDER."""
GRACE_S = 2.0
"""Between SIGTERM and SIGKILL. Ray's own shutdown takes most of a second, and nothing that it would write is kept."""
GIVE_UP_S = 10.0
"""What SIGKILL has not ended by then is stuck in the kernel, and nobody can end it."""

LAST_WORDS = 4000
"""Bytes of COMMAND's output that are shown when it ends by itself."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run until standard input or COMMAND ends; returns COMMAND's exit code, 0 when it was asked to end it."""
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    hurry: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: hurry.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)

    with (folder / OUTPUT).open("wb") as output:
        child = subprocess.Popen(  # noqa: S603 - the command is that of `up`
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Should the keeper itself be killed, Ray is at least told. No thread runs here, so this is safe.
            preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )
    ended: dict[int, int] = {}
    while not hurry and child.pid not in ended:
        ready, _, _ = select.select([sys.stdin, woken], [], [])
        if woken in ready:
            woken.recv(4096)
        if sys.stdin in ready and not os.read(sys.stdin.fileno(), 4096):
            break
        _reap(ended)
    code = ended.get(child.pid, 0)
    if child.pid in ended:
        # The folder is about to go, and the reason is in it. Nobody may be left to read it.
        with contextlib.suppress(OSError):
            sys.stderr.buffer.write(last_words(folder))
            sys.stderr.flush()
    _end_all(hurry, ended)
    shutil.rmtree(folder, ignore_errors=True)
    return code


def last_words(folder: Path) -> bytes:
    """The last lines that COMMAND wrote, or the end of the last one where that alone is too long. Raises `OSError`."""
    output = (folder / OUTPUT).read_bytes()
    if len(output) <= LAST_WORDS:
        return output
    end = output[-LAST_WORDS:]
    return end.partition(b"\n")[2] or end


def _end_all(hurry: list[int], ended: dict[int, int]) -> None:
    """SIGTERM to every process, SIGKILL to those that stay or come, until none is left.

    Each is collected as well: in a container, nobody may be there to collect them later.
    """
    begin = time.monotonic()
    told: set[int] = set()
    while (past := time.monotonic() - begin) < GIVE_UP_S:
        children, found = _reap(ended), _below()
        if not children and not found:
            return
        kill = bool(hurry) or past > GRACE_S
        for pid in found if kill else found - told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        told |= found
        time.sleep(0.05)


def _below() -> set[int]:
    """Living processes that descend from this one, or are of its session."""
    me = os.getpid()
    parents = {}
    same_session = set()
    for pid, parent in _processes():
        parents[pid] = parent
        with contextlib.suppress(OSError):
            if os.getsid(pid) == me:
                same_session.add(pid)
    found = same_session - {me}
    while more := {pid for pid, parent in parents.items() if parent in found | {me}} - found - {me}:
        found |= more
    return found


def _processes() -> list[tuple[int, int]]:
    """Each process that has not ended, and its parent."""
    if not Path("/proc/self/stat").exists():
        # Looking must not show up as something left to end, so the list is read without `ps` itself.
        with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid=,stat="], stdout=subprocess.PIPE, text=True) as ps:  # noqa: S607
            rows = [line.split() for line in ps.communicate()[0].splitlines()]
        return [(int(pid), int(parent)) for pid, parent, state in rows if state[0] != "Z" and int(pid) != ps.pid]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # "pid (name) state parent …"; the name may hold spaces and parentheses.
                state, parent, *_ = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if state not in ("Z", "X"):
                    found.append((int(entry.name), int(parent)))
    return found


def _reap(ended: dict[int, int]) -> bool:
    """Add the exit codes of children that ended since, adopted ones among them; returns whether any child is left."""
    try:
        while (gone := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            ended[gone[0]] = os.waitstatus_to_exitcode(gone[1])
    except ChildProcessError:
        return False
    return True


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the session alone tells what is ours."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
