"""Passes of the reconciler on a real API server, with a stand-in for KubeRay and Ray: what one pass must not lose."""

from __future__ import annotations

import base64
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from cluster.control_plane import ControlPlane
from ray_stand_in import APPLICATIONS, TRAFFIC, RayStandIn, answering

from rayfleet_operator.kube import config, kinds
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.errors import KubeError, Unreachable
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.kube.references import References
from rayfleet_operator.reconcile import wanted
from rayfleet_operator.reconcile.reconciler import FleetReconciler
from rayfleet_operator.render.names import annotation
from rayfleet_operator.settings import Settings

Json = dict[str, Any]

NOWHERE = "http://127.0.0.1:9"
"""No registry answers there: models are what their statuses say that they were."""
DEFAULTS = {
    "image": "serving:1",
    "rayVersion": "2.60.0",
    "workerGroups": [{"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi"}],
}

SPEC = {"model": {"uri": "models:/web/1", "registry": {"trackingUri": NOWHERE}}, "resources": {"cpu": "1"}}
"""Of the model web."""
PODS = {
    "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "ray", "image": "other:1"}]}}}
}
"""Of somebody else's Ray cluster."""


@dataclass
class Stage:
    """One namespace, one reconciler, and a Ray that runs whatever it is given."""

    client: KubeClient
    namespace: str
    ray: RayStandIn
    references: References[FleetKey]
    reconciler: FleetReconciler

    async def restart(self, **defaults: Any) -> None:
        """Another operator, with fleet defaults of its own."""
        await self.reconciler.close()
        self.reconciler = started(self.client, self.namespace, self.references, {**DEFAULTS, **defaults})

    async def model(self, name: str, *, fleet: str | None = None, **model: Any) -> None:
        """A model that was resolved before."""
        uri = f"models:/{name}/1"
        spec = {"model": {"uri": uri, "registry": {"trackingUri": NOWHERE}, **model}, "resources": {"cpu": "1"}}
        await self.apply("ModelDeployment", name, {**spec, **({"fleet": fleet} if fleet else {})})
        resolved = {
            "uri": uri,
            "trackingUri": NOWHERE,
            "version": "1",
            "modelId": "m-" + "0" * 32,
            "artifactUri": "s3://b/m",
        }
        obj = self.object("ModelDeployment", name)
        await self.client.apply_status({**obj, "status": {"resolved": resolved}}, field_manager="before")

    def object(self, kind: str, name: str) -> Json:
        return {
            "apiVersion": "rayfleet.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
        }

    async def apply(self, kind: str, name: str, spec: Json) -> None:
        await self.client.apply({**self.object(kind, name), "spec": spec}, field_manager="person", force=True)

    async def get(self, kind: kinds.Kind, name: str) -> Json:
        found = await self.client.get(kind, self.namespace, name)
        assert found is not None, f"{kind} {name} is not there"
        return found

    async def passes(self, fleet: str, times: int = 3) -> None:
        """Let the operator and its Ray take turns."""
        for _ in range(times):
            await self.reconciler.reconcile(FleetKey(self.namespace, fleet))
            service = await self.client.get(kinds.RAY_SERVICE, self.namespace, fleet)
            if service is not None:
                await self.ray.serve(service)

    async def secret(self, name: str, data: dict[str, str]) -> None:
        """As a person writes it, or again."""
        metadata = {"name": name, "namespace": self.namespace}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
        await self.client.apply(body, field_manager="person", force=True)

    async def until(self, fleet: str, done: Callable[[], Awaitable[bool]], what: str) -> None:
        """Passes, until what the operator watches has been heard of as well."""
        end = time.monotonic() + 30
        while not await done():
            assert time.monotonic() < end, f"not so: {what}"
            await self.passes(fleet, 1)

    async def until_written(self, secret: str, taken: bool) -> None:
        """Until the API server takes this Secret, or no longer takes it."""
        end = time.monotonic() + 30
        for number in itertools.count():
            try:
                await self.secret(secret, {"number": str(number)})
                if taken:
                    return
            except KubeError:
                if not taken:
                    return
            assert time.monotonic() < end, "the API server goes on as before"

    async def holds(self, secret: str, data: dict[str, str] | None) -> bool:
        """Whether the Secret is there with exactly this, in base64."""
        found = await self.client.get(kinds.SECRET, self.namespace, secret)
        return found is not None and found.get("data") == data

    async def condition(self, name: str, kind: str) -> Json:
        status = (await self.get(kinds.MODEL_DEPLOYMENT, name))["status"]
        found: Json = next(each for each in status["conditions"] if each["type"] == kind)
        return found

    async def is_ready(self, model: str) -> bool:
        conditions = (await self.get(kinds.MODEL_DEPLOYMENT, model))["status"].get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    async def degraded(self, fleet: str, reason: str) -> bool:
        conditions = (await self.get(kinds.MODEL_FLEET, fleet))["status"]["conditions"]
        return any(each["type"] == "Degraded" and each["reason"] == reason for each in conditions)

    async def environment(self, fleet: str) -> str:
        """What the fleet's pods have read, or are to read, says its RayService."""
        return annotation(await self.get(kinds.RAY_SERVICE, fleet), "rayfleet.io/environment")

    async def copy_annotations(self, fleet: str) -> None:
        """As KubeRay does when it changes a cluster in place."""
        annotations = (await self.get(kinds.RAY_SERVICE, fleet))["metadata"]["annotations"]
        operation = {"op": "add", "path": "/metadata/annotations", "value": annotations}
        await self.client.patch_json(kinds.RAY_CLUSTER, self.namespace, f"{fleet}-abcde", [operation])

    async def images(self, fleet: str) -> set[str]:
        """Of the pods that the fleet asks KubeRay for."""
        return _images((await self.get(kinds.RAY_SERVICE, fleet))["spec"]["rayClusterConfig"])

    async def kept_images(self, fleet: str) -> list[set[str]]:
        """Of each revision of the fleet, the oldest first."""
        found = await self.client.list(
            kinds.CONTROLLER_REVISION, self.namespace, labels=f"rayfleet.io/fleet={fleet}", cached=False
        )
        return [_images(each["data"]["rayClusterConfig"]) for each in sorted(found, key=lambda each: each["revision"])]

    async def sizes(self, fleet: str) -> tuple[int, int]:
        """How many workers the fleet's only cluster must have, and how many it has, in its only group."""
        (live,) = (await self.get(kinds.RAY_CLUSTER, f"{fleet}-abcde"))["spec"]["workerGroupSpecs"]
        return live["minReplicas"], live["replicas"]


