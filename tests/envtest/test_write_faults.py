"""What becomes of a pass of which the API server does not take everything, or not in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cluster.control_plane import ControlPlane
from envtest.stage import SPEC, Stage

from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.errors import Unreachable

Json = dict[str, Any]


@asynccontextmanager
async def broken_webhook(stage: Stage, control_plane: ControlPlane, *resources: str) -> AsyncIterator[None]:
    """Nobody answers where the API server must ask before it takes such objects."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": list(resources)}
    hook = {
        "name": "nobody.example.com",
        "clientConfig": {"url": "https://127.0.0.1:9/"},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": stage.namespace}},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
    }
    kind = "ValidatingWebhookConfiguration"
    metadata = {"name": stage.namespace}
    control_plane.kubectl.apply(
        [{"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": metadata, "webhooks": [hook]}]
    )
    try:
        await stage.until_written("probe", False)
        yield
    finally:
        control_plane.kubectl("delete", kind, stage.namespace)
        await stage.until_written("probe", True)


async def test_what_fails_to_be_written_keeps_back_neither_the_rest_nor_the_statuses(
    stage: Stage, control_plane: ControlPlane
) -> None:
    await stage.apply("ModelFleet", "vision", {})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    async with broken_webhook(stage, control_plane, "services", "secrets"):
        await stage.client.delete(kinds.SERVICE, stage.namespace, "vision")
        await stage.client.delete(kinds.SECRET, stage.namespace, "vision-auth")
        await stage.apply("ModelDeployment", "web", {**SPEC, "fleet": "vision", "replicas": 2})
        with pytest.raises(ExceptionGroup) as caught:
            await stage.passes("vision", 1)
        assert [type(each) for each in caught.value.exceptions] == [Unreachable, Unreachable]
        live = (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]
        assert '"min_replicas": 2' in live["serveConfigV2"].split("web-")[1]
        ready, degraded = await stage.condition("web", "Ready"), await stage.condition("web", "Degraded")
        assert (ready["status"], ready["reason"]) == ("False", "WriteFailed"), "there is no address to call"
        assert degraded["reason"] == "WriteFailed"
        assert "Secret vision-auth" in degraded["message"]
        assert "failed calling webhook" in degraded["message"]
        told = await stage.get(kinds.MODEL_DEPLOYMENT, "web")
        for _ in range(10):
            with pytest.raises(ExceptionGroup):
                await stage.passes("vision", 1)
        again = await stage.get(kinds.MODEL_DEPLOYMENT, "web")
        assert again["status"] == told["status"], "whichever of the two failed first"
        fleet = (await stage.get(kinds.MODEL_FLEET, "vision"))["status"]
        assert "WriteFailed" in {each["reason"] for each in fleet["conditions"]}
    await stage.passes("vision", 3)
    assert (await stage.condition("web", "Ready"))["status"] == "True"
    assert (await stage.condition("web", "Degraded"))["reason"] != "WriteFailed"


async def test_what_hangs_keeps_no_status_from_being_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    real = stage.client.apply

    async def hanging(obj: Json, **options: Any) -> Json:
        if obj["kind"] == "Secret":
            await asyncio.Event().wait()
        return await real(obj, **options)

    await stage.restart(deadline_s=2)
    await stage.model("web")
    monkeypatch.setattr(stage.client, "apply", hanging)
    with pytest.raises(Unreachable, match=r"longer than 1\.2 s"):
        await stage.passes("web", 1)
    degraded = await stage.condition("web", "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "WriteFailed")
