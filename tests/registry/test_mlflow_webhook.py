"""A real MLflow whose webhooks are delivered to the endpoint."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from mlflow import MlflowClient
from mlflow_server import MlflowServer, mlflow_server
from registry.models import register

from rayfleet_operator.api.types import Metadata, Model, ModelDeployment, ModelDeploymentSpec, Registry
from rayfleet_operator.metrics import Metrics
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.resolutions import Resolutions
from rayfleet_operator.webhook import Webhook
from rayfleet_serving.config import ModelIdentity

PAGE = Path(__file__).parents[2] / "docs" / "webhook.md"
PATIENCE_S = 60.0


def code(language: str) -> str:
    """The one block of the page in this language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def mlflow_with_webhooks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """With the variables that the page says, and with no wait for a new webhook."""
    environ = dict(re.findall(r"^\| `(MLFLOW_\w+)=(\S*)` \|", PAGE.read_text(), flags=re.MULTILINE))
    assert set(environ) == {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
    }
    environ["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"] = Fernet.generate_key().decode()
    with mlflow_server(tmp_path_factory, environ=environ | {"MLFLOW_WEBHOOK_CACHE_TTL": "1"}) as server:
        yield server


class World:
    """The endpoint and the models that it wakes, in one process, as in the operator."""

    def __init__(self, server: MlflowServer, key_file: Path) -> None:
        self.server = server
        self.client = MlflowClient(server.uri)
        self.metrics = Metrics()
        self.webhook = Webhook(key_file, self.metrics.webhook)
        self.resolutions = Resolutions(Resolver(default_tracking_uri=server.uri))
        self.port = 0

    def follow(self, name: str) -> None:
        at = Registry(poll_interval="24h")
        spec = ModelDeploymentSpec(model=Model(uri=f"models:/{name}@champion", registry=at))
        self.resolutions.follow("fleet", [ModelDeployment(metadata=Metadata(name="x", namespace="n"), spec=spec)])

    async def point(self, name: str, version: str) -> None:
        await asyncio.to_thread(self.client.set_registered_model_alias, name, "champion", version)

    def counted(self, result: str) -> float:
        name = "rayfleet_registry_webhook_deliveries_total"
        return self.metrics.registry.get_sample_value(name, {"result": result}) or 0.0

    @property
    def version(self) -> str | None:
        known = self.resolutions.known(("n", "x"))
        return known.version if isinstance(known, ModelIdentity) else None

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            log = self.server.folder / "server.log"
            assert time.monotonic() < deadline, f"{what}; {log.read_text()[-3000:]}"
            await asyncio.sleep(0.02)


@pytest.fixture
async def world(mlflow_with_webhooks: MlflowServer, tmp_path: Path) -> AsyncIterator[World]:
    """The webhook is made as the page says."""
    (tmp_path / "key").write_text("a key of letters\n")
    world = World(mlflow_with_webhooks, tmp_path / "key")
    task = asyncio.ensure_future(world.resolutions.run())
    try:
        world.webhook.leads(world.resolutions.wake)
        async with world.webhook.serve(0) as world.port:
            url = "http://rayfleet-operator-webhook.rayfleet-system.svc:8083/mlflow"
            assert url in code("python")
            text = code("python").replace(url, f"http://127.0.0.1:{world.port}/mlflow")
            environ = {**os.environ, "MLFLOW_TRACKING_URI": mlflow_with_webhooks.uri}
            command = [sys.executable, "-c", text]
            ran = await asyncio.to_thread(
                subprocess.run, command, cwd=tmp_path, env=environ, capture_output=True, text=True
            )
            assert ran.stdout.startswith("204"), ran.stdout + ran.stderr
            yield world
    finally:
        for webhook in world.client.list_webhooks():
            world.client.delete_webhook(webhook.webhook_id)
        task.cancel()
        await asyncio.wait([task])


async def test_an_alias_that_moves_is_seen_at_once(world: World) -> None:
    await asyncio.to_thread(register, world.client, "digits", "s3://bucket/1", "s3://bucket/2")
    await world.point("digits", "1")
    # The page's own test, two versions, one alias.
    await world.until("all was delivered", lambda: world.counted("accepted") == 4)
    world.follow("digits")
    await world.until("it is known", lambda: world.version == "1")

    await world.point("digits", "2")
    # Without the webhook it would be asked for after hours.
    await world.until("it is known anew", lambda: world.version == "2")
    assert world.counted("accepted") == 5

    # Between two operators, one of which is to lead, MLflow tries again.
    world.webhook.leads(None)
    await world.point("digits", "1")
    await world.until("somebody who stands by is asked", lambda: world.counted("standby") >= 1)
    world.webhook.leads(world.resolutions.wake)
    await world.until("it is known anew", lambda: world.version == "1")


async def test_the_test_of_mlflow_says_whether_the_keys_are_the_same(world: World, tmp_path: Path) -> None:
    (webhook,) = await asyncio.to_thread(world.client.list_webhooks)
    right = await asyncio.to_thread(world.client.test_webhook, webhook.webhook_id)
    assert (right.success, right.response_status) == (True, 204)
    (tmp_path / "key").write_text("another key")
    wrong = await asyncio.to_thread(world.client.test_webhook, webhook.webhook_id)
    assert (wrong.success, wrong.response_status) == (False, 401)
    assert "is it the webhook's secret?" in str(wrong.response_body)
