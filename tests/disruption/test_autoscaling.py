"""The number of replicas follows the load, on a real Ray: up, down, to zero and back, and nobody loses a request."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow.pyfunc
import numpy as np
import pytest
import yaml
from closed_loop import closed_loop, until
from mlflow.models import infer_signature
from model_files import write_model
from rayfleet_up import RayfleetUp

from rayfleet_operator.plan.observed import ObservedApp
from rayfleet_operator.ray.serve import ServeClient
from rayfleet_serving.config import POLICY_IMPORT_PATH

pytestmark = pytest.mark.timeout(600)

BODY = {"instances": [[1.0, 2.0]]}
SLOW_S = 0.05
QUICK = {"lookBackPeriod": "2s", "upscaleDelay": "1s", "downscaleDelay": "3s"}
SMALL = {"resources": {"cpu": "0.05"}, "batching": {"maxBatchSize": 1, "maxWait": "0s"}}
FIXED = {"replicas": 1}

CODE = f"""
import time
import mlflow.pyfunc

class Slow(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        time.sleep({SLOW_S})
        return model_input.sum(axis=1)

mlflow.models.set_model(Slow())
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes 50 ms for each request, without any CPU."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.py").write_text(CODE)
    signature = infer_signature(np.zeros((2, 2)), np.zeros(2))
    mlflow.pyfunc.save_model(
        folder / "model", python_model=str(folder / "slow.py"), signature=signature, pip_requirements=[]
    )
    return folder / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("autoscaling")


def write(folder: Path, name: str, model: Path, **spec: Any) -> None:
    """Serve it with this, from now on."""
    both = {**SMALL, **spec, "model": {"uri": str(model), "allowCodeExecution": True}}
    write_model(folder / "models", name, model, **both)


@pytest.fixture(scope="module")
def up(slow: Path, folder: Path) -> Iterator[RayfleetUp]:
    (folder / "models").mkdir()
    write(folder, "steady", slow, **FIXED)
    # So that Ray finds `rubbish`.
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {"PYTHONPATH": os.pathsep.join(paths)}
    with RayfleetUp([folder / "models"], folder=folder / "up", env=env) as up:
        up.wait_ready("steady")
        yield up


def told(up: RayfleetUp, name: str) -> str:
    shown = up.model(name)
    return shown.scaling if shown is not None else ""


async def ready(up: RayfleetUp, name: str) -> None:
    await asyncio.to_thread(up.wait_ready, name)


def scaling(**more: Any) -> dict[str, Any]:
    return {"autoscaling": {"maxReplicas": 3, **QUICK, **more}}


async def test_more_requests_get_more_replicas_and_fewer_give_them_back(
    up: RayfleetUp, folder: Path, slow: Path
) -> None:
    write(folder, "waves", slow, **scaling(targetOngoingRequests=2))
    await ready(up, "waves")
    assert len(up.replicas("waves")) == 1
    seen: list[int] = []
    async with closed_loop(up.url, "/waves/predict", BODY, clients=8) as load:
        await until("three replicas", lambda: seen.append(len(up.replicas("waves"))) or seen[-1] == 3)
    async with closed_loop(up.url, "/waves/predict", BODY, clients=1) as calm:
        await until("one replica", lambda: seen.append(len(up.replicas("waves"))) or seen[-1] == 1)
    print(f"\nup: {load.summary()}; down: {calm.summary()}")
    assert load.failed == []
    assert calm.failed == []
    steps = [after - before for before, after in itertools.pairwise(seen) if after != before]
    assert steps == sorted(steps, reverse=True), f"up, then down, and nothing else: {seen}"
    assert up.replicas("steady"), "the other model has gone on"


async def test_a_latency_above_its_target_gets_more_replicas(up: RayfleetUp, folder: Path, slow: Path) -> None:
    write(folder, "latent", slow, **scaling(targetOngoingRequests=1000, latency={"percentile": 90, "target": "150ms"}))
    await ready(up, "latent")
    async with closed_loop(up.url, "/latent/predict", BODY, clients=6) as load:
        await until("why is told", lambda: re.search(r"1 → [23]: p90 \d+ ms > 150 ms", told(up, "latent")))
        await until("more replicas", lambda: len(up.replicas("latent")) > 1)
    print(f"\n{told(up, 'latent')}; {load.summary()}")
    assert load.failed == []


