"""How much memory this process has, and a limit on it that only an allocation beyond it meets.

The limit is Linux's on private writable memory (RLIMIT_DATA): what a process has asked for, whether it was touched or
not. The allocation that would exceed it fails, so numpy raises MemoryError and PyTorch and onnxruntime their own, and
the process goes on. Neither a limit on the address space would do, since CUDA and shared libraries reserve many times
what they use, nor one of the cgroup, which ends a process instead of failing its allocation and holds for a whole pod.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import resource

MIB = 2**20

RUNTIME_SLACK = 128 * MIB
"""Beyond a cap: stacks of threads that the replica starts later, of 8 MiB each as the limit counts them, and requests
that wait."""
STACKS = 16 * MIB
"""Beyond a cap for each further CPU: two threads. A library that cannot start one of its own ends the process."""
RESERVE = 64 * MIB
"""What a model cannot take even at its cap, so that a replica whose model has taken everything can still take requests
and answer them."""
ANSWERS = 16 * MIB
"""Of the reserve, what requests that wait cannot take: those that are here must be answered for memory to come free."""
FAREWELL = 64 * MIB
"""More, for a replica that ends because its model has got at the reserve all the same."""

_COMPUTING, _RESERVING, _ANSWERING = range(3)

_STATUS = Path("/proc/self/status")


class ProcessMemory(NamedTuple):
    """Bytes of this process."""

    data: int
    """Private writable memory that it has asked for: what the limit counts."""
    resident: int
    """Memory that it takes, without pages of files, which the kernel can drop."""


def read() -> ProcessMemory | None:
    """None where the system does not say: everywhere but on Linux."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    values = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines) if rest.endswith("kB")}
    kib = {name: int(value) for name, value in values.items()}
    if "VmData" not in kib or "RssAnon" not in kib:
        return None
    return ProcessMemory(kib["VmData"] * 1024, (kib["RssAnon"] + kib.get("RssShmem", 0)) * 1024)


class DataLimit:
    """At most `growth` bytes of private memory more than the process has now, and `RESERVE` for all but the model.

    The kernel knows no limit of one thread, so the limit goes up and down: it is without the reserve while the model
    computes, but for the moments in which another thread says that it needs it. Those are short, and mostly with
    Python's lock held; a model that allocates in just such a moment can get at the reserve.
    """

    def __init__(self, growth: int) -> None:
        """Raises `OSError` or `ValueError` where the system sets no such limit."""
        if sys.platform != "linux" or (now := read()) is None:
            raise OSError("only Linux limits the private memory of a process")
        self.base = now.data
        self.growth = growth
        self._lock = threading.Lock()
        self._busy = [0, 0, 0]
        self._none, self._most, self._whole = (self._limits(more) for more in (0, RESERVE - ANSWERS, RESERVE))
        count = self._count
        self._enforced, self._reserved, self._answered = (
            _While(count, w) for w in (_COMPUTING, _RESERVING, _ANSWERING)
        )
        self._set()

    def enforced(self) -> AbstractContextManager[None]:
        """While the model computes. For one thread at a time; a system call on either side."""
        return self._enforced

    def reserve(self) -> AbstractContextManager[None]:
        """Here the reserve but for `ANSWERS` may be used, even while the model computes. For any thread, and short."""
        return self._reserved

    def answers(self) -> AbstractContextManager[None]:
        """Here all of it may be used. The same."""
        return self._answered

    def part(self) -> None:
        """Let the process have `FAREWELL` more from now on: it is about to end."""
        with self._lock:
            self._none = self._most = self._whole = self._limits(RESERVE + FAREWELL)
            self._set()

    @property
    def used(self) -> int:
        """Bytes of the growth that are taken."""
        now = read()
        return max(0, now.data - self.base) if now is not None else 0

    def _count(self, what: int, more: int) -> None:
        """More or fewer threads do `what`."""
        with self._lock:
            self._busy[what] += more
            self._set()

    def _set(self) -> None:
        if self._busy[_ANSWERING]:
            limits = self._whole
        elif self._busy[_RESERVING] or not self._busy[_COMPUTING]:
            limits = self._most
        else:
            limits = self._none
        resource.setrlimit(resource.RLIMIT_DATA, limits)

    def _limits(self, more: int) -> tuple[int, int]:
        # The hard limit stays as it is: a process may not raise that again.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = self.base + self.growth + more
        return (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)


class _While:
    """For as long as a block runs. It is made beforehand, for there may be no memory for another when it begins."""

    def __init__(self, count: Callable[[int, int], None], what: int) -> None:
        self._count = count
        self._what = what

    def __enter__(self) -> None:
        self._count(self._what, 1)

    def __exit__(self, *error: object) -> None:
        self._count(self._what, -1)
