"""`rayfleet up` for one benchmark, as a person starts it, and what its Ray says of replicas."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rayfleet_operator.local import ports, state

READY_S = 180
CLI = [sys.executable, "-c", "from rayfleet_operator.cli.main import main; main()"]


@dataclass(frozen=True)
class Served:
    """A running `rayfleet up`."""

    url: str
    """Where models answer."""
    dashboard: str
    token: str
    folder: Path
    """Of its states."""

    def model(self, name: str) -> state.ShownModel | None:
        """As `rayfleet status` shows it."""
        ups = [up for up in state.running(self.folder) if up.url == self.url]
        return next((model for up in ups for model in up.status.models if model.name == name), None)

    def replicas(self, name: str) -> Counter[str]:
        """How many replicas of a model are in each state, as Serve calls them."""
        request = urllib.request.Request(f"{self.dashboard}/api/serve/applications/")
        request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            applications = json.load(answer)["applications"]
        return Counter(
            replica["state"]
            for app in applications.values()
            if app["name"].startswith(f"{name}-")
            for deployment in app["deployments"].values()
            for replica in deployment["replicas"]
        )


@contextlib.asynccontextmanager
async def serving(files: Path, folder: Path) -> AsyncIterator[Served]:
    """Run `rayfleet up` on the files; yields once every model is ready. `folder` gets states, cache and output."""
    (port,) = ports.free(1)
    states = folder / "state"
    # Ray runs its workers at nice 15; here they share the cores with the load generator, at the same priority.
    own = {"RAYFLEET_STATE_DIR": str(states), "RAYFLEET_CACHE_DIR": str(folder / "cache"), "RAY_worker_niceness": "0"}
    with (folder / "up.out").open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - it is waited for in a thread
            [*CLI, "up", str(files), "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **own},
            start_new_session=True,
        )
    try:
        try:
            async with asyncio.timeout(READY_S):
                up = await _ready(process, states)
        except (TimeoutError, ChildProcessError) as error:
            why = str(error) or f"not every model is ready after {READY_S} s"
            raise SystemExit(f"rayfleet up: {why}. It said:\n{(folder / 'up.out').read_text()}") from None
        token = await asyncio.to_thread(Path(up.token_path or os.devnull).read_text)
        yield Served(up.url, up.dashboard, token, states)
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.wait, 60)


async def _ready(process: subprocess.Popen[bytes], states: Path) -> state.Up:
    """Its state once every model is ready. Raises ChildProcessError if it ends before."""
    while process.poll() is None:
        found = [up for up in state.running(states) if up.status.models]
        if found and all(model.ready for model in found[0].status.models):
            return found[0]
        await asyncio.sleep(0.2)
    raise ChildProcessError(f"it ended with exit code {process.returncode}")