async def test_a_hundred_that_come_together_wake_a_model_and_are_all_answered(
    up: RayfleetUp, folder: Path, slow: Path
) -> None:
    write(folder, "sleeper", slow, **scaling(minReplicas=0, targetOngoingRequests=50, scaleToZeroDelay="3s"))
    await ready(up, "sleeper")
    await until("it sleeps", lambda: not up.replicas("sleeper"))
    await until("that is told", lambda: told(up, "sleeper") == "0: no request: asleep")
    shown = up.model("sleeper")
    assert shown is not None
    assert shown.ready
    async with httpx.AsyncClient(base_url=up.url, timeout=60, trust_env=False) as client:
        assert (await client.get("/v2/models/sleeper/ready")).json() == {"ready": True}
        # Nothing of this wakes it.
        for path in ("/metrics", "/openapi.json", "/v2/models/sleeper", "/rayfleet/traffic"):
            assert (await client.get(path)).status_code == 200
        assert (await client.post("/sleeper/predict", content=b"{")).status_code == 400
        quiet = time.monotonic() + 3
        await until("nothing happens", lambda: up.replicas("sleeper") or time.monotonic() > quiet)
        assert not up.replicas("sleeper")

        begin = time.monotonic()
        answers = await asyncio.gather(*(client.post("/sleeper/predict", json=BODY) for _ in range(100)))
    print(f"\n100 at a sleeping model: all answered after {time.monotonic() - begin:.1f} s")
    assert {answer.status_code for answer in answers} == {200}
    await until("it sleeps again", lambda: not up.replicas("sleeper"))


async def test_requests_that_come_just_as_it_falls_asleep_are_answered(
    up: RayfleetUp, folder: Path, slow: Path
) -> None:
    write(folder, "nodding", slow, **scaling(minReplicas=0, scaleToZeroDelay="0s", lookBackPeriod="1s"))
    await ready(up, "nodding")
    took = []
    async with httpx.AsyncClient(base_url=up.url, timeout=60, trust_env=False) as client:
        for tenths in range(8, 40, 4):
            last = time.monotonic()
            assert (await client.post("/nodding/predict", json=BODY)).status_code == 200
            took.append(time.monotonic() - last)
            # Six seconds after its last request it goes, give or take those in which that is told.
            over = time.monotonic() + 5.5 + tenths / 10
            await until("the moment", lambda over=over: time.monotonic() > over)
    print(f"\nat the edge of sleep: {', '.join(f'{each:.1f}' for each in took)} s")


def another(model: Path, path: Path) -> Path:
    """A version that does the same and is another."""
    shutil.copytree(model, path)
    (path / "notes.txt").write_text("another one")
    return path


async def test_a_new_version_comes_under_load_with_as_many_replicas_as_the_one_before_has(
    up: RayfleetUp, folder: Path, slow: Path
) -> None:
    write(folder, "rolling", slow, **scaling(targetOngoingRequests=2, downscaleDelay="60s"))
    await ready(up, "rolling")
    other = await asyncio.to_thread(another, slow, folder / "next")
    async with closed_loop(up.url, "/rolling/predict", BODY, clients=6) as load:
        await until("three replicas", lambda: len(up.replicas("rolling")) == 3)
        before, most = load.answers[-1].version, set[str]()
        write(folder, "rolling", other, **scaling(targetOngoingRequests=2, downscaleDelay="60s"))

        def moved() -> bool:
            shown = up.model("rolling")
            for each in shown.versions if shown is not None else ():
                if each.version != before and each.weight == 100:
                    most.add(f"{each.replicas_running} of {each.replicas_target}")
            return bool(most)

        await until("the new version has every request", moved)
        assert most == {"3 of 3"}
        await until("its answers", lambda: load.answers[-1].version != before)
    print(f"\na new version under load: {load.summary()}")
    assert load.failed == []


async def test_a_router_that_starts_while_a_model_sleeps_knows_it_and_does_not_wake_it(up: RayfleetUp) -> None:
    assert told(up, "sleeper").startswith("0")
    pids = up.replicas("router")
    os.kill(pids[0], signal.SIGKILL)
    await until("another router", lambda: len(set(up.replicas("router")) - set(pids)) == 1)

    def reached() -> int:
        answer = httpx.get(f"{up.url}/rayfleet/traffic", timeout=60, trust_env=False)
        routers = answer.json()["routers"] if answer.status_code == 200 else []
        apps = [each for router in routers for each in router["versions"].items()]
        return sum(state["ready"] for app, state in apps if app.startswith("sleeper"))

    await until("both know what it takes", lambda: reached() == 2)
    assert not up.replicas("sleeper")
    shown = up.model("sleeper")
    assert shown is not None
    assert shown.ready
    async with httpx.AsyncClient(base_url=up.url, timeout=60, trust_env=False) as client:
        assert (await client.post("/sleeper/predict", json=BODY)).status_code == 200


