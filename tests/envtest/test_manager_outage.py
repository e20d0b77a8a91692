"""What an operator makes of an API server that goes away, and of events that it never got."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.binaries import module_folder
from cluster.control_plane import ControlPlane
from operator_process import Operator

from rayfleet_operator.controller import Controller
from rayfleet_operator.kube import config
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.kube.kinds import MODEL_DEPLOYMENT, MODEL_FLEET
from rayfleet_operator.metrics import Metrics
from rayfleet_operator.settings import Settings

CRDS = Path(__file__).parents[2] / "crds"
NAMESPACE = "default"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Stopped by the tests, so not the one that all share. KubeRay's definitions come with the first test."""
    with ControlPlane(tmp_path_factory.mktemp("outage")) as started:
        started.kubectl.apply("\n---\n".join(file.read_text() for file in sorted(CRDS.glob("*.yaml"))))
        yield started


def model(name: str, fleet: str | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"model": {"uri": "models:/m/1"}} | ({"fleet": fleet} if fleet else {})
    metadata = {"namespace": NAMESPACE, "name": name}
    return {"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": spec}


def apply(api: ControlPlane, name: str) -> None:
    api.kubectl("apply", "-f", "-", stdin=str(model(name)).replace("'", '"'))


def test_it_waits_for_definitions_that_are_not_there_yet(api: ControlPlane) -> None:
    operator = Operator(api.kubeconfig, "early", RAYFLEET_LEADER_ELECTION="false")
    try:
        operator.until("it says what is missing", lambda: "RayService (ray.io/v1)" in operator.log)
        answer = operator.get("health", "/readyz")
        assert answer.status_code == 500
        assert "install KubeRay" in answer.text
        kuberay = module_folder("kuberay-operator") / "config" / "crd" / "bases"
        api.kubectl.apply("\n---\n".join(file.read_text() for file in sorted(kuberay.glob("*.yaml"))))
        operator.until("it is ready", lambda: operator.ready)
        apply(api, "after-all")
        operator.until("it works", lambda: operator.count("reconciled", "after-all") >= 1)
    finally:
        operator.end()


def test_it_outlives_an_outage_and_hears_of_what_comes_after(api: ControlPlane) -> None:
    operator = Operator(api.kubeconfig, "patient", RAYFLEET_LEADER_ELECTION="false")
    try:
        operator.until("it is ready", lambda: operator.ready)
        for round_ in range(2):
            api.kill_part("kube-apiserver")
            assert operator.get("health", "/healthz").status_code == 200
            api.start_part("kube-apiserver")
            apply(api, f"after-{round_}")
            operator.until("it works", lambda round_=round_: operator.count("reconciled", f"after-{round_}") >= 1)
        assert operator.ready
        assert operator.running
        assert "The watches ended" not in operator.log
    finally:
        operator.end()


async def test_whatever_no_event_told_of_is_found_by_listing(api: ControlPlane) -> None:
    """Without any watch at all."""
    settings = Settings(resync_s=1.0)
    async with KubeClient(config.load(str(api.kubeconfig))) as client:
        for kind in (MODEL_DEPLOYMENT, MODEL_FLEET):
            for each in await client.list(kind, None, cached=False):
                await client.delete(kind, NAMESPACE, each["metadata"]["name"])
        controller = Controller(settings, Metrics())
        controller.observe(MODEL_DEPLOYMENT, model("deleted-unheard", "left-alone"), False)
        controller.observe(MODEL_DEPLOYMENT, model("moved-unheard", "old"), False)
        await client.create(model("moved-unheard", "new"))
        await client.create(model("made-unheard"))
        resync = asyncio.create_task(controller.resync.run(client))
        seen: dict[str, int] = {}
        async with asyncio.timeout(60):
            while min(seen.get(fleet, 0) for fleet in ("new", "made-unheard")) < 3:
                key: FleetKey = await controller.queue.get()
                seen[key.fleet] = seen.get(key.fleet, 0) + 1
                controller.queue.done(key)
        resync.cancel()

    assert set(seen) == {"left-alone", "old", "new", "made-unheard"}
    assert controller.resync.waits_for() is None
