"""An operator process whose reconciles only say that they ran: a stand-in for the reconciler, everything else is real.

As a program it runs that operator; `Operator` starts one and reads what it says.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

PATIENCE_S = 90.0


class Operator:
    """One process. What fleets are called says how their reconciles go.

    bad-… fails, slow-… takes five seconds, stuck-… takes for ever, lost-… ends the worker with it.
    """

    def __init__(self, kubeconfig: Path, identity: str, **environment: str) -> None:
        self.identity = identity
        self.said: list[dict[str, Any]] = []
        self.log = ""
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={
                **os.environ,
                "KUBECONFIG": str(kubeconfig),
                "RAYFLEET_IDENTITY": identity,
                "RAYFLEET_OPERATOR_NAMESPACE": "default",
                "RAYFLEET_METRICS_PORT": "0",
                "RAYFLEET_HEALTH_PORT": "0",
                "RAYFLEET_REGISTRY_WEBHOOK_PORT": "0",
                "RAYFLEET_RESYNC": "1h",
                "RAYFLEET_LOG_FORMAT": "text",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for read in (self._read_said, self._read_log):
            threading.Thread(target=read, daemon=True).start()

    def _read_said(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(json.loads(line))

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log += line

    def count(self, what: str, fleet: str | None = None) -> int:
        """How often it said so, of one fleet or of any."""
        return sum(1 for each in self.said if each["what"] == what and fleet in (None, each.get("fleet")))

    def until(self, what: str, done: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Raises TimeoutError, with the log, when it is not so in time."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.identity}, {what}: not so after {seconds:g} s; its log:\n{self.log}")
            time.sleep(0.02)

    def get(self, server: str, path: str) -> httpx.Response:
        """Asks the health or metrics server."""
        self.until("it listens", lambda: self.count("started") == 1)
        return httpx.get(f"http://127.0.0.1:{self.said[0][server]}{path}", trust_env=False, timeout=PATIENCE_S)

    def deliver(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """As MLflow's webhooks do."""
        self.until("it listens", lambda: self.count("started") == 1)
        url = f"http://127.0.0.1:{self.said[0]['webhook']}/mlflow"
        return httpx.post(url, content=body, headers=headers, trust_env=False, timeout=PATIENCE_S)

    @property
    def leads(self) -> bool:
        return 'leader_election_master_status{name="rayfleet-operator"} 1.0' in self.get("metrics", "/metrics").text

    @property
    def ready(self) -> bool:
        return self.get("health", "/readyz").status_code == 200

    def until_working(self) -> None:
        """It leads, and hears of changes."""
        self.until("it leads", lambda: self.leads)
        self.until("it is ready", lambda: self.ready)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """The exit code."""
        return self._process.wait(seconds)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Whatever state it is in."""
        if self.running:
            self._process.kill()
        self._process.wait()


def main() -> None:
    """Run the operator."""
    from rayfleet_operator import logs, manager
    from rayfleet_operator.controller import Result
    from rayfleet_operator.kube.keys import FleetKey
    from rayfleet_operator.kube.lease import LeaseLost
    from rayfleet_operator.settings import Settings

    def say(what: str, **more: object) -> None:
        print(json.dumps({"what": what, **more}), flush=True)

    class Saying:
        def __init__(self) -> None:
            self._working: set[FleetKey] = set()

        async def reconcile(self, key: FleetKey) -> Result:
            assert key not in self._working
            self._working.add(key)
            say("begun", fleet=key.fleet)
            try:
                if key.fleet.startswith("bad-"):
                    raise ValueError(f"{key.fleet} is bad")
                if key.fleet.startswith("lost-"):
                    # As when it waits for a task that somebody cancels.
                    raise asyncio.CancelledError
                if key.fleet.startswith("slow-"):
                    await asyncio.sleep(5)
                if key.fleet.startswith("stuck-"):
                    await asyncio.sleep(3600)
            except asyncio.CancelledError:
                say("cancelled", fleet=key.fleet)
                raise
            finally:
                self._working.discard(key)
            say("reconciled", fleet=key.fleet)
            return Result(requeue_after=0.2 if key.fleet.startswith("again-") else None)

        def wake(self, registered_model: str) -> None:
            say("woken", model=registered_model)

        async def close(self) -> None:
            say("closed")

    settings = Settings.from_environment(os.environ)
    logs.configure(settings.log_level, settings.log_format)

    def started(ports: manager.Ports) -> None:
        say("started", metrics=ports.metrics, health=ports.health, webhook=ports.webhook)

    try:
        asyncio.run(manager.run(settings, lambda *_: Saying(), started=started))
    except LeaseLost as error:
        raise SystemExit(f"{error}") from error


if __name__ == "__main__":
    main()
