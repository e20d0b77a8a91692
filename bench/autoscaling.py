"""A step load 1x, 6x, 1x on a model that scales, and the simulator on the same arrivals.

    python -m bench.autoscaling [--article] [--out FOLDER]

The model sleeps for as long as a batch of its rows would compute, so that two cores carry six replicas; all around it
is real: HTTP, routers, batching, Serve, replicas that start. Requests come at random (Poisson) whatever becomes of the
ones before. First its curve is measured (`rayfleet measure`) and how long further replicas take to answer.

By default delays are short and the run takes four minutes. `--article`: 50 requests for each replica, a look-back of
30 s, up after 30 s, down after 300 s; 13 minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import mlflow.pyfunc
import numpy as np
import yaml
from mlflow.models import infer_signature

from bench.up import CLI, Served, serving
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.cli import plot
from rayfleet_operator.simulation import arrivals, curve, simulator, specs, summary
from rayfleet_operator.simulation.arrivals import Piece
from rayfleet_operator.simulation.simulator import Run

NAME = "sleeper"
FEATURES = 4
LOOK_S = 0.25
WARM_S = 20.0
"""Of the load under which further replicas are started to see how long they take."""
BIN_S = 5
"""Of a point in the picture."""


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
    steps=((60, 1), (240, 6), (480, 1)),
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


@dataclass
class Seen:
    """What was seen of the real one. Times in seconds from the first possible arrival."""

    sent: list[float] = field(default_factory=list)
    """When each request was due, as it came."""
    took: list[float] = field(default_factory=list)
    """Seconds until its answer; of the same requests."""
    status: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    there: list[int] = field(default_factory=list)
    """Replicas that take up their resources: starting, running, stopping."""


def files(folder: Path, plan: Plan, **others: Any) -> Path:
    """The ModelDeployment, with some of its autoscaling replaced."""
    spec = {
        "model": {"uri": str(folder / "model"), "allowCodeExecution": True},
        "resources": {"cpu": "0.2"},
        "batching": {"maxBatchSize": plan.max_batch_size},
        "limits": plan.limits,
        "autoscaling": {**plan.autoscaling, **others},
    }
    document = {"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": NAME}}
    path = folder / "models" / "sleeper.yaml"
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(yaml.safe_dump({**document, "spec": spec}))
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


async def watch(served: Served, seen: Seen, begin: float) -> None:
    """Count replicas until it is cancelled."""
    while True:
        there = await asyncio.to_thread(served.replicas, NAME)
        seen.times.append(time.monotonic() - begin)
        seen.running.append(there["RUNNING"] + there["UPDATING"])
        seen.there.append(sum(there.values()))
        await asyncio.sleep(LOOK_S)


async def load(served: Served, due: list[float], lasts_s: float, seen: Seen, begin: float) -> None:
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


def area(times: list[float], values: list[int], end: float) -> float:
    """Sum over time of a number that holds until it is looked at again."""
    total = 0.0
    for at, (time_, value) in enumerate(zip(times, values, strict=True)):
        until = min(end, times[at + 1] if at + 1 < len(times) else end)
        total += value * max(0.0, until - time_)
    return total


def p99(values: list[float]) -> float:
    return summary.percentile(sorted(values), 99) or 0.0


def compare(plan: Plan, seen: Seen, run: Run, end: float) -> dict[str, Any]:
    """The real one and the simulated one, side by side."""
    real = area(seen.times, seen.there, end)
    at = bisect_right(run.times, end) - 1
    answered = [took for took, status in zip(seen.took, seen.status, strict=True) if status == 200]
    simulated = [took for took, outcome in zip(run.seconds, run.outcomes, strict=True) if outcome == 1]
    result: dict[str, Any] = {
        "requests": len(seen.sent),
        "failed": {str(code): seen.status.count(code) for code in sorted(set(seen.status)) if code != 200},
        "failed, simulated": len(run.outcomes) - len(simulated),
        "replica-seconds": [real, run.paid_s[at]],
        "p50 s": [summary.percentile(sorted(v), 50) for v in (answered, simulated)],
        "p99 s": [p99(answered), p99(simulated)],
        "most replicas": [max(seen.running), max(run.running)],
        "changes of direction": [summary.turns(seen.running), summary.turns(run.running)],
    }
    begin = 0.0
    for number, (seconds, times) in enumerate(plan.steps):
        until = begin + seconds
        pair = [
            p99(
                [
                    t
                    for s, t, c in zip(seen.sent, seen.took, seen.status, strict=True)
                    if begin <= s < until and c == 200
                ]
            ),
            p99(
                [
                    t
                    for s, t, o in zip(run.arrivals, run.seconds, run.outcomes, strict=True)
                    if begin <= s < until and o == 1
                ]
            ),
        ]
        result[f"p99 s, step {number + 1} ({times}x)"] = pair
        begin = until
    first = plan.steps[0][0]
    second = first + plan.steps[1][0]
    result["seconds from 6x to the most replicas"] = [
        _first(seen.times, seen.running, first, max(seen.running)) - first,
        _first(list(run.times), list(run.running), first, max(run.running)) - first,
    ]
    result["seconds from 1x to fewer replicas"] = [
        _fewer(seen.times, seen.running, second),
        _fewer(list(run.times), list(run.running), second),
    ]
    result["replicas at the end"] = [seen.running[-1], run.running[at]]
    return result


def _first(times: list[float], values: list[int], after: float, value: int) -> float:
    found = [t for t, v in zip(times, values, strict=True) if t >= after and v == value]
    return found[0] if found else float("nan")


def _fewer(times: list[float], values: list[int], after: float) -> float:
    """Seconds from then until the number falls; NaN where it does not."""
    before = [value for time_, value in zip(times, values, strict=True) if time_ <= after][-1]
    found = [time_ for time_, value in zip(times, values, strict=True) if time_ > after and value < before]
    return found[0] - after if found else float("nan")


def picture(path: Path, plan: Plan, seen: Seen, run: Run, end: float) -> None:
    """Requests, replicas and p99 over time, of both."""
    bins = range(0, int(end), BIN_S)

    def over(sent: Any, took: Any, good: Any) -> tuple[list[float], list[float]]:
        found: dict[int, list[float]] = {}
        for at, seconds, fine in zip(sent, took, good, strict=True):
            if fine:
                found.setdefault(int(at) // BIN_S * BIN_S, []).append(seconds)
        return [float(at) for at in bins if at in found], [1e3 * p99(found[at]) for at in bins if at in found]

    rates = [sum(at <= sent < at + BIN_S for sent in seen.sent) / BIN_S for at in bins]
    target = plan.autoscaling.get("latency", {}).get("target")
    plot.draw(
        path,
        "step load: real and simulated",
        [
            plot.Panel(title="requests/s", lines={"": ([float(at) for at in bins], rates)}),
            plot.Panel(
                title="replicas that run",
                lines={"real": (seen.times, seen.running), "simulated": (run.times, run.running)},
                steps=True,
            ),
            plot.Panel(
                title=f"p99 of {BIN_S} s, ms",
                lines={
                    "real": over(seen.sent, seen.took, [code == 200 for code in seen.status]),
                    "simulated": over(run.arrivals, run.seconds, [outcome == 1 for outcome in run.outcomes]),
                },
                limit=("target", float(target.removesuffix("ms"))) if target else None,
            ),
        ],
    )


async def measured(plan: Plan, folder: Path, out: Path) -> tuple[Seen, curve.Curve, list[float], float]:
    """What was seen of the real one, its curve, when requests were due, and how long the run was."""
    example = np.zeros((2, FEATURES), np.float32)
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=Sleeper(plan.batch_s, plan.row_s),
        signature=infer_signature(example, np.zeros((2, 1), np.float32)),
        input_example=example,
        pip_requirements=[],
    )
    # Nothing scales while the curve is measured.
    path = files(folder, plan, minReplicas=1, maxReplicas=1)
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
        files(folder, plan, minReplicas=most, maxReplicas=most)
        pieces = [Piece(WARM_S, plan.rate * max(times for _, times in plan.steps))]
        due = list(arrivals.poisson(pieces, random.Random(0).random).times)
        asking = asyncio.create_task(load(served, due, WARM_S, Seen(), time.monotonic()))
        start_up_s = await settle(served, most)
        await asking
        print(f"{most - 1} further replicas took {start_up_s:.1f} s each", file=sys.stderr)
        files(folder, plan, minReplicas=1, maxReplicas=1)
        await settle(served, 1)
        files(folder, plan)
        await asyncio.sleep(5)
        found = curve.read((out / "curve.json").read_text())
        found = curve.Curve(found.points, found.hop_s, start_up_s, found.model, found.version)
        (out / "curve.json").write_text(found.text())
        pieces = [Piece(seconds, plan.rate * times) for seconds, times in plan.steps]
        came = arrivals.poisson(pieces, random.Random(plan.seed).random)
        seen, due = Seen(), list(came.times)
        print(f"{len(due)} requests in {came.lasts_s:g} s ...", file=sys.stderr)
        begin = time.monotonic()
        watching = asyncio.create_task(watch(served, seen, begin))
        await load(served, due, came.lasts_s, seen, begin)
        watching.cancel()
        return seen, found, due, came.lasts_s


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--article", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/autoscaling"))
    options = parser.parse_args()
    plan = ARTICLE if options.article else QUICK
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seen, found, due, lasts_s = await measured(plan, folder, options.out)
        model = ModelDeployment.model_validate(yaml.safe_load((folder / "models" / "sleeper.yaml").read_text()))
    (options.out / "seen.json").write_text(json.dumps(asdict(seen) | {"due": due}))
    setup = specs.setup(model, found, routers=2, start_up_s=found.start_up_s or 0.0, lasts_s=lasts_s)
    run = simulator.simulate(due, setup, lasts_s=lasts_s)
    result = compare(plan, seen, run, lasts_s)
    (options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    picture(options.out / "autoscaling.png", plan, seen, run, lasts_s)
    print("| | real | simulated | ratio |\n|---|---|---|---|")
    for name, value in result.items():
        if isinstance(value, list):
            real, simulated = value
            ratio = f"{simulated / real:.2f}" if real else "-"
            print(f"| {name} | {real:.4g} | {simulated:.4g} | {ratio} |")
    print(
        f"{result['requests']} requests, failed: {result['failed'] or 'none'}; simulated {result['failed, simulated']}"
    )
    for at, before, after, reason in run.changes:
        print(f"simulated at {at:.0f} s: {before} to {after}, {reason}")
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
