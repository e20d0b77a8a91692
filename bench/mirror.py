"""What a mirror costs those who ask: the same model with and without one, in one run, taking turns.

    python -m bench.mirror [--rate 50] [--seconds 20] [--rounds 5] [--sleep 5] [--most 1.2]

Requests are sent at a steady rate, whatever becomes of the ones before. `mirrored` sends a copy of each to a version
that sleeps for `--sleep` seconds on every call (0: one that is as quick as the model itself). With `--most`, it fails
where the p99 with a mirror is more than so many times that without.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import mlflow.pyfunc
import numpy as np
from mlflow.models import infer_signature

from bench import mlp
from bench.cluster import serving
from bench.datapath import BODY
from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import serve_config
from rayfleet_operator.registry.errors import RegistryError
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_serving.config import ModelRoute, TrafficTable, VersionRoute

PATTERNS = ("alone", "mirrored")


class Sleeper(mlflow.pyfunc.PythonModel):
    """Ten zeros for each row, after a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        import time

        if np.any(model_input):  # rows of zeros are what it is warmed up with
            time.sleep(self.seconds)
        return np.zeros((len(model_input), 10), np.float32)


async def fleet(folder: Path, sleep: float) -> list[dict[str, Any]]:
    """The Serve applications: one model twice, and what mirrors one of the two."""
    mlp.save(folder / "mlp")
    example = np.zeros((2, 64), np.float32)
    mlflow.pyfunc.save_model(
        folder / "sleeper",
        python_model=Sleeper(sleep),
        signature=infer_signature(example, np.zeros((2, 10), np.float32)),
        pip_requirements=[],
    )
    uris = {name: str(folder / "mlp") for name in PATTERNS} | {"shadow": str(folder / "sleeper")}
    models = {
        name: ModelDeployment.model_validate(
            {
                "metadata": {"name": name},
                "spec": {"model": {"uri": uri, "allowCodeExecution": True}, "resources": {"cpu": "0.2"}},
            }
        )
        for name, uri in uris.items()
    }
    identities = await Resolver().resolve_all({name: model.spec.model for name, model in models.items()})
    rows, apps = {}, []
    for name, model in models.items():
        identity = identities[name]
        if isinstance(identity, RegistryError):
            raise identity
        app = serve_config.model_app(model, getattr(identity, "identity", identity))
        apps.append(app)
        version = {"version": name, "model_id": name, "weight": 0 if name == "shadow" else 100}
        rows[name] = VersionRoute(app=app["name"], **version)
    shadow = rows["shadow"].model_copy(update={"mirror": 100, "name": "shadow"})
    table = TrafficTable(
        models={
            "alone": ModelRoute(versions=[rows["alone"]]),
            "mirrored": ModelRoute(versions=[rows["mirrored"], shadow]),
        }
    )
    return [*apps, serve_config.router_app(ModelFleetSpec(), table)]


async def load(client: httpx.AsyncClient, name: str, rate: float, seconds: float) -> list[float]:
    """Milliseconds of each answer. Raises SystemExit where one is no 200."""
    took: list[float] = []

    async def ask() -> None:
        begin = time.perf_counter()
        answer = await client.post(f"/v2/models/{name}/infer", content=BODY)
        if answer.status_code != 200:
            raise SystemExit(f"{name} answered {answer.status_code}: {answer.text[:200]}")
        took.append(1e3 * (time.perf_counter() - begin))

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            tasks.create_task(ask())
    return took


def percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent))


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sleep", type=float, default=5.0)
    parser.add_argument("--most", type=float)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print("starting a Ray ...", file=sys.stderr)
        async with serving(await fleet(Path(name), options.sleep)) as url:
            headers = {"content-type": "application/json"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
                async with asyncio.timeout(60):
                    while {(await client.get(f"/v2/models/{each}/ready")).status_code for each in PATTERNS} != {200}:
                        await asyncio.sleep(0.2)
                results: dict[str, list[list[float]]] = {each: [] for each in PATTERNS}
                for turn in range(-1, options.rounds):
                    for each in PATTERNS if turn % 2 else reversed(PATTERNS):
                        print(f"round {turn + 1}/{options.rounds}: {each}", file=sys.stderr)
                        took = await load(client, each, options.rate, options.seconds if turn >= 0 else 3.0)
                        if turn >= 0:
                            results[each].append(took)
                text = (await client.get("/metrics")).text
    print("| | requests | p50 ms | p99 ms | p99 ms of each round |\n|---|---|---|---|---|")
    for each, rounds in results.items():
        every = [value for took in rounds for value in took]
        by_round = ", ".join(f"{percentile(took, 99):.1f}" for took in rounds)
        print(f"| {each} | {len(every)} | {percentile(every, 50):.2f} | {percentile(every, 99):.2f} | {by_round} |")
    times = 0.0
    for percent in (50, 99):
        ratios = [
            percentile(mirrored, percent) / percentile(alone, percent)
            for alone, mirrored in zip(results["alone"], results["mirrored"], strict=True)
        ]
        times = statistics.median(ratios)
        print(f"p{percent} with a mirror is {times:.2f} times that without (median of rounds)")
    for line in text.splitlines():
        if line.startswith("rayfleet_mirror_requests_total") and not line.endswith(" 0.0"):
            print(line)
    if options.most is not None and times > options.most:
        print(f"p99 with a mirror is {times:.3g} times that without, and may be {options.most:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
