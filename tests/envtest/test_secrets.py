"""Credentials of models, and what pods read when they start: what comes, goes and changes, and who must not notice."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from envtest.stage import NOWHERE, SPEC, Stage

from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.keys import FleetKey

Json = dict[str, Any]


HELD = {"web.MLFLOW_TRACKING_TOKEN": base64.b64encode(b"sesame").decode()}
"""What the fleet's Secret holds for the model web."""
REGISTRY = {"trackingUri": NOWHERE, "secretName": "token"}


async def test_a_restarted_operator_takes_no_credentials_away(stage: Stage) -> None:
    await stage.secret("token", {"MLFLOW_TRACKING_TOKEN": "sesame"})
    await stage.model("web", registry={"trackingUri": NOWHERE, "secretName": "token"})
    kept = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "web-credentials", "namespace": stage.namespace, "labels": {"rayfleet.io/fleet": "web"}},
        "data": {"web.MLFLOW_TRACKING_TOKEN": base64.b64encode(b"sesame").decode()},
    }
    await stage.client.create(kept)
    # The first pass of a new operator: the watch of the Secret has not answered yet.
    await stage.reconciler.reconcile(FleetKey(stage.namespace, "web"))
    assert (await stage.get(kinds.SECRET, "web-credentials"))["data"] == kept["data"]


@pytest.fixture
async def served(stage: Stage) -> Stage:
    """With a model that runs with credentials."""
    await stage.secret("token", {"MLFLOW_TRACKING_TOKEN": "sesame"})
    await stage.model("web", registry=REGISTRY)
    await stage.until("web", lambda: stage.holds("web-credentials", HELD), "the fleet has the credentials")
    await stage.until("web", lambda: stage.is_ready("web"), "the model answers")
    return stage


async def test_a_secret_that_is_gone_takes_nothing_from_what_serves(served: Stage) -> None:
    await served.client.delete(kinds.SECRET, served.namespace, "token")

    async def told() -> bool:
        return (await served.condition("web", "Degraded"))["reason"] == "CredentialsMissing"

    await served.until("web", told, "that it is missing is told")
    await served.passes("web", 3)
    assert await served.holds("web-credentials", HELD)
    new = {"web.MLFLOW_TRACKING_TOKEN": base64.b64encode(b"open").decode()}
    await served.secret("token", {"MLFLOW_TRACKING_TOKEN": "open"})
    await served.until("web", lambda: served.holds("web-credentials", new), "the new credentials are there")


async def test_credentials_that_are_no_longer_named_go_with_the_version_that_has_them(served: Stage) -> None:
    await served.apply("ModelDeployment", "web", SPEC)
    await served.reconciler.reconcile(FleetKey(served.namespace, "web"))
    assert await served.holds("web-credentials", HELD)
    await served.until("web", lambda: served.holds("web-credentials", None), "they are gone with the old version")
    assert await served.is_ready("web")


async def test_another_operators_key_makes_no_environment_look_changed(stage: Stage) -> None:
    group = {"name": "workers", "cpu": "8", "memory": "8Gi"}
    await stage.secret("tokens", {"TOKEN": "old"})
    await stage.apply("ModelFleet", "vision", {"envFrom": [{"secretName": "tokens"}], "workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.until("vision", lambda: stage.is_ready("web"), "the model answers")
    read = await stage.environment("vision")
    assert read
    await stage.client.delete(kinds.SECRET, stage.namespace, "rayfleet-operator-key")
    await stage.restart()
    await stage.passes("vision", 4)
    assert not await stage.degraded("vision", "EnvironmentChanged")
    assert await stage.environment("vision") == read
