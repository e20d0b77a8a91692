"""Passes of the reconciler beside what others own, or write into what is ours."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from envtest.stage import Stage

from rayfleet_operator.kube import kinds

Json = dict[str, Any]

PODS = {
    "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "ray", "image": "other:1"}]}}}
}
"""Of somebody else's Ray cluster."""


async def test_a_service_of_somebody_else_is_left_alone_and_makes_the_model_not_ready(stage: Stage) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": stage.namespace},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]},
    }
    await stage.client.create(theirs)
    await stage.model("web")
    await stage.passes("web", 5)
    assert (await stage.get(kinds.SERVICE, "web"))["spec"]["selector"] == {"app": "theirs"}
    ready = await stage.condition("web", "Ready")
    assert ready["status"] == "False"
    assert "Service web" in ready["message"]


async def test_other_keys_leave_the_fleets_secrets_and_somebody_elses_secret_stays_as_it_is(stage: Stage) -> None:
    await stage.secret("web-auth", {"theirs": "sesame"})
    await stage.model("web")
    await stage.passes("web", 3)
    theirs = {"theirs": base64.b64encode(b"sesame").decode()}
    assert await stage.holds("web-auth", theirs)
    assert "Secret web-auth" in (await stage.condition("web", "Degraded"))["message"]
    await stage.client.delete(kinds.SECRET, stage.namespace, "web-auth")
    await stage.passes("web", 1)
    ours = (await stage.get(kinds.SECRET, "web-auth"))["data"]
    await stage.secret("web-auth", {"theirs": "sesame"})
    assert await stage.holds("web-auth", {**ours, **theirs})
    await stage.passes("web", 1)
    assert await stage.holds("web-auth", ours)


async def selector(stage: Stage, kind: kinds.Kind) -> Json:
    spec: Json = (await stage.get(kind, "web"))["spec"]
    found: Json = spec["selector"] if kind == kinds.SERVICE else spec["podSelector"]["matchLabels"]
    return found


@pytest.mark.parametrize("kind", [kinds.SERVICE, kinds.NETWORK_POLICY], ids=["service", "networkpolicy"])
async def test_another_label_leaves_a_selector(stage: Stage, kind: kinds.Kind) -> None:
    """With it, it would select no pod of the fleet's."""
    await stage.model("web")
    await stage.passes("web", 4)
    before = await selector(stage, kind)
    path = "/spec/selector" if kind == kinds.SERVICE else "/spec/podSelector/matchLabels"
    added = {"op": "add", "path": f"{path}/example.com~1tier", "value": "gold"}
    await stage.client.patch_json(kind, stage.namespace, "web", [added])
    assert await selector(stage, kind) == {**before, "example.com/tier": "gold"}
    await stage.passes("web", 1)
    assert await selector(stage, kind) == before != {}


async def test_a_ray_service_of_somebody_else_is_neither_called_nor_changed(stage: Stage) -> None:
    theirs = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {
            "name": "web",
            "namespace": stage.namespace,
            "labels": {"team": "theirs"},
            "annotations": {"a": "b"},
        },
        "spec": {"serveConfigV2": '{"applications": []}', "rayClusterConfig": PODS},
    }
    await stage.client.create(theirs)
    await stage.ray.serve(await stage.get(kinds.RAY_SERVICE, "web"))
    before = await stage.get(kinds.RAY_SERVICE, "web")
    await stage.model("web")
    await stage.passes("web", 3)
    assert await stage.get(kinds.RAY_SERVICE, "web") == before
    # Their pods are ready and would be chosen by it.
    assert await stage.client.get(kinds.SERVICE, stage.namespace, "web") is None
    assert (await stage.condition("web", "Ready"))["status"] == "False"
    degraded = await stage.condition("web", "Degraded")
    assert degraded["reason"] == "RayServiceRefused"
    assert "RayService web" in degraded["message"]