def _images(cluster: Json) -> set[str]:
    templates = [cluster["headGroupSpec"]["template"], *(each["template"] for each in cluster["workerGroupSpecs"])]
    return {container["image"] for template in templates for container in template["spec"]["containers"]}


def started(client: KubeClient, namespace: str, references: References[FleetKey], defaults: Json) -> FleetReconciler:
    settings = Settings(operator_namespace=namespace, fleet_defaults=defaults)
    return FleetReconciler(settings, client, references, lambda key: None)


@pytest.fixture
async def stage(control_plane: ControlPlane) -> AsyncIterator[Stage]:
    namespace = f"reconcile-{os.urandom(4).hex()}"
    control_plane.kubectl("create", "namespace", namespace)
    control_plane.kubectl("create", "serviceaccount", "default", "-n", namespace)
    async with KubeClient(config.load(str(control_plane.kubeconfig))) as client:
        ray = RayStandIn(client)
        references: References[FleetKey] = References(client, lambda key: None)
        stage = Stage(client, namespace, ray, references, started(client, namespace, references, DEFAULTS))
        async with answering(ray):
            yield stage
        await stage.reconciler.close()
        await references.close()


async def test_a_model_becomes_ready_and_then_nothing_is_written(stage: Stage) -> None:
    await stage.model("web")
    await stage.passes("web", 5)
    assert (await stage.condition("web", "Ready"))["status"] == "True"
    before = [await stage.get(kind, "web") for kind in (kinds.MODEL_DEPLOYMENT, kinds.RAY_SERVICE, kinds.SERVICE)]
    await stage.passes("web", 3)
    after = [await stage.get(kind, "web") for kind in (kinds.MODEL_DEPLOYMENT, kinds.RAY_SERVICE, kinds.SERVICE)]
    assert after == before


@pytest.mark.parametrize("lost", [{APPLICATIONS}, {TRAFFIC}, {APPLICATIONS, TRAFFIC}])
@pytest.mark.parametrize("models", [["web"], []])
async def test_one_lost_answer_changes_no_status_and_is_looked_for_again(
    stage: Stage, models: list[str], lost: set[str]
) -> None:
    await stage.apply("ModelFleet", "vision", {})
    for name in models:
        await stage.model(name, fleet="vision")
    await stage.passes("vision", 5)
    told = [(kinds.MODEL_FLEET, "vision"), *((kinds.MODEL_DEPLOYMENT, name) for name in models)]
    before = [await stage.get(kind, name) for kind, name in told]
    events = await stage.client.list(kinds.EVENT, stage.namespace)
    key = FleetKey(stage.namespace, "vision")
    for silent in (set(), lost, set()):
        stage.ray.silent = silent
        again = (await stage.reconciler.reconcile(key)).requeue_after
        assert (again is not None) == bool(silent)
        assert [await stage.get(kind, name) for kind, name in told] == before
    assert await stage.client.list(kinds.EVENT, stage.namespace) == events


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


