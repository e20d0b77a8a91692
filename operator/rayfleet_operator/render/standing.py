"""A rendered cluster that is there already: what it makes of the fleet's spec, and what KubeRay changes in it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from rayfleet_operator.api.environment import SecretOrConfigMap
from rayfleet_operator.api.fleet import ModelFleetSpec, WorkerGroup
from rayfleet_operator.api.template import HEAD, WORKER
from rayfleet_operator.plan import room
from rayfleet_operator.render import raycluster

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
            memory = {group.name: group.gpu_memory for group in spec.worker_groups}
            found["worker_groups"] = _rendered_groups(cluster["workerGroupSpecs"], memory)
        if "envFrom" not in written:
            head = cluster["headGroupSpec"]["template"]["spec"]["containers"]
            found["env_from"] = _rendered_sources(_named(head, HEAD).get("envFrom") or [])
    except (LookupError, TypeError, AttributeError, StopIteration, ValidationError):
        # Somebody wrote into it; the next apply puts that right.
        return spec
    return spec.model_copy(update=found)


def _rendered_groups(rendered: Sequence[Json], gpu_memory: Mapping[str, str | None]) -> list[WorkerGroup]:
    """How much memory their GPUs have stands nowhere in the pods: it is what it is today, by name."""
    on_demand = [room.ON_DEMAND in raycluster.offers(each["rayStartParams"]) for each in rendered]
    groups = [
        _rendered_group(each, spot=any(on_demand) and not own) for each, own in zip(rendered, on_demand, strict=True)
    ]
    return [each.model_copy(update={"gpu_memory": gpu_memory.get(each.name)}) for each in groups]


def _rendered_group(rendered: Json, *, spot: bool) -> WorkerGroup:
    """A worker group with the sizes that were rendered, and with what its pods have."""
    own = _named(rendered["template"]["spec"]["containers"], WORKER)
    limits, params = own["resources"]["limits"], rendered["rayStartParams"]
    group = {
        "name": rendered["groupName"],
        "minReplicas": rendered["minReplicas"],
        "maxReplicas": rendered["maxReplicas"],
        "cpu": params["num-cpus"],
        "template": {"spec": {"containers": [{"name": WORKER, "resources": {"limits": limits}}]}},
        "spot": spot,
    }
    if "num-gpus" in params:
        number = int(params["num-gpus"])
        kinds = [name for name in raycluster.offers(params) if name.startswith(room.ACCELERATOR)]
        group |= {"gpu": number, "gpuResource": next(each for each in sorted(limits) if _counts(each, limits, number))}
        group |= {"accelerator": kinds[0].removeprefix(room.ACCELERATOR)} if kinds else {}
    return WorkerGroup.model_validate(group)


def _counts(name: str, limits: Json, number: int) -> bool:
    return "/" in name and str(limits[name]) == str(number)


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


def unnoticed(before: Json, after: Json) -> bool:
    """Whether `after` says something of the pods that KubeRay takes no notice of: it neither changes them nor builds
    another cluster, until something else does."""
    groups = len(before["workerGroupSpecs"])
    if len(after["workerGroupSpecs"]) != groups or not in_place(before, after):
        # Where groups are added, the whole is written into the live cluster, for pods that are made after that.
        return False
    return _sizeless(before) != _sizeless(after)


def _sizeless(cluster: Json) -> Json:
    groups = cluster["workerGroupSpecs"]
    sizeless = [{key: value for key, value in group.items() if key not in _SIZES} for group in groups]
    return {**cluster, "workerGroupSpecs": sizeless}


def _compared(cluster: Json) -> Json:
    """What KubeRay tells clusters apart by."""
    head, groups = cluster["headGroupSpec"], _sizeless(cluster)["workerGroupSpecs"]
    return {**cluster, "headGroupSpec": _compared_pods(head), "workerGroupSpecs": [*map(_compared_pods, groups)]}


def _compared_pods(group: Json) -> Json:
    template = group["template"]
    pod = {key: value for key, value in template["spec"].items() if key not in _UNCOMPARED}
    return {**group, "template": {**template, "spec": pod}}


def defaults(cluster: Json) -> Json:
    """Fields of a ModelFleet's spec as they were when `cluster` was rendered, for whoever does not know what the
    administrator's defaults are: image, Ray's version and worker groups, with what is known of them. Fields that cannot
    be read are left out."""
    found: Json = {}
    try:
        found["rayVersion"] = str(cluster["rayVersion"])
        found["image"] = str(_named(cluster["headGroupSpec"]["template"]["spec"]["containers"], HEAD)["image"])
    except (LookupError, TypeError, AttributeError, StopIteration):
        pass
    groups = meant(ModelFleetSpec(), cluster, ("envFrom",)).worker_groups
    if groups:
        found["workerGroups"] = [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in groups]
    return found
