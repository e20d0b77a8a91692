"""Waiting for other processes, with a deadline and their log when they disappoint."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx

LOG_LINES = 40


def free_port() -> int:
    """A TCP port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def for_http(url: str, process: subprocess.Popen[bytes], log: Path, *, seconds: float) -> None:
    """Returns once `url` answers 200.

    Raises:
        TimeoutError: `process` ended, or did not answer in time.
    """
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    what = "did not answer in time" if process.poll() is None else f"ended with exit code {process.returncode}"
    raise TimeoutError(f"{url}: the server {what}; the end of its log:\n{tail(log)}")


def tail(log: Path) -> str:
    """The last lines of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def stop(process: subprocess.Popen[bytes], how: signal.Signals, *, seconds: float) -> int:
    """Signals the process, kills its whole group when it is not gone in time; returns its exit code."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()
