"""What a hostile model costs its neighbours: three on one local Ray, one of which allocates without end, computes
without end, or crashes in a loop.

    python -m bench.neighbours [--seconds 8] [--rounds 3] [--way hoards spins crashes] [--clients 4]

All three work: closed loops ask two of them, and the third, asked at a steady rate, takes a tenth of a CPU for it. Then
it turns hostile for some seconds, then it works again, and so on. What is printed are the throughput and p99 of the two
others in either time, medians of the rounds, and the requests that failed. What is lost is against the mean of the
times before and after, so that a machine that gets slower meets both.

One that allocates without end goes on with its work, for each row that it then refuses: its memory is all that differs,
and its CPU is printed to show it. To take that memory costs it CPU time once; until then is a line of its own.
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
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np

from bench.cluster import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from closed_loop import Answer, Load, closed_loop
from hostile import BODY, GOOD, HOSTILE, WAYS, Neighbours
from rayfleet_up import RayfleetUp

SETTLE_S = 2.0
"""After each change that was waited for, before it counts."""
CHANGES_S = 180.0
RATE = 20
"""Requests a second to the third one."""
WORK_S = 0.005
"""Seconds of a CPU that it takes for each."""
MOST_WAITING = 40
IN_A_ROW = 5
"""Answers, or refusals, after which it works, or has all the memory that it gets."""


@dataclass(frozen=True)
class Span:
    """A time in which the third did one thing."""

    begin: float
    end: float
    cpu_s: float
    """Of a CPU, that it took."""

    @property
    def seconds(self) -> float:
        return self.end - self.begin


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    print("| the third | its CPU | others, requests/s | p99 ms | lost, of all rounds |")
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
    under_way: set[asyncio.Task[None]] = set()
    async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as client:

        async def one() -> None:
            with contextlib.suppress(httpx.HTTPError):
                await client.post(f"/{HOSTILE}/predict", json=BODY)

        async def run() -> None:
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
            for each in (task, *under_way):
                each.cancel()
            await asyncio.gather(task, *under_way, return_exceptions=True)


async def measured(up: RayfleetUp, models: Neighbours, way: str, seconds: float, rounds: int, clients: int) -> str:
    """Lines of the table: one for each thing that the third does."""
    works: list[Span] = []
    hostile: list[Span] = []
    fills: list[Span] = []
    async with (
        closed_loop(up.url, f"/{GOOD[0]}/predict", BODY, clients=clients) as left,
        closed_loop(up.url, f"/{GOOD[1]}/predict", BODY, clients=clients) as right,
        steady(up.url),
    ):
        for number in range(rounds + 1):
            models.turn(f"behaves {WORK_S}")
            await answered(up, well=True)
            await asyncio.sleep(SETTLE_S)
            with counted(works):
                await asyncio.sleep(seconds)
            if number == rounds:
                break
            models.turn(f"{way} {WORK_S}")
            if way == "hoards":
                with counted(fills):
                    await answered(up, well=False)
                await asyncio.sleep(SETTLE_S)
            with counted(hostile):
                await asyncio.sleep(seconds)
    loads = [left, right]
    rates = [rate(loads, span) for span in works]
    before_and_after = [statistics.mean(pair) for pair in pairwise(rates)]
    lines = [line("works", works, loads)]
    for name, spans in ((f"{way}, until it has all", fills), (way, hostile)):
        if spans:
            lines.append(line(name, spans, loads, before_and_after))
    failed = Counter(answer.status for load in loads for answer in load.failed)
    lines.append(f"{sum(failed.values())} of {len(left.answers) + len(right.answers)} failed {dict(failed) or ''}")
    return "\n".join(lines)


@contextlib.contextmanager
def counted(spans: list[Span]) -> Iterator[None]:
    """The time of a block, with the CPU that the third took in it."""
    begin, before = time.monotonic(), cpu_times()
    yield
    took = sum(seconds - before.get(process, 0.0) for process, seconds in cpu_times().items())
    spans.append(Span(begin, time.monotonic(), took))


def line(name: str, spans: Sequence[Span], loads: Sequence[Load], against: Sequence[float] = ()) -> str:
    """A line of the table; `against` are the rates, for each span, of which the rest was lost."""
    part = 100 * statistics.median(span.cpu_s / span.seconds for span in spans)
    rates = [rate(loads, span) for span in spans]
    slow = statistics.median(p99_ms(loads, span) for span in spans)
    lost = sorted(100 * (1 - had / working) for had, working in zip(rates, against, strict=False))
    text = f"{statistics.median(lost):+.1f} % ({lost[0]:+.1f} to {lost[-1]:+.1f})" if lost else ""
    return f"| {name} | {part:.0f} % | {statistics.median(rates):.0f} | {slow:.0f} | {text} |"


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


def inside(loads: Sequence[Load], span: Span) -> list[Answer]:
    return [a for load in loads for a in load.answers if a.status == 200 and span.begin <= a.answered < span.end]


def rate(loads: Sequence[Load], span: Span) -> float:
    """Requests a second that were answered well."""
    return len(inside(loads, span)) / span.seconds


def p99_ms(loads: Sequence[Load], span: Span) -> float:
    return 1e3 * float(np.percentile([a.answered - a.sent for a in inside(loads, span)] or [np.inf], 99))


async def answered(up: RayfleetUp, *, well: bool) -> None:
    """Return once the third answers, or refuses, again and again."""
    deadline = time.monotonic() + CHANGES_S
    count = 0
    async with httpx.AsyncClient(base_url=up.url, timeout=5, trust_env=False) as client:
        while count < IN_A_ROW:
            if time.monotonic() > deadline:
                raise SystemExit(f"{HOSTILE} does not change within {CHANGES_S:g} s:\n{up.output[-3000:]}")
            with contextlib.suppress(httpx.HTTPError):
                status = (await client.post(f"/{HOSTILE}/predict", json=BODY)).status_code
                count = count + 1 if status == (200 if well else 413) else 0
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main())
