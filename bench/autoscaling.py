"""A step load 1x, 6x, 1x on a model that scales, and the simulator on the same arrivals.

    python -m bench.autoscaling [--article] [--out FOLDER]

The model sleeps for as long as a batch of its rows would compute, so that two cores carry six replicas; all around it
is real: HTTP, routers, batching, Serve, replicas that start. Requests come at random (Poisson) whatever becomes of the
ones before. First its curve is measured (`rayfleet measure`) and how long further replicas take to answer.

How long replicas take to start decides most, and on cores that others use it differs from one minute to the next. So
the simulator also runs with what they took while the load was measured: what it gets wrong then is its own.

By default delays are short and all of it takes five minutes. `--article`: 50 requests for each replica, a look-back of
30 s, up after 30 s, down after 300 s; eleven minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import mlflow.pyfunc
import numpy as np
import yaml
from mlflow.models import infer_signature

from bench import comparison
from bench.comparison import Seen
from bench.up import CLI, Served, serving
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.simulation import arrivals, curve, simulator, specs
from rayfleet_operator.simulation.arrivals import Arrivals, Piece
from rayfleet_operator.simulation.ledger import Outcome

NAME = "sleeper"
FEATURES = 4
LOOK_S = 0.25
WARM_S = 20.0
"""Of the load under which further replicas are started to see how long they take."""


@dataclass(frozen=True)
class Plan:
    """One run."""

    autoscaling: dict[str, Any]
    rate: float
    """Requests a second at 1x."""
    steps: tuple[tuple[float, int], ...]
    """Seconds, and times the rate."""
    batch_s: float
    """Seconds of a batch, and of each row in it."""
    row_s: float
    max_batch_size: int
    seed: int = 1
    limits: dict[str, Any] = field(
        default_factory=lambda: {"maxQueuedRequests": 10000, "maxOngoingRequests": 200, "requestTimeout": "60s"}
    )


QUICK = Plan(
    autoscaling={
        "minReplicas": 1,
        "maxReplicas": 6,
        "targetOngoingRequests": 10,
        "latency": {"percentile": 99, "target": "400ms"},
        "lookBackPeriod": "10s",
        "upscaleDelay": "5s",
        "downscaleDelay": "20s",
    },
    rate=20.0,
    steps=((45, 1), (75, 6), (90, 1)),
    batch_s=0.035,
    row_s=0.0175,
    max_batch_size=8,
)
ARTICLE = Plan(
    autoscaling={
        "minReplicas": 1,
        "maxReplicas": 6,
        "targetOngoingRequests": 50,
        "lookBackPeriod": "30s",
        "upscaleDelay": "30s",
        "downscaleDelay": "300s",
    },
    rate=25.0,
    # Of the replicas that answered the queue some are too many at once, and 300 s later they go.
    steps=((60, 1), (120, 6), (330, 1)),
    batch_s=0.1,
    row_s=0.02,
    max_batch_size=32,
)


class Sleeper(mlflow.pyfunc.PythonModel):
    """Zeros for each row, after as long as a batch of so many would take."""

    def __init__(self, batch_s: float, row_s: float) -> None:
        self.batch_s = batch_s
        self.row_s = row_s

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        import time

        time.sleep(self.batch_s + self.row_s * len(model_input))
        return np.zeros((len(model_input), 1), np.float32)


def document(folder: Path, plan: Plan, replicas: int | None = None) -> dict[str, Any]:
    """The ModelDeployment: with so many replicas, or with the plan's autoscaling."""
    spec = {
        "model": {"uri": str(folder / "model"), "allowCodeExecution": True},
        "resources": {"cpu": "0.2"},
        "batching": {"maxBatchSize": plan.max_batch_size},
        "limits": plan.limits,
        **({"autoscaling": plan.autoscaling} if replicas is None else {"replicas": replicas}),
    }
    kind = {"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelDeployment"}
    return {**kind, "metadata": {"name": NAME}, "spec": spec}


def files(folder: Path, plan: Plan, replicas: int | None = None) -> Path:
    """Write the ModelDeployment where `rayfleet up` follows it."""
    path = folder / "models" / "sleeper.yaml"
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(yaml.safe_dump(document(folder, plan, replicas)))
    part.rename(path)
    return path


async def settle(served: Served, replicas: int) -> float:
    """Wait until so many run and none besides; the mean of the seconds that those took which started meanwhile, from
    when the first one was seen to start."""
    began, ran, took = None, 0, []
    async with asyncio.timeout(180):
        while True:
            there = await asyncio.to_thread(served.replicas, NAME)
            if began is None:
                began, ran = (time.monotonic(), there["RUNNING"]) if there["STARTING"] else (None, 0)
            else:
                took += [time.monotonic() - began] * (there["RUNNING"] - ran - len(took))
            if there == {"RUNNING": replicas}:
                return sum(took) / len(took) if took else 0.0
            await asyncio.sleep(0.05)


async def moving(served: Served) -> None:
    """Wait until its replicas say what they need, which they do while their number follows the load."""
    async with asyncio.timeout(60):
        while b"\nrayfleet_scaling_ongoing_requests{" not in await asyncio.to_thread(_metrics, served):
            await asyncio.sleep(0.2)


def _metrics(served: Served) -> bytes:
    with urllib.request.urlopen(f"{served.url}/metrics", timeout=10) as answer:
        return bytes(answer.read())


async def watch(served: Served, seen: Seen, begin: float) -> None:
    """Count replicas until it is cancelled."""
    while True:
        there = await asyncio.to_thread(served.replicas, NAME)
        seen.times.append(time.monotonic() - begin)
        seen.running.append(there["RUNNING"] + there["UPDATING"])
        seen.there.append(sum(there.values()))
        await asyncio.sleep(LOOK_S)


