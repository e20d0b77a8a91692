"""`rayfleet up` as a process of its own, as from a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from digits import waiting

FILE = Path(__file__).with_name("digits.yaml")


class Up:
    """A running `rayfleet up`."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.url = url
        self.log = log
        self._process = process

    def wait_ready(self, model: str) -> None:
        """Returns once the model answers. Raises TimeoutError after three minutes, with the log's end."""
        waiting.for_http(f"{self.url}/v2/models/{model}/ready", self._process, self.log, seconds=180)

    def stop(self) -> int:
        """Presses Ctrl-C; returns the exit code."""
        return waiting.stop(self._process, signal.SIGINT, seconds=60)


@contextmanager
def running(tracking_uri: str, folder: Path) -> Iterator[Up]:
    """Serves `digits.yaml` from the MLflow server at `tracking_uri`; log and model cache go into `folder`."""
    port = waiting.free_port()
    log = folder / "rayfleet-up.log"
    process = subprocess.Popen(
        [Path(sys.executable).with_name("rayfleet"), "up", str(FILE), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"MLFLOW_TRACKING_URI": tracking_uri, "RAYFLEET_CACHE_DIR": str(folder / "cache")},
        start_new_session=True,
    )
    show = threading.Thread(target=_show, args=(process, log))
    show.start()
    up = Up(process, f"http://127.0.0.1:{port}", log)
    try:
        yield up
    finally:
        up.stop()
        show.join(10)


def left_behind(folder: Path) -> list[str]:
    """Command lines of the processes that were started with `folder` in their environment; Linux only."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            environ = (process / "environ").read_bytes()
        except OSError:  # ended meanwhile, or another user's
            continue
        if process.name != str(os.getpid()) and os.fsencode(folder) in command + environ:
            found.append(command.replace(b"\0", b" ").decode(errors="replace").strip() or process.name)
    return found


def _show(process: subprocess.Popen[bytes], log: Path) -> None:
    """Copies the process's output to the terminal, indented, and to the log."""
    assert process.stdout is not None
    with log.open("wb") as copy:
        for line in process.stdout:
            copy.write(line)
            copy.flush()
            print("    |", line.decode(errors="replace").rstrip(), flush=True)
