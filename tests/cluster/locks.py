"""One process at a time: a file lock that the kernel frees when its holder dies."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def say(line: str) -> None:
    """Write a line of progress to standard error."""
    print(f"cluster: {line}", file=sys.stderr, flush=True)


@contextmanager
def exclusive(path: Path, work: str) -> Iterator[None]:
    """Hold the lock at `path`; says so when somebody else is doing the `work` and has to be waited for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process: {work}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
