"""Versions beside the model's own on a real Ray: shares, callers that stay, and copies that are compared."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
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
from rayfleet_up import RayfleetUp
from scipy.stats import binomtest

from rayfleet_operator.api.status import ModelDeploymentStatus

pytestmark = pytest.mark.timeout(600)

ROWS = np.arange(8.0).reshape(4, 2)
PLAIN, TILTED, SLEEPING, RAISING = "1", "2", "3", "4"
SLEEP_S = 5.0
NAMED = "x-rayfleet-model-version"


def plain(rows: np.ndarray) -> np.ndarray:
    """Which of the two columns is larger."""
    larger: np.ndarray = (rows[:, 0] > rows[:, 1]).astype(np.int64)
    return larger


def tilted(rows: np.ndarray) -> np.ndarray:
    larger: np.ndarray = (1.4 * rows[:, 0] > rows[:, 1]).astype(np.int64)
    return larger


class Comparing(mlflow.pyfunc.PythonModel):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        import time

        # Rows of zeros are what it is warmed up with.
        if self.kind == "sleeping" and model_input.any():
            time.sleep(5.0)
        if self.kind == "raising" and model_input.any():
            raise ValueError("every time")
        factor = 1.4 if self.kind == "tilted" else 1.0
        return (factor * model_input[:, 0] > model_input[:, 1]).astype("int64")


cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory) as server:
        mlflow.set_tracking_uri(server.uri)
        for kind in ("plain", "tilted", "sleeping", "raising"):
            with mlflow.start_run():
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=Comparing(kind),
                    registered_model_name="pair",
                    signature=infer_signature(ROWS, plain(ROWS)),
                    pip_requirements=[],
                )
        mlflow.MlflowClient(server.uri).set_registered_model_alias("pair", "champion", PLAIN)
        yield server


class Pair:
    """The model, its file, and those who ask it."""

    def __init__(self, up: RayfleetUp, file: Path, uri: str) -> None:
        self.up, self.file, self.uri = up, file, uri

    def write(self, *versions: dict[str, Any], **traffic: Any) -> None:
        """Traffic with these named versions; without any, none."""
        model = {
            "uri": "models:/pair@champion",
            "registry": {"trackingUri": self.uri, "pollInterval": "1s"},
            "allowCodeExecution": True,
        }
        spec = {"model": model, "resources": {"cpu": "0.2"}, "batching": {"maxBatchSize": 1}}
        spec |= {"traffic": {"versions": list(versions), **traffic}} if versions else {}
        head = {"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "pair"}}
        self.file.write_text(yaml.safe_dump({**head, "spec": spec}))

    @property
    def status(self) -> ModelDeploymentStatus:
        up = self.up.state()
        return up.status.statuses.get("pair", ModelDeploymentStatus()) if up else ModelDeploymentStatus()

    async def settled(self, **shares: tuple[str, int, int]) -> None:
        """Version, weight and mirror by name, of those that are named; the model's own has the rest."""

        def so() -> bool:
            found = {
                each.traffic: (each.name, each.weight, each.mirror) for each in self.status.versions if each.traffic
            }
            reason = next((each.reason for each in self.status.conditions if each.type == "Progressing"), "")
            return found == shares and reason == "Settled"

        await until(f"traffic is {shares}; {self.up.output[-2000:]}", so, 120)

    def router_log(self) -> str:
        up = self.up.state()
        assert up is not None
        assert up.folder is not None
        logs = Path(up.folder).glob("**/logs/serve/replica_router_*.log")
        return "".join(log.read_text() for log in logs)

    async def ask(self, client: httpx.AsyncClient, row: np.ndarray, **headers: str) -> httpx.Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return await client.post("/pair/predict", json={"instances": [row.tolist()]}, headers=named)

    async def counted(self, client: httpx.AsyncClient, version: str, name: str, **labels: str) -> float:
        """A counter's sum over all routers."""
        text = (await client.get("/metrics")).text
        wanted = ['model="pair"', f'version="{version}"', *(f'{key}="{value}"' for key, value in labels.items())]
        lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
        return sum(float(line.split()[-1]) for line in lines if all(each in line for each in wanted))


