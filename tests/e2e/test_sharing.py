"""Three models on one GPU by one apply, a fourth on a second worker, a fifth that is refused; and one that sleeps.

The node only says that it has GPUs: shares are placed and counted as on real ones, and the models run on the CPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from cluster.deadline import until

from e2e.conftest import SMALL
from e2e.registry import Registry
from e2e.scene import ROWS, START_S, Scene
from e2e.traffic import Traffic

SHARES = {"large": "0.5", "medium": "0.3", "small": "0.2"}
ANSWER = 3.0
TOGETHER = """
import asyncio, json, sys, time
import httpx

url, body, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])

async def main():
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(timeout=150, trust_env=False, limits=limits) as client:
        async def one():
            began = time.time()
            try:
                status = (await client.post(url, json=body)).status_code
            except Exception as error:
                status = f"{type(error).__name__}: {error}"
            return status, time.time() - began
        print(json.dumps(await asyncio.gather(*(one() for _ in range(count)))))

asyncio.run(main())
"""


@pytest.fixture(scope="module", autouse=True)
def shared(scene: Scene, models: Registry) -> None:
    """One fleet whose worker has one GPU; a second such worker may come."""
    models.linear("three", ANSWER)
    worker = {"spec": {"containers": [{"name": "ray-worker", "resources": {"requests": SMALL["requests"]}}]}}
    group = {"name": "card", "minReplicas": 1, "maxReplicas": 2, "cpu": "2", "memory": "3Gi", "gpu": 1}
    scene.apply(
        scene.fleet("cards", workerGroups=[{**group, "template": worker}], routers={"replicas": 2, "cpu": "0.1"}),
        *(_model(scene, name, share) for name, share in SHARES.items()),
    )
    for name in SHARES:
        scene.settled(name)


@pytest.fixture
def undisturbed(scene: Scene) -> Iterator[Traffic]:
    """Requests to the largest of the three: not one may fail."""
    with scene.traffic("cards", "large", rate=10) as traffic:
        yield traffic
        report = traffic.stop()
    print(report)
    assert report.failed == []


def _model(scene: Scene, name: str, share: str) -> dict[str, object]:
    return scene.model(name, "models:/three@champion", fleet="cards", resources={"cpu": "0.1", "gpu": share})


def test_three_models_share_one_gpu(scene: Scene) -> None:
    for name in SHARES:
        scene.answers("cards", name, ANSWER)
    places = scene.places("cards")
    workers = {address for app, found in places.items() if app.split("-")[0] in SHARES for address in found}
    assert len(workers) == 1
    assert len(scene.workers("cards")) == 1


def test_a_fourth_gets_a_second_worker(scene: Scene, undisturbed: Traffic) -> None:
    began = time.monotonic()
    scene.apply(_model(scene, "fourth", "0.6"))
    scene.settled("fourth", seconds=START_S)
    print(f"a second worker served after {time.monotonic() - began:.1f} s")
    assert len(scene.workers("cards")) == 2
    scene.answers("cards", "fourth", ANSWER)


def test_a_fifth_that_fits_nowhere_is_refused_with_the_arithmetic(scene: Scene, undisturbed: Traffic) -> None:
    began = time.monotonic()
    scene.apply(_model(scene, "fifth", "0.7"))
    said = scene.wait("fifth", "Degraded", "True", reason="InsufficientCapacity", seconds=120)
    print(f"refused after {time.monotonic() - began:.1f} s: {said['message']}")
    assert "0.7 GPU" in said["message"]
    assert "0.4" in said["message"], "what is free"
    scene.wait("fifth", "Ready", "False", seconds=10)
    assert "fifth" not in {app.split("-")[0] for app in scene.places("cards")}
    for name in [*SHARES, "fourth"]:
        scene.wait(name, seconds=10)
    scene.kubectl("delete", "modeldeployment", "fifth", "-n", scene.namespace)


def test_of_a_hundred_requests_that_wake_a_model_none_is_lost(scene: Scene, undisturbed: Traffic) -> None:
    scaling = {"minReplicas": 0, "maxReplicas": 1, "downscaleDelay": "5s", "lookBackPeriod": "5s"}
    sleeper = scene.model(
        "sleeper",
        "models:/three@champion",
        fleet="cards",
        resources={"cpu": "0.1"},
        autoscaling=scaling,
        limits={"requestTimeout": "120s"},
    )
    scene.apply(sleeper)
    scene.settled("sleeper")
    until("it sleeps", lambda: scene.get("modeldeployment", "sleeper")["status"]["replicas"] == 0, 120, every=0.5)
    assert scene.condition("sleeper", "Ready")["status"] == "True"
    worker = scene.workers("cards")[0]["metadata"]["name"]
    url = scene.url("cards", "/sleeper/invocations")
    where = ("exec", "-n", scene.namespace, worker, "-c", "ray-worker", "--")
    out = scene.kubectl(*where, "python", "-c", TOGETHER, url, json.dumps(ROWS), "100", timeout=200)
    answers = json.loads(out)
    times = sorted(took for _, took in answers)
    print(f"{len(answers)} together at a sleeping model: first {times[0]:.1f} s, last {times[-1]:.1f} s")
    assert [status for status, _ in answers] == [200] * 100
