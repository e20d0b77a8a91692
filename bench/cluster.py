"""A local Ray for one benchmark, and the options that both sides of a comparison share."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from rayfleet_operator.local import ports
from rayfleet_operator.local.cluster import LocalCluster
from rayfleet_operator.plan.serve_config import canonical
from rayfleet_operator.ray.serve import ServeClient

ROOT = Path(__file__).resolve().parent.parent

RAY_DEFAULTS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
}
"""Serve as `ray start` alone would run it."""

RUNNING_WITHIN_S = 180


@contextlib.asynccontextmanager
async def serving(
    applications: list[dict[str, Any]], *, environ: Mapping[str, str] | None = None
) -> AsyncIterator[str]:
    """Run `applications` on a Ray of their own; yields the URL of Serve's HTTP port once all are RUNNING."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # Ray runs its workers at nice 15; here they share the cores with the load generator, at the same priority.
    own = {"RAY_worker_niceness": "0", "PYTHONPATH": path}
    (port,) = ports.free(1)
    cluster = await LocalCluster.launch({**os.environ, **(environ or {}), **own}, port=port)
    try:
        await cluster.ready()
        config = {
            "proxy_location": "EveryNode",
            "http_options": {"host": "0.0.0.0", "port": port},
            "applications": applications,
        }
        async with ServeClient(cluster.dashboard, token=cluster.token_path.read_text()) as client:
            await client.put(canonical(config))
            async with asyncio.timeout(RUNNING_WITHIN_S):
                while True:
                    apps = await client.applications()
                    failed = [f"{a.name}: {a.message}" for a in apps.values() if a.status == "DEPLOY_FAILED"]
                    if failed:
                        raise SystemExit("\n".join(failed))
                    if apps and all(app.status == "RUNNING" for app in apps.values()):
                        break
                    await asyncio.sleep(0.2)
        url = f"http://127.0.0.1:{port}"
        await _answering(url)
        yield url
    finally:
        await cluster.stop()


async def _answering(url: str) -> None:
    """The proxy takes a moment longer than the applications."""
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(60):
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(f"{url}/-/healthz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)
