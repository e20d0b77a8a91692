"""A model whose versions behave well or badly, the `rayfleet up` that serves it, and those who ask it."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import httpx
import mlflow
import mlflow.pyfunc
import numpy as np
import yaml
from closed_loop import until
from mlflow.models import infer_signature
from mlflow_server import MlflowServer
from rayfleet_up import RAYFLEET, RayfleetUp

from rayfleet_operator.api.status import ModelDeploymentStatus

ROWS = np.arange(8.0).reshape(4, 2)
RATE = 50.0
"""Requests a second."""
GOOD, ALSO_GOOD, RAISING, SLOW, BROKEN, CRASHING, ONE_CLASS = "1", "2", "3", "4", "5", "6", "7"
STEPS = [{"weight": 10, "hold": "6s"}, {"weight": 50, "hold": "6s"}]
ROLLOUT = {
    "strategy": "Canary",
    "steps": STEPS,
    "scaleDownDelay": "2s",
    "progressDeadline": "1m",
    "sticky": {"header": "x-user"},
    "analysis": {
        "minRequests": 20,
        "errorRate": {"max": "1%"},
        "latency": {"percentile": 90, "maxRatioToStable": 2},
        "predictions": {"maxDistance": 0.3},
    },
}


class Behaving(mlflow.pyfunc.PythonModel):
    """Ten classes, at leisure; how, says its kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.calls = 0

    def load_context(self, context: Any) -> None:
        if self.kind == "broken":
            raise RuntimeError("it was trained on a Friday")

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        import os
        import time

        time.sleep(0.03 if self.kind == "slow" else 0.01)
        # Rows of zeros are what it is warmed up with.
        self.calls += int(bool(model_input.any()))
        if self.kind == "raising" and self.calls % 20 == 0:
            raise ValueError("one in twenty")
        if self.kind == "crashing" and self.calls >= 10:
            os._exit(1)
        if self.kind == "one class":
            return np.full(len(model_input), 3)
        return model_input.sum(axis=1).astype(np.int64) % 10


# The class goes into the model as it is: nobody can import this file where it is loaded.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def register(registry: MlflowServer) -> mlflow.MlflowClient:
    """Versions of the model "ladder", in the order of the constants above; `champion` is on the first."""
    mlflow.set_tracking_uri(registry.uri)
    for kind in ("good", "good", "raising", "slow", "broken", "crashing", "one class"):
        with mlflow.start_run():
            mlflow.pyfunc.log_model(
                name="model",
                python_model=Behaving(kind),
                registered_model_name="ladder",
                signature=infer_signature(ROWS, ROWS.sum(axis=1).astype(np.int64)),
                pip_requirements=[],
            )
    client = mlflow.MlflowClient(registry.uri)
    client.set_registered_model_alias("ladder", "champion", GOOD)
    return client