async def test_a_policy_that_is_told_rubbish_leaves_every_other_application_alone(
    up: RayfleetUp, folder: Path, slow: Path
) -> None:
    shown = up.state()
    assert shown is not None
    token = await asyncio.to_thread(Path(shown.token_path).read_text) if shown.token_path else ""
    token = token.strip()
    bounds = {"min_replicas": 1, "max_replicas": 5, "upscale_delay_s": 0.0, "metrics_interval_s": 0.5}
    block = {**bounds, "look_back_period_s": 1.0, "policy": {"policy_function": POLICY_IMPORT_PATH}}
    entry = {
        "name": "rubbish", "route_prefix": None, "import_path": "rubbish:build", "args": {},
        "deployments": [
            {"name": "rubbish", "autoscaling_config": block, "ray_actor_options": {"num_cpus": 0.05}}
        ],
    }  # fmt: skip

    async def app() -> ObservedApp | None:
        async with ServeClient(shown.dashboard, token=token) as serve:
            return (await serve.applications()).get("rubbish")

    async with ServeClient(shown.dashboard, token=token) as serve:
        before = [found.entry for found in (await serve.applications()).values()]
        options = {"host": "127.0.0.1", "port": up.port}
        config = {"proxy_location": "HeadOnly", "http_options": options, "applications": [*before, entry]}
        await serve.put(json.dumps(config).encode())
    deadline = time.monotonic() + 90
    while (found := await app()) is None or found.status != "RUNNING":
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.2)
    # What Serve starts only after its policies were asked is started as well.
    write(folder, "afterwards", slow, **scaling())
    await ready(up, "afterwards")
    found = await app()
    assert found is not None
    assert (found.status, found.replicas_running, found.replicas_target) == ("RUNNING", 1, 1)


async def test_from_fixed_to_moving_and_back_nothing_is_started_anew(up: RayfleetUp, folder: Path, slow: Path) -> None:
    write(folder, "changing", slow, **FIXED)
    await ready(up, "changing")
    pids = up.replicas("changing")
    # Three need two replicas; of four, what two routers count at moments of their own may be a hair more than that.
    async with closed_loop(up.url, "/changing/predict", BODY, clients=3) as load:
        write(folder, "changing", slow, **scaling(targetOngoingRequests=2))
        await until("a second replica", lambda: len(up.replicas("changing")) == 2)
        assert set(pids) <= set(up.replicas("changing"))
        both = set(up.replicas("changing"))
        write(folder, "changing", slow, replicas=2)
        await until("that is told", lambda: not told(up, "changing"))
        await ready(up, "changing")
        assert set(up.replicas("changing")) == both
    assert load.failed == []


def routers_seen(up: RayfleetUp) -> set[float]:
    text = httpx.get(f"{up.url}/metrics", timeout=60, trust_env=False).text
    return {float(each) for each in re.findall(r"^rayfleet_routers{[^}]*} (\S+)$", text, re.MULTILINE)}


async def test_routers_see_how_many_they_are_and_bounds_of_theirs_restart_none(up: RayfleetUp, folder: Path) -> None:
    pids = up.replicas("router")
    await until("each sees both", lambda: routers_seen(up) == {2.0})
    fleet = {"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelFleet", "metadata": {"name": "shared"}}
    file = folder / "models" / "fleet.yaml"
    async with closed_loop(up.url, "/steady/predict", BODY, clients=1) as load:
        file.write_text(yaml.safe_dump({**fleet, "spec": {"routers": {"replicas": 2, "maxReplicas": 4}}}))
        quiet = time.monotonic() + 5
        await until("that is given", lambda: time.monotonic() > quiet)
        assert set(up.replicas("router")) == set(pids)
        file.write_text(yaml.safe_dump({**fleet, "spec": {"routers": {"replicas": 3, "maxReplicas": 4}}}))
        await until("each sees three", lambda: routers_seen(up) == {3.0})
        assert set(pids) <= set(up.replicas("router"))
    assert load.failed == []
