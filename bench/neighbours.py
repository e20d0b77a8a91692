"""What a hostile model costs its neighbours: three on one local Ray, one of which allocates without end, computes
without end, or crashes in a loop.

    python -m bench.neighbours [--seconds 8] [--rounds 3] [--way hoards spins crashes] [--clients 4]

Rounds take turns: for some seconds all three behave, then one does not, and so on. Closed loops ask both others all the
while; what is printed are their throughput and p99 in either time, medians of the rounds, and the requests that failed.

One that allocates without end also takes CPU time, of which it may have its part. So for some seconds of each round it
allocates nothing, is asked as often, and computes as much as it took: against that its memory is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import numpy as np

from bench.cluster import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from closed_loop import Answer, Load, closed_loop
from hostile import BODY, GOOD, HOSTILE, WAYS, Neighbours
from rayfleet_up import RayfleetUp

SETTLE_S = 2.0
"""After each change, before it counts: what the hostile model does begins, or its new replica has loaded."""
RECOVERY_S = 180.0
RATE = 20
"""Requests a second to the third one."""
MOST_WAITING = 40
BACK = 5
"""Answers in a row after which it behaves again."""


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    print("| the third | its CPU | others, requests/s | p99 ms | lost |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        models = Neighbours(Path(name))
        with RayfleetUp([models.deployments], folder=Path(name) / "up", env={"RAY_worker_niceness": "0"}) as up:
            await asyncio.to_thread(up.wait_ready, *GOOD, HOSTILE)
            for way in options.way:
                print(await measured(up, models, way, options.seconds, options.rounds, options.clients), flush=True)


@contextlib.asynccontextmanager
async def steady(url: str) -> AsyncIterator[None]:
    """Ask the third at a steady rate: one that fails at once must not be asked more than one that answers."""
    async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as client:

        async def one() -> None:
            with contextlib.suppress(httpx.HTTPError):
                await client.post(f"/{HOSTILE}/predict", json=BODY)

        async def run() -> None:
            under_way: set[asyncio.Task[None]] = set()
            while True:
                if len(under_way) < MOST_WAITING:
                    task = asyncio.create_task(one())
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                await asyncio.sleep(1 / RATE)

        task = asyncio.create_task(run())
        try:
            yield
        finally:
            task.cancel()


async def measured(up: RayfleetUp, models: Neighbours, way: str, seconds: float, rounds: int, clients: int) -> str:
    """Lines of the table: one for each thing that the third does."""
    spans: dict[str, list[tuple[float, float]]] = {"behaves": [], way: []}
    if way == "hoards":
        spans["works as much"] = []
    took: dict[str, list[float]] = {mood: [] for mood in spans}
    async with (
        closed_loop(up.url, f"/{GOOD[0]}/predict", BODY, clients=clients) as left,
        closed_loop(up.url, f"/{GOOD[1]}/predict", BODY, clients=clients) as right,
        steady(up.url),
    ):
        for _ in range(rounds):
            for mood, listed in spans.items():
                if mood == "works as much":
                    more = statistics.mean(took[way]) - statistics.mean(took["behaves"])
                    models.turn("behaves")
                    await recovered(up)
                    models.turn(f"works {max(0.0, more / (RATE * seconds)):.5f}")
                else:
                    models.turn(mood)
                if mood == "behaves":
                    await recovered(up)
                await asyncio.sleep(SETTLE_S if mood == "behaves" else 0)
                begin, before = time.monotonic(), cpu_times()
                await asyncio.sleep(seconds)
                listed.append((begin, time.monotonic()))
                took[mood].append(sum(s - before.get(pid, 0.0) for pid, s in cpu_times().items()))
        models.turn("behaves")
        await recovered(up)
    good = figures([left, right], spans["behaves"])
    lines = []
    for mood, listed in spans.items():
        rate, slow = figures([left, right], listed)
        part = 100 * statistics.median(took[mood]) / seconds
        lines.append(f"| {mood} | {part:.0f} % | {rate:.0f} | {slow:.0f} | {100 * (1 - rate / good[0]):+.1f} % |")
    failed = Counter(answer.status for load in (left, right) for answer in load.failed)
    lines.append(f"{sum(failed.values())} of {len(left.answers) + len(right.answers)} failed {dict(failed) or ''}")
    return "\n".join(lines)


def cpu_times() -> dict[int, float]:
    """Seconds of CPU of each process that has been a replica of the third, by its number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"ServeReplica:{HOSTILE}" in (folder / "cmdline").read_text():
                # The fields behind the name, which may hold spaces: utime and stime are the 14th and 15th of all.
                after = (folder / "stat").read_text().rpartition(")")[2].split()
                found[int(folder.name)] = (int(after[11]) + int(after[12])) / os.sysconf("SC_CLK_TCK")
    return found


def figures(loads: Sequence[Load], spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Requests a second of both together, and their p99 in ms; medians of the spans."""
    rates, slow = [], []
    for begin, end in spans:
        inside: list[Answer] = [a for load in loads for a in load.answers if begin <= a.answered < end]
        rates.append(len(inside) / (end - begin))
        slow.append(1e3 * float(np.percentile([a.answered - a.sent for a in inside], 99)))
    return statistics.median(rates), statistics.median(slow)


async def recovered(up: RayfleetUp) -> None:
    """Return once the hostile one answers again."""
    deadline = time.monotonic() + RECOVERY_S
    good = 0
    async with httpx.AsyncClient(base_url=up.url, timeout=5, trust_env=False) as client:
        while good < BACK:
            if time.monotonic() > deadline:
                raise SystemExit(f"{HOSTILE} does not answer again within {RECOVERY_S:g} s:\n{up.output[-3000:]}")
            try:
                good = good + 1 if (await client.post(f"/{HOSTILE}/predict", json=BODY)).is_success else 0
            except httpx.HTTPError:
                good = 0
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main())