async def load(served: Served, due: Sequence[float], lasts_s: float, seen: Seen, begin: float) -> None:
    """Send each request when it is due; returns when all are answered and `lasts_s` is over."""
    body = json.dumps({"instances": [[0.0] * FEATURES]}).encode()
    url = f"{served.url}/{NAME}/predict"
    headers = {"Content-Type": "application/json"}

    async def ask(client: aiohttp.ClientSession, at: float) -> None:
        sent = time.monotonic()
        try:
            async with client.post(url, data=body, headers=headers) as answer:
                await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        seen.sent.append(at)
        seen.took.append(time.monotonic() - sent)
        seen.status.append(status)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as client:
        async with asyncio.TaskGroup() as tasks:
            for at in due:
                await asyncio.sleep(max(0.0, begin + at - time.monotonic()))
                tasks.create_task(ask(client, at))
        await asyncio.sleep(max(0.0, begin + lasts_s - time.monotonic()))


def arrived(plan: Plan) -> Arrivals:
    """When requests are due: the same for the same plan."""
    pieces = [Piece(seconds, plan.rate * times) for seconds, times in plan.steps]
    return arrivals.poisson(pieces, random.Random(plan.seed).random)


async def measured(plan: Plan, folder: Path, out: Path) -> tuple[Seen, curve.Curve]:
    """What was seen of the real one, and its curve."""
    example = np.zeros((2, FEATURES), np.float32)
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=Sleeper(plan.batch_s, plan.row_s),
        signature=infer_signature(example, np.zeros((2, 1), np.float32)),
        input_example=example,
        pip_requirements=[],
    )
    # Nothing scales, and nobody looks back, until the load is measured.
    path = files(folder, plan, 1)
    print("starting rayfleet up ...", file=sys.stderr)
    async with serving(path, folder) as served:
        command = [*CLI, "measure", NAME, "--url", served.url, "--most", str(plan.max_batch_size)]
        done = await asyncio.to_thread(
            subprocess.run, [*command, "--output", str(out / "curve.json")], check=False, capture_output=True, text=True
        )
        print(done.stderr, end="", file=sys.stderr)
        if done.returncode:
            raise SystemExit(1)
        # As many at once as the load will ask for, and under that load: two cores do all of it.
        most = plan.autoscaling["maxReplicas"]
        files(folder, plan, most)
        pieces = [Piece(WARM_S, plan.rate * max(times for _, times in plan.steps))]
        due = arrivals.poisson(pieces, random.Random(0).random)
        asking = asyncio.create_task(load(served, due.times, WARM_S, Seen(), time.monotonic()))
        start_up_s = await settle(served, most)
        await asking
        print(f"{most - 1} further replicas took {start_up_s:.1f} s each", file=sys.stderr)
        files(folder, plan, 1)
        await settle(served, 1)
        # Looking back begins here: the queue of the replicas that were to start is no load of the plan.
        files(folder, plan)
        await moving(served)
        await settle(served, 1)
        found = replace(curve.read((out / "curve.json").read_text()), start_up_s=start_up_s)
        (out / "curve.json").write_text(found.text())
        seen, came = Seen(), arrived(plan)
        print(f"{len(came.times)} requests in {came.lasts_s:g} s ...", file=sys.stderr)
        begin = time.monotonic()
        watching = asyncio.create_task(watch(served, seen, begin))
        await load(served, came.times, came.lasts_s, seen, begin)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        return seen, found


def report(model: ModelDeployment, plan: Plan, found: curve.Curve, seen: Seen, out: Path) -> None:
    """Print and write what was seen beside what the simulator makes of the same arrivals."""
    came = arrived(plan)
    starts = {"simulated": found.start_up_s or 0.0}
    as_seen = comparison.started(plan.steps, seen)
    if as_seen is not None:
        starts["simulated, start-up as seen"] = as_seen
    sides, runs = {"real": comparison.real(seen, came.lasts_s)}, {}
    for name, start_up_s in starts.items():
        setup = specs.setup(model, found, routers=2, start_up_s=start_up_s, lasts_s=came.lasts_s)
        run = simulator.simulate(came.times, setup, lasts_s=came.lasts_s)
        title = f"{name} ({start_up_s:.1f} s)"
        sides[title], runs[title] = comparison.simulated(run, came.lasts_s), run
    result = {name: comparison.numbers(plan.steps, side) for name, side in sides.items()}
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    target = model.spec.autoscaling.latency if model.spec.autoscaling is not None else None
    target_ms = None if target is None else 1e3 * target.target_seconds
    comparison.picture(out / "autoscaling.png", came.times, sides, came.lasts_s, target_ms)
    print("\n".join(comparison.table(result)))
    failed = {code: seen.status.count(code) for code in sorted(set(seen.status)) if code != 200}
    print(f"{len(seen.status)} requests, failed: {failed or 'none'}")
    for name, run in runs.items():
        print(f"{name}: {len(run.outcomes) - run.outcomes.count(Outcome.ANSWERED)} failed")
        for at, before, after, reason in run.changes:
            print(f"  at {at:.0f} s: {before} to {after}, {reason}")


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--article", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/autoscaling"))
    options = parser.parse_args()
    plan = ARTICLE if options.article else QUICK
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        seen, found = await measured(plan, Path(name), options.out)
        model = ModelDeployment.model_validate(document(Path(name), plan))
    (options.out / "seen.json").write_text(json.dumps(asdict(seen)))
    report(model, plan, found, seen, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
