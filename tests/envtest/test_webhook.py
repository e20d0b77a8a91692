"""Webhooks delivered to whole operator processes, of which one leads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.control_plane import ControlPlane
from envtest.stage import Stage
from operator_process import Operator
from registry.stand_in import stand_in
from registry.test_resolutions import numbers, registry

from rayfleet_operator.controller import Waking
from rayfleet_operator.kube import kinds
from rayfleet_operator.registry import deliveries
from rayfleet_operator.registry.deliveries import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER

BODY = b'{"entity": "model_version_alias", "action": "created", "data": {"name": "digits"}}'


def signed(name: str, key: bytes = b"hush") -> dict[str, str]:
    at = f"{time.time():.0f}"
    return {ID_HEADER: name, TIMESTAMP_HEADER: at, SIGNATURE_HEADER: deliveries.signature(key, name, at, BODY)}


@pytest.fixture
def pair(control_plane: ControlPlane, tmp_path: Path) -> Iterator[tuple[Operator, Operator]]:
    """One that leads, and one that stands by."""
    namespace = f"webhook-{os.urandom(4).hex()}"
    control_plane.kubectl("create", "namespace", namespace)
    key = tmp_path / "key"
    key.write_text("hush\n")
    operators = []
    try:
        for name in ("first", "second"):
            operators.append(
                Operator(
                    control_plane.kubeconfig,
                    name,
                    RAYFLEET_NAMESPACES=namespace,
                    RAYFLEET_OPERATOR_NAMESPACE=namespace,
                    RAYFLEET_REGISTRY_WEBHOOK=str(key),
                )
            )
            if name == "first":
                operators[0].until_working()
        operators[1].until("it stands by", lambda: "first holds the Lease" in operators[1].log)
        yield operators[0], operators[1]
    finally:
        for each in operators:
            each.end()


def test_who_leads_takes_a_delivery_and_who_stands_by_has_it_tried_again(
    pair: tuple[Operator, Operator], tmp_path: Path
) -> None:
    first, second = pair
    delivery = signed("one")
    refusal = second.deliver(BODY, delivery)
    assert (refusal.status_code, refusal.headers["connection"]) == (503, "close")
    assert first.deliver(BODY, delivery).status_code == 204
    first.until("it wakes the model", lambda: [each.get("model") for each in first.said].count("digits") == 1)
    assert first.deliver(BODY, delivery).status_code == 409
    assert first.deliver(BODY, signed("two", b"wrong")).status_code == 401
    metrics = first.get("metrics", "/metrics").text
    for result in ("accepted", "replayed", "signature"):
        assert f'rayfleet_registry_webhook_deliveries_total{{result="{result}"}} 1.0' in metrics
    assert second.ready, "who stands by is well"
    assert second.count("woken") == 0

    first.send(signal.SIGTERM)
    assert first.wait() == 0
    second.until_working()
    assert second.deliver(BODY, signed("three")).status_code == 204
    second.until("it wakes the model", lambda: second.count("woken") == 1)

    (tmp_path / "key").unlink()
    assert second.deliver(BODY, signed("four")).status_code == 503
    ready = second.get("health", "/readyz")
    assert ready.status_code == 200, "webhooks are of some use, and the operator is of more"
    assert "registry webhook: the key cannot be read" in ready.text


async def test_a_model_that_is_woken_has_its_new_version_in_its_status(stage: Stage) -> None:
    numbers.clear()
    async with stand_in(registry) as server:
        at = {"trackingUri": server.uri, "pollInterval": "24h"}
        spec = {"model": {"uri": "models:/digits@champion", "registry": at}, "resources": {"cpu": "1"}}
        await stage.apply("ModelDeployment", "web", spec)

        async def resolved(version: str) -> bool:
            status = (await stage.get(kinds.MODEL_DEPLOYMENT, "web")).get("status", {})
            return bool(status.get("resolved", {}).get("version") == version)

        await stage.until("web", lambda: resolved("1"), "it is resolved")
        numbers["digits"] += 1
        assert isinstance(stage.reconciler, Waking)
        stage.reconciler.wake("digits")
        await stage.until("web", lambda: resolved("2"), "it is resolved anew")
