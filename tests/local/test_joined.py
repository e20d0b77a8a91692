"""`rayfleet up --address` on a Ray that was there before."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from mlflow_server import free_port
from model_files import write_model
from rayfleet_up import RayfleetUp

from rayfleet_operator.local.cluster import LocalCluster
from rayfleet_operator.plan import serve_config
from rayfleet_operator.plan.serve_config import ServeOptions
from rayfleet_operator.ray.serve import ServeClient

FOREIGN = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Hello:
    async def __call__(self, request):
        return "hello"

def build(args: dict):
    return Hello.bind()
"""


@pytest.fixture
async def ray(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    """Somebody's Ray, on which the module `foreign` can be imported."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "foreign.py").write_text(FOREIGN)
    cache = str(tmp_path / "cache")
    ray = await LocalCluster.launch(
        {**os.environ, "PYTHONPATH": str(tmp_path / "modules"), "RAYFLEET_CACHE_DIR": cache}
    )
    try:
        await ray.ready()
        yield ray
    finally:
        await ray.stop()


@pytest.mark.timeout(600)
async def test_it_serves_there_and_leaves_only_ray(ray: LocalCluster, tmp_path: Path, models: dict[int, Path]) -> None:
    files = tmp_path / "files"
    files.mkdir()
    write_model(files, "guest", models[2])
    options = ServeOptions(host="127.0.0.1", port=free_port())
    up = RayfleetUp(
        [files],
        folder=tmp_path,
        port=options.port,
        options=["--address", ray.dashboard],
        env={"RAY_AUTH_TOKEN_PATH": str(ray.token_path)},
    )
    stranger = RayfleetUp([], folder=tmp_path, env={"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})
    refused = await asyncio.to_thread(stranger.cli, "up", files, "--address", ray.dashboard)
    assert refused.returncode == 1
    assert "RAY_AUTH_TOKEN" in refused.stderr

    async with ServeClient(ray.dashboard, token=ray.token) as serve:

        def serves_as_a_guest() -> None:
            with up:
                up.wait_ready("guest")
                answer = httpx.post(f"{up.url}/guest/invocations", json={"inputs": [[1.0, 2.0]]}, timeout=30)
                assert answer.json()["predictions"] == pytest.approx([2])
                second = up.cli("up", files, "--address", ray.dashboard, "--port", str(free_port()))
                assert second.returncode == 1
                assert "serves on this Ray already" in second.stderr
                assert up.stop() == 0
            assert "goes on, without the models" in up.output

        await asyncio.to_thread(serves_as_a_guest)
        async with asyncio.timeout(60):
            while await serve.applications():
                await asyncio.sleep(0.2)

        hello = {"name": "hello", "route_prefix": "/", "import_path": "foreign:build", "args": {}}
        await serve.put(serve_config.canonical(serve_config.serve_config([hello], options)))
        refused = await asyncio.to_thread(up.cli, "up", files, "--address", ray.dashboard, "--port", str(options.port))
        assert refused.returncode == 1
        assert "applications that are not rayfleet's: hello" in refused.stderr
        assert list(await serve.applications()) == ["hello"]
