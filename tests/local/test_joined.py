"""`rayfleet up --address` on a Ray that was there before."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from mlflow_server import free_port
from model_files import write_model
from rayfleet_up import RayfleetUp
from registry.stand_in import http, stand_in

from rayfleet_operator.local.cluster import LocalCluster
from rayfleet_operator.local.state import Slot, Status, Up
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
    """Somebody's Ray, without HAProxy, on which the module `foreign` can be imported."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "foreign.py").write_text(FOREIGN)
    cache = str(tmp_path / "cache")
    ray = await LocalCluster.launch(
        {
            **os.environ,
            "PYTHONPATH": str(tmp_path / "modules"),
            "RAYFLEET_CACHE_DIR": cache,
            "RAY_SERVE_ENABLE_HA_PROXY": "0",
        }
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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "127.1"])
def test_a_ray_that_is_joined_already_is_known_by_any_name(tmp_path: Path, host: str) -> None:
    write_model(tmp_path, "a", "/models/1")
    port = free_port()
    up = RayfleetUp([], folder=tmp_path)
    now = datetime.now(UTC)
    with Slot(Path(up.env["RAYFLEET_STATE_DIR"]), "127.0.0.1", 1) as slot:
        slot.write(
            Up(
                pid=1,
                url="http://127.0.0.1:1",
                dashboard=f"http://127.0.0.1:{port}",
                token_path=None,
                session=None,
                folder=None,
                started=now,
                status=Status(updated=now),
            )
        )
        refused, elsewhere = (
            up.cli("up", tmp_path, "--address", f"http://{host}:{each}/") for each in (port, free_port())
        )
    assert refused.returncode == elsewhere.returncode == 1
    assert "the rayfleet up at http://127.0.0.1:1 (process 1) serves on this Ray already" in refused.stderr
    assert "serves on this Ray already" not in elsewhere.stderr


async def test_what_a_dashboard_says_reaches_no_terminal_as_it_came(tmp_path: Path) -> None:
    write_model(tmp_path, "a", "/models/1")
    fails = http("500 No", b"bad \x1b]0;owned\x07 \x1b[2J")
    async with stand_in(lambda _: fails) as dashboard:
        up = RayfleetUp([], folder=tmp_path)
        refused = await asyncio.to_thread(up.cli, "up", tmp_path, "--address", dashboard.uri)
    assert refused.returncode == 1
    assert r"bad \x1b]0;owned\x07 \x1b[2J" in refused.stderr

    empty = http("200 OK", b'{"applications": {}}')
    async with stand_in(lambda head: empty if head.startswith("GET") else fails) as dashboard:
        up = RayfleetUp([tmp_path], folder=tmp_path, options=["--address", dashboard.uri])
        up.start()
        await asyncio.to_thread(up.wait, "it has joined", lambda: (state := up.state()) and state.status.files_read)
        assert await asyncio.to_thread(up.stop) == 0
    assert "could not be taken back from Ray" in up.output
    assert r"bad \x1b]0;owned\x07 \x1b[2J" in up.output
    assert "\x1b" not in up.output
