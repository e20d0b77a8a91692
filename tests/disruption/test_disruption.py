"""What callers see while the world moves: an alias, a dead replica, a registry that is down.

`RAYFLEET_LOAD_S` sets how long the load of the alias test lasts (seconds); `-s` shows the figures.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import mlflow
import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pytest
import yaml
from closed_loop import closed_loop, until
from mlflow.models import infer_signature
from mlflow_server import MlflowServer, mlflow_server
from rayfleet_up import RayfleetUp
from relay import Relay
from sklearn.linear_model import LinearRegression

pytestmark = pytest.mark.timeout(600)

LOAD_S = float(os.environ.get("RAYFLEET_LOAD_S", "8"))
ROWS = np.arange(8.0).reshape(4, 2)
BODY = {"instances": [[1.0, 2.0]]}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="module")
def door(registry: MlflowServer) -> Iterator[Relay]:
    """Where `rayfleet up` finds the registry."""
    with Relay(registry.port) as relay:
        yield relay


@pytest.fixture(scope="module")
def versions(registry: MlflowServer) -> mlflow.MlflowClient:
    """Versions 1 and 2 of the model "line"; `champion` is on 1."""
    mlflow.set_tracking_uri(registry.uri)
    for slope in (1.0, 2.0):
        model = LinearRegression().fit(ROWS, slope * ROWS.sum(axis=1))
        with mlflow.start_run():
            mlflow.sklearn.log_model(
                model, name="model", registered_model_name="line", signature=infer_signature(ROWS), pip_requirements=[]
            )
    client = mlflow.MlflowClient(registry.uri)
    client.set_registered_model_alias("line", "champion", "1")
    return client


@dataclass(frozen=True)
class Waiting:
    """What callers saw while the registry was down and nothing had been resolved yet."""

    answer: httpx.Response
    ready: list[object]
    """What the server's and the model's readiness endpoints answered."""


@pytest.fixture(scope="module")
def started(
    door: Relay, versions: mlflow.MlflowClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RayfleetUp, Waiting]]:
    """Started while the registry was down, which came up then; version 1 is live."""
    folder = tmp_path_factory.mktemp("disruption")
    (folder / "models").mkdir()
    (folder / "models" / "line.yaml").write_text(yaml.safe_dump(deployment(door, "line@champion", replicas=2)))
    door.shut()
    with RayfleetUp([folder / "models"], folder=folder / "up") as up:
        up.wait("the table says so", lambda: "RegistryUnreachable" in str(up.model("line")))
        up.wait("the routers know its name", lambda: predict(up).status_code == 503)
        paths = ("/v2/health/ready", "/v2/models/line/ready")
        waiting = Waiting(predict(up), [httpx.get(up.url + path, timeout=60, trust_env=False).json() for path in paths])
        door.open()
        up.wait_ready("line")
        yield up, waiting


@pytest.fixture
def up(started: tuple[RayfleetUp, Waiting]) -> RayfleetUp:
    return started[0]


def deployment(registry: Relay, version: str, name: str = "line", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "rayfleet.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {
                "uri": f"models:/{version}",
                "registry": {"trackingUri": registry.uri, "pollInterval": "1s"},
            },
            **spec,
        },
    }


def predict(up: RayfleetUp, name: str = "line") -> httpx.Response:
    return httpx.post(f"{up.url}/{name}/predict", json=BODY, timeout=60, trust_env=False)


def test_a_registry_that_is_down_at_start_is_waited_for(started: tuple[RayfleetUp, Waiting]) -> None:
    up, waiting = started
    assert waiting.answer.status_code == 503
    assert "no version to answer yet" in waiting.answer.json()["error"]
    assert int(waiting.answer.headers["retry-after"]) >= 1
    assert waiting.ready == [{"ready": False}, {"ready": False}]
    assert predict(up).json()["predictions"] == [pytest.approx(3.0)]


async def test_an_alias_moves_under_load_and_no_request_fails(up: RayfleetUp, versions: mlflow.MlflowClient) -> None:
    begin = time.monotonic()
    async with closed_loop(up.url, "/line/predict", BODY) as load:
        await until("load", lambda: len(load.answers) > 100)
        assert load.versions() == {"1"}
        versions.set_registered_model_alias("line", "champion", "2")
        moved = time.monotonic()
        await until("version 2 answers", lambda: "2" in load.versions())
        first = time.monotonic()
        await asyncio.to_thread(up.wait_version, "line", "2")
        switched = time.monotonic()
        await until("the load is over", lambda: time.monotonic() > max(begin + LOAD_S, switched + 2))
    print(
        f"\nalias under load: {load.summary()}; first answer of 2 after {first - moved:.1f} s, alone after "
        f"{switched - moved:.1f} s"
    )
    assert load.failed == []
    assert load.versions(sent_after=switched) == {"2"}
    assert predict(up).json()["predictions"] == [pytest.approx(6.0)]


async def test_an_upload_that_spans_the_switch_is_answered(up: RayfleetUp, versions: mlflow.MlflowClient) -> None:
    """Its version was chosen before the switch, so the version stays until the body is complete."""
    shown = up.model("line")
    assert shown is not None
    other = "1" if shown.versions[0].version == "2" else "2"
    moved = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        # More than HAProxy's buffer holds: it keeps a smaller request until that is there as a whole.
        yield b'{"instances": ' + b" " * 200_000
        await moved.wait()
        yield b"[[1.0, 2.0]]}"

    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        headers = {"content-type": "application/json"}
        upload = asyncio.ensure_future(client.post(f"{up.url}/line/predict", content=slowly(), headers=headers))
        await until("the upload is under way", lambda: ongoing(up) == 1)
        versions.set_registered_model_alias("line", "champion", other)
        await until("the switch", lambda: predict(up).headers["x-rayfleet-model-version"] == other)
        moved.set()
        answer = await upload
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-rayfleet-model-version"] != other
    await asyncio.to_thread(up.wait_version, "line", other)


def ongoing(up: RayfleetUp) -> int:
    routers = httpx.get(f"{up.url}/rayfleet/traffic", timeout=60, trust_env=False).json()["routers"]
    return sum(version["ongoing"] for router in routers for version in router["versions"].values())


def test_a_silent_replica_hides_no_other_from_the_metrics(up: RayfleetUp) -> None:
    up.wait("only the live version's replicas", lambda: len(up.replicas("line")) == 2)
    pids = up.replicas("line")

    def seen() -> int:
        text = httpx.get(f"{up.url}/metrics", timeout=30).text
        return len(set(re.findall(r'^rayfleet_replica_queued_rows{model="line",replica="([^"]+)"', text, re.MULTILINE)))

    up.wait("both are seen", lambda: seen() == 2)
    os.kill(pids[0], signal.SIGSTOP)
    try:
        assert seen() == 1
    finally:
        os.kill(pids[0], signal.SIGCONT)
    up.wait("both are seen again", lambda: seen() == 2)


async def test_one_of_two_replicas_is_killed_under_load_and_no_request_fails(up: RayfleetUp) -> None:
    await until("only the live version's replicas", lambda: len(up.replicas("line")) == 2)
    pids = up.replicas("line")
    async with closed_loop(up.url, "/line/predict", BODY) as load:
        await until("load", lambda: len(load.answers) > 100)
        os.kill(pids[0], signal.SIGKILL)
        killed = time.monotonic()
        await until("a new replica", lambda: len(set(up.replicas("line")) - set(pids)) == 1)
        await until("more load", lambda: time.monotonic() > killed + 5)
    print(f"\none of two replicas killed: {load.summary()}")
    assert load.failed == []


async def test_the_registry_goes_down_and_comes_back(
    up: RayfleetUp, door: Relay, versions: mlflow.MlflowClient
) -> None:
    shown = up.model("line")
    assert shown is not None
    before = shown.versions[0].version
    async with closed_loop(up.url, "/line/predict", BODY, clients=4) as load:
        door.shut()
        await asyncio.to_thread(up.wait, "the table says so", lambda: "RegistryUnreachable" in str(up.model("line")))
        seen = len(load.answers)
        await until("answers without a registry", lambda: len(load.answers) > seen + 200)
        # What was never resolved cannot be served yet, and is in nobody's way.
        later = up.folder.parent / "models" / "later.yaml"
        later.write_text(yaml.safe_dump(deployment(door, "line/1", "later")))
        # A replica that starts now loads from the cache.
        await until("both replicas", lambda: len(up.replicas("line")) == 2)
        (victim, *_) = up.replicas("line")
        os.kill(victim, signal.SIGKILL)
        await until("a new replica", lambda: len(up.replicas("line")) == 2 and victim not in up.replicas("line"))
        await asyncio.to_thread(
            up.wait, "later has no version", lambda: "RegistryUnreachable" in str(up.model("later"))
        )
        await until("it is not ready", lambda: not ready(up, "/v2/models/later/ready"))
        assert ready(up, "/v2/health/ready")
        door.open()
        other = "1" if before == "2" else "2"
        versions.set_registered_model_alias("line", "champion", other)
        await asyncio.to_thread(up.wait_version, "line", other)
    print(f"\nregistry down and back: {load.summary()}")
    assert load.failed == []
    await asyncio.to_thread(up.wait_ready, "line", "later")
    assert [predict(up, name).json()["predictions"] for name in ("line", "later")] == [
        [pytest.approx(3.0 * int(other))],
        [pytest.approx(3.0)],
    ]
    later.unlink()
    await asyncio.to_thread(up.wait, "later is gone", lambda: up.model("later") is None)


def ready(up: RayfleetUp, path: str) -> bool:
    answer = httpx.get(up.url + path, timeout=60, trust_env=False)
    assert (answer.status_code == 200) == answer.json().get("ready")
    return answer.status_code == 200


async def test_routers_are_replaced_under_load_and_no_request_fails(up: RayfleetUp) -> None:
    before = set(up.replicas("router"))
    assert len(before) == 2
    fleet = {"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelFleet", "metadata": {"name": "fleet"}}
    async with closed_loop(up.url, "/line/predict", BODY) as load:
        await until("load", lambda: len(load.answers) > 100)
        written = up.folder.parent / "models" / "fleet.yaml"
        written.write_text(yaml.safe_dump(fleet | {"spec": {"routers": {"cpu": "300m"}}}))
        await until("two new routers", lambda: len(set(up.replicas("router")) - before) == 2)
        await until("the old ones are gone", lambda: not before & set(up.replicas("router")))
        seen = len(load.answers)
        await until("more load", lambda: len(load.answers) > seen + 200)
    print(f"\nrouters replaced: {load.summary()}")
    assert load.failed == []


class Code(mlflow.pyfunc.PythonModel):
    """A pickle, and this ModelDeployment does not allow code from artifacts."""

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        return model_input


async def test_a_version_that_may_not_be_loaded_never_takes_traffic(
    up: RayfleetUp, registry: MlflowServer, versions: mlflow.MlflowClient
) -> None:
    mlflow.set_tracking_uri(registry.uri)
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="model",
            python_model=Code(),
            registered_model_name="line",
            signature=infer_signature(ROWS),
            pip_requirements=[],
        )
    async with closed_loop(up.url, "/line/predict", BODY, clients=4) as load:
        await until("load", lambda: len(load.answers) > 20)
        versions.set_registered_model_alias("line", "champion", "3")
        await asyncio.to_thread(up.wait, "the table says why", lambda: "allowCodeExecution" in str(up.model("line")))
    assert load.failed == []
    assert "3" not in load.versions()
    shown = up.model("line")
    assert shown is not None
    assert {(each.version, each.weight) for each in shown.versions} >= {("3", 0)}
    assert shown.condition("Ready").status == "True"


def test_sigterm_ends_it_and_leaves_nothing(up: RayfleetUp) -> None:
    """The last test here: it ends what the others need."""
    assert up.process is not None
    assert up.marked()
    up.interrupt(signal.SIGTERM)
    assert up.process.wait(20) == 0
    assert not up.marked()
    assert "Nothing is left running." in up.output
