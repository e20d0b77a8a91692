"""A real MLflow server for tests: its own folder, sqlite and a free port; ended with the test.

@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory) as server:
        yield server
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

START_S = 120.0
STOP_S = 15.0


@dataclass
class MlflowServer:
    """`start` after `stop` continues on the same port with the same data."""

    folder: Path
    """Holds mlflow.db, artifacts/ and server.log."""
    port: int
    options: tuple[str, ...] = ()
    """More arguments of `mlflow server`."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """More environment variables of the server."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> Path:
        return self.folder / "mlflow.db"

    def start(self) -> None:
        """Returns when the server answers.

        Raises:
            RuntimeError: it ended, or did not answer in time; with the end of its log.
        """
        if self.process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.database}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), *self.options]
        # Job execution is nine more processes and over a gigabyte; nothing here runs jobs.
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **quiet, **self.environ},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group of its own, which `stop` ends as a whole
            )
        deadline = time.monotonic() + START_S
        while not self._healthy():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder / "server.log").read_text(errors="replace")[-3000:]
                self.stop()
                raise RuntimeError(f"The MLflow server did not start:\n{text}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends the server and everything it started, at once: its data are sqlite's and files, which outlive that."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_S)
        self.process = None

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def mlflow_server(
    tmp_path_factory: pytest.TempPathFactory, *options: str, environ: Mapping[str, str] | None = None
) -> Iterator[MlflowServer]:
    """A started server; ended and its folder left to pytest at the end.

    Args:
        options: more arguments of `mlflow server`.
        environ: more environment variables of the server.
    """
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), free_port(), options, environ or {})
    try:
        server.start()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on now.

    It is none that the system would give to a connection before it is listened on.
    """
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