@dataclass
class Ladder:
    """The model, the file that describes it, and its registry."""

    up: RayfleetUp
    file: Path
    client: mlflow.MlflowClient
    uri: str

    def write(self, **rollout: Any) -> None:
        """The usual rollout, with this laid over it."""
        self.write_rollout({**ROLLOUT, **rollout})

    def write_rollout(self, rollout: dict[str, Any], **spec: Any) -> None:
        model = {
            "uri": "models:/ladder@champion",
            "registry": {"trackingUri": self.uri, "pollInterval": "1s"},
            "allowCodeExecution": True,
        }
        spec = {
            "model": model,
            "batching": {"maxBatchSize": 1},
            "resources": {"cpu": "0.2"},
            "rollout": rollout,
            **spec,
        }
        head = {"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "ladder"}}
        self.file.write_text(yaml.safe_dump({**head, "spec": spec}))

    def wants(self, version: str) -> None:
        self.client.set_registered_model_alias("ladder", "champion", version)

    @property
    def status(self) -> ModelDeploymentStatus:
        up = self.up.state()
        return up.status.statuses.get("ladder", ModelDeploymentStatus()) if up else ModelDeploymentStatus()

    @property
    def weights(self) -> dict[str, int]:
        return {version.name: version.weight for version in self.status.versions}

    def reason(self, kind: str = "Progressing") -> str:
        return next((each.reason for each in self.status.conditions if each.type == kind), "")

    def settled(self, version: str) -> bool:
        return self.weights == {version: 100} and self.reason() == "Settled"

    def outcomes(self) -> list[tuple[str, str]]:
        """Of each version that was to have the requests, the newest first."""
        return [(each.version, each.outcome) for each in self.status.history]

    def began(self) -> str:
        """When the candidate of now was first wanted."""
        rollout = self.status.rollout
        return rollout.began if rollout is not None else ""

    def problems(self) -> list[str]:
        """What is told of the files."""
        up = self.up.state()
        return list(up.status.problems) if up else []

    @property
    def given_up(self) -> str:
        """Why the candidate was given up, once it is gone."""
        rollout = self.status.rollout
        return rollout.ended if rollout is not None and len(self.weights) == 1 else ""

    def say(self, *command: str) -> str:
        """`rayfleet rollout …` in another terminal."""
        ran = subprocess.run(
            [RAYFLEET, "rollout", command[0], "ladder", *command[1:], "--port", str(self.up.port)],
            env=self.up.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    async def until(self, what: str, met: Any, seconds: float = 90) -> None:
        await until(f"{what}; {self.up.output[-2000:] if self.up.output else ''}", met, seconds)


@contextmanager
def running(
    registry: MlflowServer, folder: Path, env: Mapping[str, str] | None = None, port: int | None = None
) -> Iterator[Ladder]:
    """A `rayfleet up` that serves it."""
    (folder / "models").mkdir()
    up = RayfleetUp([folder / "models"], folder=folder / "up", env=env, port=port)
    ladder = Ladder(up, folder / "models" / "ladder.yaml", register(registry), registry.uri)
    ladder.write()
    with up:
        up.wait_ready("ladder")
        yield ladder


@dataclass
class Seen:
    """What callers saw: when each request was sent, which version answered, with which status, and who asked."""

    answers: list[tuple[float, str, int, str]] = field(default_factory=list)
    weights: list[tuple[float, int]] = field(default_factory=list)
    """Of the candidate, when it was seen to have another one."""

    @property
    def failed(self) -> list[tuple[float, str, int, str]]:
        return [answer for answer in self.answers if answer[2] != 200]

    def during(self, weight: int) -> list[str]:
        """Versions that answered what was sent while this weight held for sure."""
        begin = next(at for at, seen in self.weights if seen == weight)
        end = next((at for at, seen in self.weights if at > begin and seen != weight), float("inf"))
        return [version for at, version, _, _ in self.answers if begin + 0.5 < at < end - 3]


@asynccontextmanager
async def callers(ladder: Ladder, candidate: str, *, users: int = 200) -> AsyncIterator[Seen]:
    """`RATE` requests a second, each of another user, whatever becomes of the ones before."""
    seen, stop, chance = Seen(), asyncio.Event(), random.Random(0)
    async with httpx.AsyncClient(base_url=ladder.up.url, timeout=60, trust_env=False) as client:

        async def ask(number: int) -> None:
            user, sent = f"user-{number % users}", time.monotonic()
            try:
                # Of any user any question: who asks decides which version answers.
                asked = {"instances": [[float(chance.randrange(10)), float(chance.randrange(10))]]}
                answer = await client.post("/ladder/predict", json=asked, headers={"x-user": user})
                version = answer.headers.get("x-rayfleet-model-version", "")
                seen.answers.append((sent, version, answer.status_code, user))
            except httpx.HTTPError:
                seen.answers.append((sent, "", 0, user))

        async def send() -> None:
            asked, number, begin = set(), 0, time.monotonic()
            while not stop.is_set():
                task = asyncio.create_task(ask(number))
                asked.add(task)
                task.add_done_callback(asked.discard)
                number += 1
                await asyncio.sleep(max(0.0, begin + number / RATE - time.monotonic()))
            await asyncio.gather(*asked)

        async def look() -> None:
            while not stop.is_set():
                weight = ladder.weights.get(candidate, 0)
                if not seen.weights or seen.weights[-1][1] != weight:
                    seen.weights.append((time.monotonic(), weight))
                await asyncio.sleep(0.05)

        tasks = [asyncio.create_task(send()), asyncio.create_task(look())]
        try:
            yield seen
        finally:
            stop.set()
            await asyncio.gather(*tasks)