@pytest.fixture(scope="module")
def pair(registry: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("traffic")
    (folder / "models").mkdir()
    up = RayfleetUp([folder / "models"], folder=folder / "up")
    pair = Pair(up, folder / "models" / "pair.yaml", registry.uri)
    pair.write()
    with up:
        up.wait_ready("pair")
        yield pair


@pytest.fixture
async def client(pair: Pair) -> Any:
    async with httpx.AsyncClient(base_url=pair.up.url, timeout=30, trust_env=False) as client:
        yield client


def questions(number: int) -> np.ndarray:
    """Rows in which neither model has a tie."""
    return np.random.default_rng(7).uniform(0.1, 1.0, (number, 2)).round(6)


async def test_a_named_version_answers_its_share(pair: Pair, client: httpx.AsyncClient) -> None:
    pair.write({"name": "b", "uri": f"models:/pair/{TILTED}", "weight": 30})
    await pair.settled(b=(TILTED, 30, 0))
    answered = Counter([(await pair.ask(client, row)).headers[NAMED] for row in questions(400)])
    found = binomtest(answered[TILTED], 400, 0.3)
    low, high = found.proportion_ci(0.99)
    print(f"\nweight 30: {answered[TILTED]} of 400; 99 % interval {low:.3f} to {high:.3f}")
    # The interval above misses one right split in a hundred, this one in ten thousand.
    assert found.pvalue > 1e-4
    assert answered.keys() == {PLAIN, TILTED}


async def test_a_tester_gets_the_version_that_they_name(pair: Pair, client: httpx.AsyncClient) -> None:
    pair.write({"name": "test", "uri": f"models:/pair/{TILTED}"})
    await pair.settled(test=(TILTED, 0, 0))
    for row in questions(20):
        assert (await pair.ask(client, row)).headers[NAMED] == PLAIN
        named = await pair.ask(client, row, **{NAMED: "test"})
        assert (named.status_code, named.headers[NAMED]) == (200, TILTED)


async def test_callers_stay_while_weights_grow(pair: Pair, client: httpx.AsyncClient) -> None:
    users = [f"user-{number}" for number in range(100)]
    (row,) = questions(1)
    before: set[str] = set()
    for weight in (10, 40, 80):
        version = {"name": "b", "uri": f"models:/pair/{TILTED}", "weight": weight}
        pair.write(version, sticky={"header": "x-user"})
        await pair.settled(b=(TILTED, weight, 0))
        twice = [
            {user for user in users if (await pair.ask(client, row, x_user=user)).headers[NAMED] == TILTED}
            for _ in range(2)
        ]
        assert twice[0] == twice[1]
        assert before <= twice[0]
        before = twice[0]
    assert 60 <= len(before) <= 95


async def test_a_mirror_says_how_often_it_would_have_answered_differently(
    pair: Pair, client: httpx.AsyncClient
) -> None:
    pair.write({"name": "shadow", "uri": f"models:/pair/{TILTED}", "mirror": 100})
    await pair.settled(shadow=(TILTED, 0, 100))
    rows = questions(500)
    names = ("rayfleet_mirror_rows_total", "rayfleet_mirror_differing_rows_total")
    before = [await pair.counted(client, TILTED, name) for name in names]
    answers = [await pair.ask(client, row) for row in rows]
    assert {answer.headers[NAMED] for answer in answers} == {PLAIN}
    found: list[float] = []

    async def all_compared() -> bool:
        found[:] = [await pair.counted(client, TILTED, name) - was for name, was in zip(names, before, strict=True)]
        return found[0] >= len(rows)

    end = time.monotonic() + 30
    while not await all_compared():
        assert time.monotonic() < end, f"{found[0]} of {len(rows)} were compared"
        await asyncio.sleep(0.2)
    offline = int((plain(rows) != tilted(rows)).sum())
    print(f"\n{found[1]:.0f} of {found[0]:.0f} answers differ; offline {offline} of {len(rows)}")
    assert offline > 50
    assert found == [len(rows), offline]


@pytest.mark.parametrize(("version", "outcome"), [(SLEEPING, "dropped"), (RAISING, "failed")])
async def test_what_becomes_of_a_mirror_is_nothing_to_those_who_ask(
    pair: Pair, client: httpx.AsyncClient, version: str, outcome: str
) -> None:
    pair.write({"name": "shadow", "uri": f"models:/pair/{version}", "mirror": 100})
    await pair.settled(shadow=(version, 0, 100))
    longest = 0.0

    async def ask(row: np.ndarray) -> None:
        nonlocal longest
        began = time.monotonic()
        answer = await pair.ask(client, row)
        longest = max(longest, time.monotonic() - began)
        assert (answer.status_code, answer.headers[NAMED]) == (200, PLAIN)

    for rows in np.split(questions(400), 20):
        await asyncio.gather(*map(ask, rows))
    assert longest < SLEEP_S, "an answer waited for the copy"
    assert await pair.counted(client, version, "rayfleet_mirror_requests_total", outcome=outcome) > 0
    if outcome == "failed":
        await until("the router's log says why", lambda: "every time" in pair.router_log(), 20)
    pair.write()
    await pair.settled()