async def test_a_refused_change_of_the_pods_keeps_neither_the_service_nor_new_settings_back(stage: Stage) -> None:
    await stage.apply("ModelFleet", "vision", {})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    pods = (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]["rayClusterConfig"]
    bad = {"spec": {"containers": [{"name": "ray-head", "resources": {"limits": {"cpu": "much"}}}]}}
    await stage.apply("ModelFleet", "vision", {"head": {"template": bad}})
    await stage.client.patch_json(
        kinds.SERVICE,
        stage.namespace,
        "vision",
        [{"op": "replace", "path": "/spec/selector/ray.io~1cluster", "value": "gone"}],
    )
    await stage.apply("ModelDeployment", "web", {**SPEC, "fleet": "vision", "replicas": 2})
    await stage.passes("vision", 3)
    assert (await stage.get(kinds.SERVICE, "vision"))["spec"]["selector"]["ray.io/cluster"] == "vision-abcde"
    live = (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]
    assert live["rayClusterConfig"] == pods
    assert '"num_replicas": 2' in live["serveConfigV2"].split("web-")[1]
    degraded = await stage.condition("web", "Degraded")
    assert degraded["status"] == "True"
    assert "cpu" in degraded["message"]


async def test_what_was_refused_is_rendered_anew_as_soon_as_it_can_be_taken(stage: Stage) -> None:
    bad = {"spec": {"containers": [{"name": "ray-head", "resources": {"limits": {"cpu": "much"}}}]}}
    await stage.restart(head={"template": bad})
    await stage.model("web")
    await stage.passes("web", 2)
    assert (await stage.condition("web", "Degraded"))["reason"] == "RayServiceRefused"
    await stage.restart()
    await stage.passes("web", 5)
    assert (await stage.condition("web", "Ready"))["status"] == "True"


async def test_a_deleted_ray_service_is_rendered_by_todays_defaults_and_kept_so(stage: Stage) -> None:
    await stage.model("web")
    await stage.passes("web", 3)
    await stage.restart(image="serving:2")
    await stage.passes("web", 2)
    assert await stage.images("web") == {"serving:1"}
    assert await stage.kept_images("web") == [{"serving:1"}]
    await stage.client.delete(kinds.RAY_SERVICE, stage.namespace, "web")
    await stage.passes("web", 2)
    assert await stage.images("web") == {"serving:2"}
    assert await stage.kept_images("web") == [{"serving:2"}]


