"""`rayfleet up` as a person runs it: a process of its own, with its own port and state folder.

    with RayfleetUp([folder], folder=tmp_path) as up:
        up.wait_ready()
        httpx.get(f"{up.url}/v2/health/ready")

Leaving the block sends it Ctrl-C, waits until it ended, and checks that none of its processes is left.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from mlflow_server import free_port

from rayfleet_operator.local import cluster, state
from rayfleet_operator.local.state import ShownModel, Up

RAYFLEET = str(Path(sys.executable).with_name("rayfleet"))
READY_S = 240.0
"""Two cores may be shared with every other test."""
STOP_S = 20.0


class RayfleetUp:
    """`folder` gets the output, the model cache and, unless `env` says otherwise, the state."""

    def __init__(
        self,
        paths: Sequence[Path | str],
        *,
        folder: Path,
        port: int | None = None,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.env = {
            **os.environ,
            "RAYFLEET_STATE_DIR": str(folder / "state"),
            "RAYFLEET_CACHE_DIR": str(folder / "cache"),
            **(env or {}),
        }
        self._command = ["up", *map(str, paths), "--port", str(self.port), *options]
        self._output = folder / f"up-{self.port}.out"
        self.process: subprocess.Popen[bytes] | None = None
        self._sessions: set[str] = set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.output)
        self.stop()

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._output.open("ab") as output:
            # A session of its own, as a terminal gives it.
            self.process = subprocess.Popen(
                [RAYFLEET, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.env,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def state(self) -> Up | None:
        """What it last wrote for other terminals; None before its first pass."""
        found = [up for up in state.running(Path(self.env["RAYFLEET_STATE_DIR"])) if up.url == self.url]
        for up in found:
            if up.session:
                self._sessions.add(up.session)
        return found[0] if found else None

    def model(self, name: str) -> ShownModel | None:
        up = self.state()
        return next((model for model in up.status.models if model.name == name), None) if up else None

    def wait(self, what: str, met: Callable[[], object], seconds: float = READY_S) -> None:
        """Return once `met()` is true. Raises AssertionError, with the output, when it ends or takes too long."""
        deadline = time.monotonic() + seconds
        while not met():
            if not self.running:
                raise AssertionError(f"rayfleet up ended before {what}:\n{self.output}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}\n{self.output}")
            time.sleep(0.1)

    def wait_ready(self, *models: str, seconds: float = READY_S) -> None:
        """Return once every model, or each of these, answers and nothing is under way with it."""

        def met() -> bool:
            up = self.state()
            shown = [model for model in up.status.models if not models or model.name in models] if up else []
            return len(shown) >= max(len(models), 1) and all(
                model.ready and model.condition("Progressing").status == "False" for model in shown
            )

        self.wait(f"{', '.join(models) or 'every model'} is ready", met, seconds)

    def wait_version(self, model: str, version: str, seconds: float = READY_S) -> None:
        """Return once `version` alone is live and has every request."""

        def met() -> bool:
            shown = self.model(model)
            return shown is not None and [(each.version, each.weight) for each in shown.versions] == [(version, 100)]

        self.wait(f"{model} is served by version {version} alone", met, seconds)

    def cli(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run another `rayfleet` command beside it."""
        command = [RAYFLEET, *map(str, arguments)]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)

    def marked(self) -> set[int]:
        """Processes of its Ray that live. Linux only."""
        self.state()
        return {pid for session in self._sessions for pid in cluster.marked(session)}

    def replicas(self, application: str) -> list[int]:
        """Processes of the replicas of a Serve application whose name begins so: "router", or a model's name."""
        found = []
        for pid in self.marked():
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if re.search(rf"ServeReplica:{application}(-\w{{10}})?:", title):
                found.append(pid)
        return found

    def interrupt(self, number: int = signal.SIGINT) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """Ctrl-C, where it still runs; returns its exit code. Raises AssertionError when something is left."""
        assert self.process is not None
        self.state()
        if self.running:
            self.interrupt()
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"rayfleet up did not end within {STOP_S:g} s of Ctrl-C:\n{self.output}") from None
        assert not self.marked(), f"processes are left:\n{self.output}"
        return code
