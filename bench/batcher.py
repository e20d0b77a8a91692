"""Two batchers under the same Poisson arrivals: ours and Ray Serve's `@serve.batch`.

    python -m bench.batcher [--rate 100 5] [--batch-ms 50] [--max-batch 8] [--seconds 20] [--rounds 3]

A model takes `--batch-ms` for a batch of any size up to `--max-batch`, so at most `max_batch / batch_ms` requests a
second can be served. Both batchers run inside one Serve replica, see the same arrival times, and take turns.
Requests enter by an `await` in the same process: no network, only the batcher.

Ours runs as it is by default. `@serve.batch` is given several waits, as the one that suits it depends on the rate: at a
high one a short wait makes batches too small, at a low one every request spends a long wait.

No `from __future__ import annotations` here: Serve reads annotations of deployments.
"""

import argparse
import asyncio
import random
import sys
import time
from typing import Any

import httpx
import numpy as np
from ray import serve
from starlette.requests import Request

from bench.cluster import serving
from rayfleet_serving.link.call import Call
from rayfleet_serving.model.batcher import Batcher
from rayfleet_serving.model.execution import Execution
from rayfleet_serving.protocol.message import InferenceResult

KINDS = ("rayfleet", *(f"`@serve.batch`, wait {wait} ms" for wait in (0, 5, 20, 50, 100)))


@serve.deployment(max_ongoing_requests=4)
class Arena:
    """Runs one batcher under Poisson arrivals and gives back what each request took."""

    async def __call__(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        seconds, rate, batch_s = float(query["seconds"]), float(query["rate"]), float(query["batch_s"])
        maximum, kind = int(query["max_batch"]), query["kind"]
        batches: list[int] = []
        ask = (
            self._ours(batches, batch_s, maximum)
            if kind == "rayfleet"
            else self._serves(batches, batch_s, maximum, int(kind.split()[-2]) / 1e3)
        )
        chance = random.Random(int(query["seed"]))
        arrivals, at = [], 0.0
        while (at := at + chance.expovariate(rate)) < seconds:
            arrivals.append(at)
        took: list[float] = []

        async def one(due: float) -> None:
            await ask()
            # From when it was due, not from when it was sent: a stalled loop must not flatter anybody.
            took.append(time.perf_counter() - begin - due)

        begin = time.perf_counter()
        tasks = []
        for due in arrivals:
            await asyncio.sleep(max(0.0, due - (time.perf_counter() - begin)))
            tasks.append(asyncio.ensure_future(one(due)))
        await asyncio.gather(*tasks)
        return {"took": took, "batches": batches}

    def _ours(self, batches: list[int], batch_s: float, maximum: int) -> Any:
        def predict(inputs: Any, form: Any, params: Any) -> InferenceResult:
            time.sleep(batch_s)
            batches.append(len(inputs["x"]))
            return InferenceResult({"y": inputs["x"]}, "array")

        batcher = Batcher(Execution(predict, max_batch_size=maximum), max_wait_s=0.005)
        row = np.zeros((1, 4), np.float32)
        return lambda: batcher.infer(Call({"x": row}, [1], "tensors", {}, [600.0]))

    def _serves(self, batches: list[int], batch_s: float, maximum: int, wait_s: float) -> Any:
        @serve.batch(max_batch_size=maximum, batch_wait_timeout_s=wait_s)
        async def predict(rows: list[Any]) -> list[Any]:
            await asyncio.sleep(batch_s)
            batches.append(len(rows))
            return rows

        row = np.zeros((1, 4), np.float32)
        return lambda: predict(row)


app = Arena.bind()  # type: ignore[attr-defined]


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", type=float, nargs="+", default=[100.0, 5.0])
    parser.add_argument("--batch-ms", type=float, default=50.0)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    runs = [(rate, kind) for rate in options.rate for kind in KINDS]
    took: dict[tuple[float, str], list[float]] = {run: [] for run in runs}
    batches: dict[tuple[float, str], list[int]] = {run: [] for run in runs}
    print("starting Ray ...", file=sys.stderr)
    arena = {"name": "arena", "route_prefix": "/", "import_path": "bench.batcher:app"}
    async with serving([arena]) as url, httpx.AsyncClient(timeout=None, trust_env=False) as client:
        for seed in range(options.rounds):
            for rate, kind in runs:
                print(f"round {seed + 1}/{options.rounds}: {rate:g}/s, {kind} ...", file=sys.stderr)
                query = {
                    "kind": kind,
                    "seconds": options.seconds,
                    "rate": rate,
                    "batch_s": options.batch_ms / 1e3,
                    "max_batch": options.max_batch,
                    "seed": seed,
                }
                response = await client.get(url, params=query)
                response.raise_for_status()
                took[rate, kind] += response.json()["took"]
                batches[rate, kind] += response.json()["batches"]

    print(
        f"Poisson arrivals, {options.batch_ms:g} ms per batch of at most {options.max_batch}, "
        f"{options.rounds} x {options.seconds:g} s, taking turns\n"
    )
    print("| requests/s | batcher | requests | p50 ms | p99 ms | mean batch |")
    print("|---|---|---|---|---|---|")
    for rate, kind in runs:
        p50, p99 = np.percentile(took[rate, kind], [50, 99]) * 1e3
        mean = np.mean(batches[rate, kind])
        print(f"| {rate:g} | {kind} | {len(took[rate, kind])} | {p50:.0f} | {p99:.0f} | {mean:.2f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
