"""Models that get another fleet, and fleets that nobody asks for any more."""

from __future__ import annotations

import base64
from typing import Any

from envtest.stage import NOWHERE, SPEC, Stage

from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.keys import FleetKey

Json = dict[str, Any]


async def test_the_token_outlives_the_fleet_until_its_ray_cluster_is_gone(stage: Stage) -> None:
    """KubeRay's last pod of a cluster with Redis has it in its environment."""
    await stage.model("web")
    await stage.passes("web", 4)
    (cluster,) = await stage.client.list(kinds.RAY_CLUSTER, stage.namespace)
    secret = await stage.get(kinds.SECRET, "web-auth")
    owners = {each["kind"]: each["uid"] for each in secret["metadata"]["ownerReferences"]}
    assert owners.keys() == {"ModelDeployment", "RayCluster"}
    assert owners["RayCluster"] == cluster["metadata"]["uid"]
    await stage.passes("web", 2)
    again = await stage.get(kinds.SECRET, "web-auth")
    assert again["metadata"]["resourceVersion"] == secret["metadata"]["resourceVersion"], "said once"


async def test_nobody_shares_the_fleet_that_a_model_has_for_its_own(stage: Stage) -> None:
    await stage.model("digits")
    await stage.model("web", fleet="digits")
    await stage.passes("digits", 5)
    assert (await stage.condition("digits", "Ready"))["status"] == "True"
    ready = await stage.condition("web", "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "FleetNotFound")
    assert "web-" not in (await stage.get(kinds.RAY_SERVICE, "digits"))["spec"]["serveConfigV2"]
    await stage.apply("ModelFleet", "digits", {})
    await stage.passes("digits", 5)
    assert (await stage.condition("web", "Ready"))["status"] == "True"
    await stage.client.delete(kinds.MODEL_FLEET, stage.namespace, "digits")
    await stage.passes("digits", 5)
    assert (await stage.condition("digits", "Ready"))["status"] == "True"
    assert (await stage.condition("web", "Ready"))["reason"] == "FleetNotFound"


async def test_a_model_that_names_itself_has_a_fleet_of_its_own(stage: Stage) -> None:
    await stage.model("web", fleet="web")
    await stage.passes("web", 5)
    assert (await stage.condition("web", "Ready"))["status"] == "True"


async def test_a_model_that_moves_keeps_its_credentials_until_the_new_fleet_answers(stage: Stage) -> None:
    held = {"web.MLFLOW_TRACKING_TOKEN": base64.b64encode(b"sesame").decode()}
    registry = {"trackingUri": NOWHERE, "secretName": "token"}
    await stage.secret("token", {"MLFLOW_TRACKING_TOKEN": "sesame"})
    await stage.apply("ModelFleet", "old", {})
    await stage.apply("ModelFleet", "new", {})
    await stage.model("web", fleet="old", registry=registry)
    await stage.until("old", lambda: stage.holds("old-credentials", held), "the old fleet has the credentials")
    await stage.passes("old", 3)
    await stage.apply(
        "ModelDeployment",
        "web",
        {"fleet": "new", "model": {"uri": "models:/web/1", "registry": registry}, "resources": {"cpu": "1"}},
    )
    await stage.passes("old", 3)
    assert await stage.holds("old-credentials", held)
    await stage.until("new", lambda: stage.holds("new-credentials", held), "the new fleet has the credentials")
    await stage.passes("new", 6)
    assert (await stage.condition("web", "Ready"))["status"] == "True"
    await stage.passes("old", 4)
    assert await stage.holds("old-credentials", None)


async def test_a_model_that_moves_is_served_by_its_old_fleet_until_the_new_one_answers(stage: Stage) -> None:
    await stage.apply("ModelFleet", "old", {})
    await stage.apply("ModelFleet", "new", {})
    await stage.model("web", fleet="old")
    await stage.passes("old", 5)
    await stage.apply("ModelDeployment", "web", {**SPEC, "fleet": "new"})
    await stage.passes("old", 3)
    assert "web-" in (await stage.get(kinds.RAY_SERVICE, "old"))["spec"]["serveConfigV2"]
    await stage.passes("new", 6)
    assert (await stage.condition("web", "Ready"))["status"] == "True"
    await stage.passes("old", 4)
    assert "web-" not in (await stage.get(kinds.RAY_SERVICE, "old"))["spec"]["serveConfigV2"]


async def test_what_a_model_had_of_its_own_goes_once_another_fleet_answers_and_the_token_last(stage: Stage) -> None:
    await stage.model("web")
    await stage.passes("web", 4)
    await stage.apply("ModelFleet", "new", {})
    await stage.apply("ModelDeployment", "web", {**SPEC, "fleet": "new"})
    key = FleetKey(stage.namespace, "web")
    await stage.reconciler.reconcile(key)
    await stage.get(kinds.RAY_SERVICE, "web")
    await stage.passes("new", 6)
    assert (await stage.condition("web", "Ready"))["status"] == "True"
    assert (await stage.reconciler.reconcile(key)).requeue_after is not None
    for kind in (kinds.RAY_SERVICE, kinds.SERVICE, kinds.NETWORK_POLICY):
        assert await stage.client.get(kind, stage.namespace, "web") is None, kind
    secret = await stage.get(kinds.SECRET, "web-auth")
    # The garbage collector, which does not run here, takes the cluster and then its name off the Secret.
    await stage.client.delete(kinds.RAY_CLUSTER, stage.namespace, "web-abcde")
    owners = secret["metadata"]["ownerReferences"]
    left = [each for each in owners if each["kind"] != "RayCluster"]
    assert len(owners) == len(left) + 1 == 2
    off = {"op": "replace", "path": "/metadata/ownerReferences", "value": left}
    await stage.client.patch_json(kinds.SECRET, stage.namespace, "web-auth", [off])
    assert (await stage.reconciler.reconcile(key)).requeue_after is None
    assert await stage.client.get(kinds.SECRET, stage.namespace, "web-auth") is None
