"""A rendered cluster that is there already: what it makes of the fleet's spec, and what KubeRay changes in it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from pydantic import ValidationError

from rayfleet_operator.api.environment import SecretOrConfigMap
from rayfleet_operator.api.fleet import ModelFleetSpec, WorkerGroup
from rayfleet_operator.api.template import HEAD, WORKER

Json = dict[str, Any]

_SIZES = ("replicas", "minReplicas", "maxReplicas")
_UNCOMPARED = ("tolerations", "schedulingGates")
"""Of a pod's spec: others may write them into a RayCluster, so KubeRay takes no notice."""


def meant(spec: ModelFleetSpec, cluster: Json, written: Container[str]) -> ModelFleetSpec:
    """The spec of a fleet whose pods are those of the rendered `cluster`: fields that are not `written` mean what they
    meant when it was rendered, whatever the administrator's defaults are today. Only fields that matter after that."""
    found: Json = {}
    try:
        if "workerGroups" not in written:
            found["worker_groups"] = [_rendered_group(rendered) for rendered in cluster["workerGroupSpecs"]]
        if "envFrom" not in written:
            head = cluster["headGroupSpec"]["template"]["spec"]["containers"]
            found["env_from"] = _rendered_sources(_named(head, HEAD).get("envFrom") or [])
    except (LookupError, TypeError, AttributeError, StopIteration, ValidationError):
        # Somebody wrote into it; the next apply puts that right.
        return spec
    return spec.model_copy(update=found)


def _rendered_group(rendered: Json) -> WorkerGroup:
    """A worker group with the sizes that were rendered, and with what its pods have."""
    own = _named(rendered["template"]["spec"]["containers"], WORKER)
    pod = {"containers": [{"name": WORKER, "resources": {"limits": own["resources"]["limits"]}}]}
    return WorkerGroup.model_validate(
        {
            "name": rendered["groupName"],
            "minReplicas": rendered["minReplicas"],
            "maxReplicas": rendered["maxReplicas"],
            "cpu": rendered["rayStartParams"]["num-cpus"],
            "template": {"spec": pod},
        }
    )


def _rendered_sources(rendered: Sequence[Json]) -> list[SecretOrConfigMap]:
    fields = {"secretRef": "secretName", "configMapRef": "configMapName"}
    return [
        SecretOrConfigMap.model_validate({fields[kind]: each[kind]["name"]})
        for each in rendered
        for kind in fields.keys() & each.keys()
    ]


def _named(containers: Sequence[Json], name: str) -> Json:
    return next(each for each in containers if each["name"] == name)


def in_place(before: Json, after: Json) -> bool:
    """Whether KubeRay makes `after` out of a cluster rendered as `before`, and builds no other: of what it compares,
    nothing differs but worker groups that were added at the end."""
    groups = after["workerGroupSpecs"][: len(before["workerGroupSpecs"])]
    return _compared(before) == _compared({**after, "workerGroupSpecs": groups})


def _compared(cluster: Json) -> Json:
    """What KubeRay tells clusters apart by."""
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    sizeless = [{key: value for key, value in group.items() if key not in _SIZES} for group in groups]
    return {**cluster, "headGroupSpec": _compared_pods(head), "workerGroupSpecs": [*map(_compared_pods, sizeless)]}


def _compared_pods(group: Json) -> Json:
    template = group["template"]
    pod = {key: value for key, value in template["spec"].items() if key not in _UNCOMPARED}
    return {**group, "template": {**template, "spec": pod}}
