"""One namespace of a real API server, one reconciler, and a stand-in for KubeRay and Ray."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cluster.control_plane import ControlPlane
from ray_stand_in import RayStandIn, answering

from rayfleet_operator.kube import config, kinds
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.errors import KubeError
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.kube.references import References
from rayfleet_operator.reconcile.reconciler import FleetReconciler
from rayfleet_operator.render.names import annotation
from rayfleet_operator.settings import PrometheusSettings, Settings

Json = dict[str, Any]

NOWHERE = "http://127.0.0.1:9"
"""No registry answers there: models are what their statuses say that they were."""
SPEC = {"model": {"uri": "models:/web/1", "registry": {"trackingUri": NOWHERE}}, "resources": {"cpu": "1"}}
"""Of the model web."""
DEFAULTS = {
    "image": "serving:1",
    "rayVersion": "2.60.0",
    "workerGroups": [{"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi"}],
}
NO_PROMETHEUS = PrometheusSettings()


@dataclass
class Stage:
    """One namespace, one reconciler, and a Ray that runs whatever it is given."""

    client: KubeClient
    namespace: str
    ray: RayStandIn
    references: References[FleetKey]
    reconciler: FleetReconciler

    async def restart(
        self, *, deadline_s: float = 60, prometheus: PrometheusSettings = NO_PROMETHEUS, **defaults: Any
    ) -> None:
        """Another operator, with fleet defaults of its own."""
        await self.reconciler.close()
        self.reconciler = started(
            self.client, self.namespace, self.references, {**DEFAULTS, **defaults}, deadline_s, prometheus
        )

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


def started(
    client: KubeClient,
    namespace: str,
    references: References[FleetKey],
    defaults: Json,
    deadline_s: float = 60,
    prometheus: PrometheusSettings = NO_PROMETHEUS,
) -> FleetReconciler:
    settings = Settings(
        operator_namespace=namespace,
        fleet_defaults=defaults,
        reconcile_deadline_s=deadline_s,
        prometheus=prometheus,
    )
    return FleetReconciler(settings, client, references, lambda key: None)


@asynccontextmanager
async def set_up(control_plane: ControlPlane) -> AsyncIterator[Stage]:
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