async def test_other_defaults_change_nothing_of_a_fleet_that_exists_until_it_is_restarted(stage: Stage) -> None:
    await stage.apply("ModelFleet", "vision", {})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 3)
    await stage.restart(workerGroups=[{"name": "workers", "cpu": "1"}])
    await stage.apply("ModelDeployment", "web", {**SPEC, "fleet": "vision", "resources": {"cpu": "8"}})
    await stage.passes("vision", 3)
    assert await stage.sizes("vision") == (3, 3)
    assert (await stage.condition("web", "Degraded"))["reason"] != "InsufficientCapacity"
    metadata = {**stage.object("ModelFleet", "vision")["metadata"], "annotations": {"rayfleet.io/restart": "now"}}
    await stage.client.apply({**stage.object("ModelFleet", "vision"), "metadata": metadata}, field_manager="restart")
    await stage.passes("vision", 2)
    (asked,) = (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (asked["minReplicas"], asked["rayStartParams"]["num-cpus"]) == (1, "1")
    assert await stage.sizes("vision") == (3, 3), "the cluster that is to be replaced"
    assert (await stage.condition("web", "Degraded"))["reason"] == "InsufficientCapacity"


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


async def test_a_changed_environment_is_told_of_until_the_pods_are_replaced(stage: Stage) -> None:
    group = {"name": "workers", "cpu": "8", "memory": "8Gi"}
    spec: Json = {"envFrom": [{"secretName": "tokens"}], "workerGroups": [group]}
    await stage.secret("tokens", {"TOKEN": "old"})
    await stage.apply("ModelFleet", "vision", spec)
    await stage.model("web", fleet="vision")
    await stage.until("vision", lambda: stage.is_ready("web"), "the model answers")
    read = await stage.environment("vision")
    await stage.secret("tokens", {"TOKEN": "new"})
    await stage.until("vision", lambda: stage.degraded("vision", "EnvironmentChanged"), "the change is told of")
    # Another group is added in place; and another KubeRay writes its name on every cluster.
    await stage.apply("ModelFleet", "vision", {**spec, "workerGroups": [group, {"name": "more"}]})
    await stage.passes("vision", 2)
    await stage.copy_annotations("vision")
    await stage.passes("vision", 2)
    assert await stage.degraded("vision", "EnvironmentChanged")
    assert await stage.environment("vision") == read
    await stage.apply("ModelFleet", "vision", {**spec, "image": "serving:2", "rayVersion": "2.60.0"})
    await stage.passes("vision", 2)
    assert await stage.environment("vision") != read


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
        assert '"num_replicas": 2' in live["serveConfigV2"].split("web-")[1]
        ready, degraded = await stage.condition("web", "Ready"), await stage.condition("web", "Degraded")
        assert (ready["status"], ready["reason"]) == ("False", "WriteFailed"), "there is no address to call"
        assert degraded["reason"] == "WriteFailed"
        assert "Secret vision-auth" in degraded["message"]
        assert "failed calling webhook" in degraded["message"]
        fleet = (await stage.get(kinds.MODEL_FLEET, "vision"))["status"]
        assert "WriteFailed" in {each["reason"] for each in fleet["conditions"]}
    await stage.passes("vision", 3)
    assert (await stage.condition("web", "Ready"))["status"] == "True"
    assert (await stage.condition("web", "Degraded"))["reason"] != "WriteFailed"


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


async def test_fewer_and_larger_workers_take_none_from_the_cluster_that_serves(stage: Stage) -> None:
    group = {"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi"}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    await stage.apply("ModelFleet", "vision", {"workerGroups": [{**group, "minReplicas": 1, "cpu": "24"}]})
    await stage.passes("vision", 3)
    assert await stage.sizes("vision") == (3, 3)


async def test_an_upgrade_gives_the_cluster_that_serves_no_more_workers(stage: Stage) -> None:
    group = {"name": "workers", "minReplicas": 1, "cpu": "24", "memory": "8Gi"}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    await stage.apply("ModelFleet", "vision", {"workerGroups": [{**group, "minReplicas": 6, "cpu": "4"}]})
    await stage.passes("vision", 3)
    (asked,) = (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert asked["minReplicas"] == 6
    assert await stage.sizes("vision") == (1, 1)


async def test_a_refused_change_takes_no_workers_away(stage: Stage) -> None:
    group = {"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi"}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    bad = {"spec": {"containers": [{"name": "ray-worker", "resources": {"limits": {"cpu": "much"}}}]}}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [{**group, "minReplicas": 1, "template": bad}]})
    await stage.passes("vision", 3)
    assert await stage.sizes("vision") == (3, 3)


async def test_sizes_reach_a_cluster_that_was_made_for_another_spec_of_the_same_pods(stage: Stage) -> None:
    group = {"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi"}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    for replicas in (4, 2, 5, 1, 3):
        # KubeRay does not look at tolerations, and keeps the cluster that there is.
        tolerant = {"spec": {"tolerations": [{"key": f"pool-{replicas}", "operator": "Exists"}]}}
        await stage.apply(
            "ModelFleet", "vision", {"workerGroups": [{**group, "minReplicas": replicas, "template": tolerant}]}
        )
        await stage.passes("vision", 2)
        assert await stage.sizes("vision") == (replicas, replicas)


async def test_fewer_workers_of_the_same_kind_are_taken_in_place(stage: Stage) -> None:
    group = {"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi"}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    await stage.apply("ModelFleet", "vision", {"workerGroups": [{**group, "minReplicas": 2}]})
    await stage.passes("vision", 2)
    assert await stage.sizes("vision") == (2, 2)


async def test_what_was_said_stays_said_of_a_model_that_can_no_longer_be_read(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older operator beside newer definitions: an unknown field is passed over, and nothing is written again."""
    await stage.model("web")
    await stage.passes("web", 5)
    before = (await stage.get(kinds.MODEL_DEPLOYMENT, "web"))["status"]
    real = stage.client.get

    async def with_more(kind: kinds.Kind, namespace: str, name: str) -> Json | None:
        found = await real(kind, namespace, name)
        if found is not None and kind == kinds.MODEL_DEPLOYMENT:
            found["spec"]["model"]["invented"] = {"later": True}
        return found

    monkeypatch.setattr(stage.client, "get", with_more)
    await stage.passes("web", 3)
    assert (await stage.get(kinds.MODEL_DEPLOYMENT, "web"))["status"] == before


def test_a_model_of_a_name_that_none_may_have_today_is_told_so_and_keeps_its_place() -> None:
    metadata = {"name": "old-serve-svc", "namespace": "ml", "generation": 7}
    good, problems = wanted.parsed({"old-serve-svc": {"metadata": metadata, "spec": {"model": {"uri": "models:/a/1"}}}})
    assert [(each.metadata.name, each.metadata.generation) for each in good] == [("old-serve-svc", 7)]
    assert "KubeRay" in problems["old-serve-svc"].message
