"""A real Prometheus for tests: its own folder and a free port; ended with the test."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.binaries import binary
from mlflow_server import free_port

START_S = 60.0
STOP_S = 15.0


@dataclass
class Prometheus:
    """`start` after `kill` continues on the same port with what was scraped before."""

    folder: Path
    target: str
    """What it scrapes each second, as host and port."""
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers queries. Raises RuntimeError, with the end of its log, where it does not in time."""
        jobs = [{"job_name": "rayfleet", "static_configs": [{"targets": [self.target]}]}]
        # JSON is YAML, too.
        settings = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
        (self.folder / "prometheus.yaml").write_text(json.dumps(settings))
        command = [
            str(binary("prometheus")),
            f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        with (self.folder / "prometheus.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_S
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder / "prometheus.log").read_text(errors="replace")[-3000:]
                self.kill()
                raise RuntimeError(f"Prometheus did not start:\n{text}")
            time.sleep(0.1)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(STOP_S)
            self.process = None

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


@contextmanager
def prometheus_server(folder: Path, target: str) -> Iterator[Prometheus]:
    """Not started yet: whoever asks it must get on with one that is not there."""
    server = Prometheus(folder, target, free_port())
    try:
        yield server
    finally:
        server.kill()
