"""The data path against the usual Ray Serve patterns, in one run, taking turns.

    python -m bench.datapath [--seconds 6] [--rounds 3] [--clients 1 16 64]

Needs `wrk`. The model is tiny, so that what is measured is the path: HTTP, batching, hops. Two Rays run side by side:
one as `ray start` sets it up, with the article's pattern; one as `rayfleet up` sets it up, with the other three.
CPU time is read from /proc for each process before and after each round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench import mlp
from bench.cluster import RAY_DEFAULTS, serving
from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import serve_config
from rayfleet_operator.registry.errors import RegistryError
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_serving.config import Limits, ModelRoute, TrafficTable, VersionRoute

BODY = json.dumps({"inputs": [{"name": "input", "shape": [1, 64], "datatype": "FP32", "data": [0.5] * 64}]})
ROLES = {
    "proxy": re.compile(r"haproxy|ProxyActor|HAProxyManager"),
    "router": re.compile(r"ServeReplica:(router:router|one-call:OneCallPerRequest)"),
    "model": re.compile(r"ServeReplica:(mlp-\w+:model|one-call:Plain|article:Article)"),
}


@dataclass(frozen=True)
class Pattern:
    """One row of the table."""

    name: str
    url: str


@dataclass(frozen=True)
class Sample:
    """One round of one pattern."""

    rps: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_us: dict[str, float]
    """CPU microseconds a request, by role."""


async def fleet(folder: Path) -> list[dict[str, Any]]:
    """The Serve applications that rayfleet plans for one model."""
    mlp.save(folder / "mlp")
    model = ModelDeployment.model_validate(
        {"metadata": {"name": "mlp"}, "spec": {"model": {"uri": str(folder / "mlp")}, "batching": {"maxBatchSize": 64}}}
    )
    identity = (await Resolver().resolve_all({"mlp": model.spec.model}))["mlp"]
    if isinstance(identity, RegistryError):
        raise identity
    app = serve_config.model_app(model, identity)
    version = VersionRoute(
        app=app["name"], version=identity.version, model_id=identity.model_id, weight=100, max_batch_size=64
    )
    table = TrafficTable(models={"mlp": ModelRoute(versions=[version], limits=Limits(max_ongoing_requests=400))})
    return [app, serve_config.router_app(ModelFleetSpec(), table)]


def cpu_seconds() -> dict[int, tuple[str, float]]:
    """User and system seconds of every process that plays a role: proc(5), fields 14 and 15 of stat."""
    tick = os.sysconf("SC_CLK_TCK")
    seconds: dict[int, tuple[str, float]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                title = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                fields = (process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            for role, pattern in ROLES.items():
                if pattern.search(title[:200]):
                    seconds[int(process.name)] = (role, (int(fields[11]) + int(fields[12])) / tick)
    return seconds


async def load(pattern: Pattern, clients: int, seconds: float, script: Path) -> Sample:
    """Closed-loop load by wrk on one thread."""
    before = cpu_seconds()
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(script), pattern.url),
        stdout=asyncio.subprocess.PIPE,
    )
    output = (await process.communicate())[0].decode()
    after = cpu_seconds()
    numbers = json.loads(output[output.index("{") :])
    used: dict[str, float] = defaultdict(float)
    for pid, (role, total) in after.items():
        used[role] += total - before.get(pid, (role, 0.0))[1]
    requests = max(1, numbers["requests"])
    return Sample(
        rps=numbers["requests"] / numbers["seconds"],
        p50_ms=numbers["p50"],
        p99_ms=numbers["p99"],
        failed=numbers["failed"],
        cpu_us={role: 1e6 * total / requests for role, total in used.items()},
    )


def wrk_script(folder: Path) -> Path:
    """What wrk sends, and its figures as JSON."""
    script = folder / "post.lua"
    script.write_text(
        f"""wrk.method = "POST"
wrk.body = [[{BODY}]]
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('{{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"failed":%d}}\\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
    )
    return script


async def answers(pattern: Pattern) -> None:
    """Wait until the pattern answers 200."""
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(120):
        while (
            await client.post(pattern.url, content=BODY, headers={"Content-Type": "application/json"}, timeout=60)
        ).status_code != 200:
            await asyncio.sleep(0.2)


def table(results: dict[tuple[str, int], list[Sample]], clients: list[int]) -> Iterator[str]:
    """The medians as Markdown."""
    yield "| pattern | clients | requests/s | p50 ms | p99 ms | failed | CPU µs a request: proxy | router | model |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (name, count), samples in results.items():
        middle = [
            f"{statistics.median(getattr(sample, key) for sample in samples):.{digits}f}"
            for key, digits in (("rps", 0), ("p50_ms", 1), ("p99_ms", 1))
        ]
        cpu = [f"{statistics.median(sample.cpu_us.get(role, 0.0) for sample in samples):.0f}" for role in ROLES]
        yield f"| {name} | {count} | {' | '.join(middle)} | {sum(s.failed for s in samples)} | {' | '.join(cpu)} |"
    names = list(dict.fromkeys(name for name, _ in results))
    ours = names[-1]
    yield ""
    for count in clients:
        for other in names[:-1]:
            ratios = [a.rps / b.rps for a, b in zip(results[ours, count], results[other, count], strict=True) if b.rps]
            yield f"{count} clients: {ours} serves {statistics.median(ratios):.1f} times {other}"


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("This needs wrk, a load generator: apt-get install wrk, or brew install wrk.", file=sys.stderr)
        return 2

    article = {"name": "article", "route_prefix": "/", "import_path": "bench.patterns:article"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = wrk_script(folder)
        print("starting two Rays ...", file=sys.stderr)
        others = [
            {**article, "route_prefix": "/article"},
            {"name": "one-call", "route_prefix": "/one-call", "import_path": "bench.patterns:one_call"},
        ]
        async with serving([article], environ=RAY_DEFAULTS) as usual, serving([*await fleet(folder), *others]) as fast:
            patterns = [
                Pattern("article's pattern, Ray's defaults", usual),
                Pattern("article's pattern, HAProxy", f"{fast}/article"),
                Pattern("router → model, one call per request", f"{fast}/one-call"),
                Pattern("rayfleet", f"{fast}/v2/models/mlp/infer"),
            ]
            results: dict[tuple[str, int], list[Sample]] = {(p.name, c): [] for c in options.clients for p in patterns}
            for pattern in patterns:
                await answers(pattern)
                await load(pattern, 16, 2, script)
            for turn in range(options.rounds):
                for clients in options.clients:
                    for pattern in patterns:
                        print(f"round {turn + 1}/{options.rounds}, {clients} clients: {pattern.name}", file=sys.stderr)
                        results[pattern.name, clients].append(await load(pattern, clients, options.seconds, script))
    print("\n".join(table(results, options.clients)))
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
