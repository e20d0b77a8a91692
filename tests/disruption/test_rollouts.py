"""Versions that arrive by stages on a real Ray, good and bad ones, and what callers see. `-s` shows the figures."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import httpx
import mlflow
import mlflow.pyfunc
import numpy as np
import pytest
import yaml
from closed_loop import until
from mlflow.models import infer_signature
from mlflow_server import MlflowServer, mlflow_server
from rayfleet_up import RAYFLEET, RayfleetUp
from scipy.stats import binomtest

from rayfleet_operator.api.status import ModelDeploymentStatus

pytestmark = pytest.mark.timeout(600)

ROWS = np.arange(8.0).reshape(4, 2)
RATE = 50.0
"""Requests a second."""
GOOD, ALSO_GOOD, RAISING, SLOW, BROKEN, CRASHING = "1", "2", "3", "4", "5", "6"
STEPS = [{"weight": 10, "hold": "6s"}, {"weight": 50, "hold": "6s"}]
ROLLOUT = {
    "strategy": "Canary",
    "steps": STEPS,
    "scaleDownDelay": "2s",
    "progressDeadline": "20s",
    "sticky": {"header": "x-user"},
    "analysis": {
        "minRequests": 20,
        "errorRate": {"max": "1%"},
        "latency": {"percentile": 90, "maxRatioToStable": 2},
    },
}


class Behaving(mlflow.pyfunc.PythonModel):
    """Answers at leisure; how, says its kind."""

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
        return model_input.sum(axis=1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory) as server:
        yield server


# The class goes into the model as it is: nobody can import this file where it is loaded.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def versions(registry: MlflowServer) -> mlflow.MlflowClient:
    """Of the model "ladder", in the order of the constants above; `champion` is on the first."""
    mlflow.set_tracking_uri(registry.uri)
    for kind in ("good", "good", "raising", "slow", "broken", "crashing"):
        with mlflow.start_run():
            mlflow.pyfunc.log_model(
                name="model",
                python_model=Behaving(kind),
                registered_model_name="ladder",
                signature=infer_signature(ROWS, ROWS.sum(axis=1)),
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

    def write_rollout(self, rollout: dict[str, Any]) -> None:
        model = {
            "uri": "models:/ladder@champion",
            "registry": {"trackingUri": self.uri, "pollInterval": "1s"},
            "allowCodeExecution": True,
        }
        spec = {"model": model, "batching": {"maxBatchSize": 1}, "rollout": rollout}
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


@pytest.fixture(scope="module")
def ladder(
    registry: MlflowServer, versions: mlflow.MlflowClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ladder]:
    folder = tmp_path_factory.mktemp("rollouts")
    (folder / "models").mkdir()
    up = RayfleetUp([folder / "models"], folder=folder / "up")
    ladder = Ladder(up, folder / "models" / "ladder.yaml", versions, registry.uri)
    ladder.write()
    with up:
        up.wait_ready("ladder")
        yield ladder


@pytest.fixture(autouse=True)
async def at_rest(ladder: Ladder) -> None:
    """Each test begins with the first version alone, and with the file as it was."""
    ladder.write_rollout({"strategy": "Immediate"})
    ladder.wants(GOOD)
    await ladder.until("version 1 has everything", lambda: ladder.settled(GOOD))
    ladder.write()


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
    seen, stop = Seen(), asyncio.Event()
    async with httpx.AsyncClient(base_url=ladder.up.url, timeout=60, trust_env=False) as client:

        async def ask(number: int) -> None:
            user, sent = f"user-{number % users}", time.monotonic()
            try:
                answer = await client.post(
                    "/ladder/predict", json={"instances": [[1.0, 2.0]]}, headers={"x-user": user}
                )
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


async def test_a_good_version_gets_its_share_at_each_step_and_then_everything(ladder: Ladder) -> None:
    async with callers(ladder, ALSO_GOOD, users=100_000) as seen:
        ladder.wants(ALSO_GOOD)
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    print(f"\n{len(seen.answers)} requests, weights {[weight for _, weight in seen.weights]}")
    assert seen.failed == []
    assert [weight for _, weight in seen.weights] == [0, 10, 50, 100]
    for weight in (10, 50):
        answered = seen.during(weight)
        new = answered.count(ALSO_GOOD)
        found = binomtest(new, len(answered), weight / 100)
        low, high = found.proportion_ci(0.99)
        print(f"weight {weight}: {new} of {len(answered)} by the candidate; 99 % interval {low:.3f} to {high:.3f}")
        assert len(answered) > 60
        # The interval above misses one right split in a hundred, this one in ten thousand.
        assert found.pvalue > 1e-4
    assert ladder.status.history[0].outcome == "Succeeded"
    assert ladder.status.history[0].version == ALSO_GOOD


async def test_no_user_goes_back_while_weights_grow(ladder: Ladder) -> None:
    async with callers(ladder, ALSO_GOOD, users=60) as seen:
        ladder.wants(ALSO_GOOD)
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    by_user: dict[str, list[str]] = {}
    for _, version, status, user in sorted(seen.answers):
        assert status == 200
        by_user.setdefault(user, []).append(version)
    back = [user for user, found in by_user.items() if GOOD in found[found.index(ALSO_GOOD) :]]
    # Two routers take a new table a moment after each other.
    changes = Counter(sum(a != b for a, b in itertools.pairwise(found)) for found in by_user.values())
    print(f"\n{len(by_user)} users, by how often they changed versions {dict(changes)}")
    assert len(back) <= 1


@pytest.mark.parametrize(
    ("version", "ended", "step"),
    [
        pytest.param(RAISING, "AnalysisFailed", 50, id="raises on one request in twenty"),
        pytest.param(SLOW, "AnalysisFailed", 10, id="three times slower"),
        pytest.param(BROKEN, "ProgressDeadlineExceeded", 0, id="never loads"),
        pytest.param(CRASHING, "", 10, id="crashes under load"),
    ],
)
async def test_a_bad_version_is_stopped_where_it_can_be_seen(
    ladder: Ladder, version: str, ended: str, step: int
) -> None:
    async with callers(ladder, version) as seen:
        ladder.wants(version)
        await ladder.until("it is given up", lambda: ladder.given_up, 120)
        asked = len(seen.answers)
        await ladder.until("requests go on", lambda: len(seen.answers) > asked + 100)
    last = max((at for at, answered, _, _ in seen.answers if answered == version), default=0.0)
    over = next((at for at, weight in reversed(seen.weights) if weight == 0), 0.0)
    share = sum(answered == version for _, answered, _, _ in seen.answers) / len(seen.answers)
    rollout = ladder.status.rollout
    assert rollout is not None
    print(
        f"\n{rollout.ended}: {rollout.message}; weights {[weight for _, weight in seen.weights]}, "
        f"{len(seen.failed)} of {len(seen.answers)} requests failed, {100 * share:.1f} % went to it, "
        f"the last one {last - over:+.1f} s after it had no weight"
    )
    assert rollout.ended == ended or not ended
    assert max(weight for _, weight in seen.weights) <= step
    assert last < over + 10
    assert {answered for at, answered, _, _ in seen.answers if at > over + 1} <= {GOOD}
    assert all(answered in (version, "") for _, answered, _, _ in seen.failed), "only its own users were hit"
    assert ladder.reason("Degraded") == "RolledBack"
    assert ladder.status.history[0].outcome == "RolledBack"
    assert ladder.reason("Ready") == "Serving"


async def test_without_requests_it_waits_and_goes_on_when_they_come(ladder: Ladder) -> None:
    ladder.wants(ALSO_GOOD)
    await ladder.until("nothing can be concluded", lambda: ladder.reason() == "Inconclusive")
    assert ladder.weights == {GOOD: 90, ALSO_GOOD: 10}
    assert "at least 20 requests" in ladder.say("status")
    async with callers(ladder, ALSO_GOOD) as seen:
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    assert seen.failed == []


async def test_somebody_decides(ladder: Ladder) -> None:
    """Pause, promote, abort, retry: what a terminal says holds."""
    ladder.write(analysis=None, steps=[{"weight": 10}, {"weight": 50}])
    ladder.wants(ALSO_GOOD)
    await ladder.until("it waits for somebody", lambda: ladder.reason() == "Paused" and ladder.weights[ALSO_GOOD] == 10)
    ladder.say("promote")
    await ladder.until("it waits again", lambda: ladder.reason() == "Paused" and ladder.weights[ALSO_GOOD] == 50)
    ladder.say("abort")
    await ladder.until("it is given up", lambda: ladder.given_up == "Aborted")
    assert ladder.weights == {GOOD: 100}
    ladder.say("retry")
    await ladder.until("it begins anew", lambda: ladder.reason() == "Paused" and ladder.weights.get(ALSO_GOOD) == 10)
    ladder.say("promote", "--all")
    await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    told = ladder.say("history").splitlines()
    assert ["Succeeded" in told[0], "Aborted" in told[1]] == [True, True]
    ladder.say("rollback")
    await ladder.until("version 1 has everything again", lambda: ladder.settled(GOOD))
    ladder.say("retry")
    await ladder.until("it begins anew", lambda: ladder.reason() == "Paused" and ladder.weights.get(ALSO_GOOD) == 10)
    ladder.say("rollback")
    await ladder.until("it is given up", lambda: ladder.given_up == "Aborted")
    assert ladder.weights == {GOOD: 100}


async def test_blue_green_can_be_tried_out_before_it_has_any_request(ladder: Ladder) -> None:
    ladder.write(strategy="BlueGreen", steps=[], sticky=None, analysis=None)
    ladder.wants(ALSO_GOOD)
    await ladder.until("it waits for somebody", lambda: ladder.reason() == "Paused")
    assert ladder.weights == {GOOD: 100, ALSO_GOOD: 0}
    async with callers(ladder, ALSO_GOOD) as seen:
        async with httpx.AsyncClient(base_url=ladder.up.url, trust_env=False) as client:
            body, named = {"instances": [[1.0, 2.0]]}, {"x-rayfleet-model-version": ALSO_GOOD}
            answer = await client.post("/ladder/predict", json=body, headers=named)
        assert (answer.status_code, answer.headers["x-rayfleet-model-version"]) == (200, ALSO_GOOD)
        ladder.say("promote")
        await ladder.until("version 2 has everything", lambda: ladder.settled(ALSO_GOOD))
    assert seen.failed == []
    assert [weight for _, weight in seen.weights] == [0, 100]


async def test_going_back_under_way_takes_no_time(ladder: Ladder) -> None:
    ladder.write(analysis=None, steps=[{"weight": 50}])
    async with callers(ladder, ALSO_GOOD) as seen:
        ladder.wants(ALSO_GOOD)
        await ladder.until("half", lambda: ladder.weights.get(ALSO_GOOD) == 50 and ladder.reason() == "Paused")
        ladder.wants(GOOD)
        await ladder.until("version 1 has everything", lambda: ladder.settled(GOOD))
    assert seen.failed == []
    assert ladder.status.history[0].outcome == "Superseded"
    assert ladder.status.rollout is None
