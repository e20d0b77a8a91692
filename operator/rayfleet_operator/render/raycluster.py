"""The RayCluster of a fleet, as it stands in its RayService.

KubeRay builds a whole new cluster for any byte that changes here, but for the sizes of worker groups and for groups
added at the end. So the result depends on the fleet's spec alone, and everything that may change while pods live
(weights, credentials, the number of pods) is somewhere else.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from rayfleet_operator.api import quantity
from rayfleet_operator.api.fleet import Head, ModelFleetSpec, WorkerGroup
from rayfleet_operator.api.template import HEAD, WORKER
from rayfleet_operator.plan import room
from rayfleet_operator.render.names import (
    DASHBOARD_PORT,
    FLEET_LABEL,
    GRPC_PORT,
    RESTART_ANNOTATION,
    SERVE_PORT,
    TOLERATIONS_ANNOTATION,
    FleetName,
)
from rayfleet_operator.render.template import merge

Json = dict[str, Any]

USER = 1000
"""uid and gid of the serving image."""
CACHE_DIR = "/var/cache/rayfleet"
CREDENTIALS_DIR = "/etc/rayfleet/credentials"
UNROUTED_S = 3
"""Until every node's kube-proxy has left out a pod that is deleted."""
DRAIN_S = 7
TERMINATION_GRACE_S = 30 + UNROUTED_S + DRAIN_S
"""For requests that a pod has when it is deleted."""
DRAIN = f"""\
sleep {UNROUTED_S}
for process in /proc/[0-9]*; do
  read -r name 2>/dev/null <$process/comm && [ "$name" = haproxy ] && kill -USR1 "${{process#/proc/}}"
done
sleep {DRAIN_S}
"""
"""Before Ray ends, HAProxy is told to take no new connection and to end each kept one with its next answer. Else it
would go on taking requests on kept connections for routers that are gone, and leave them without an answer. Not at
once: new connections come until the pod is in no Service's endpoints any more, and would be refused."""


_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""With the pod's own context, what Kubernetes' restricted Pod Security Standard asks for."""


def cluster_spec(fleet: FleetName, spec: ModelFleetSpec, restart: str = "") -> Json:
    """`spec.rayClusterConfig`.

    Args:
        spec: with every default filled in: image, Ray's version and worker groups are there.
        restart: value of the restart annotation, which pods carry as well: it is what tells a new cluster from the old.
    """
    rendered: Json = {
        "rayVersion": spec.ray_version,
        "authOptions": {"mode": "token", "secretName": fleet.auth_secret},
        "headGroupSpec": {
            # No model runs where losing the pod loses Ray's own state.
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 - asks for its token
            "template": _marked(_head_template(fleet, spec), restart),
        },
        "workerGroupSpecs": [_worker_group(fleet, spec, group, restart) for group in spec.worker_groups],
    }
    if elastic(spec):
        rendered["enableInTreeAutoscaling"] = True
        rendered["autoscalerOptions"] = {
            "securityContext": _RESTRICTED,
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - a path in the pod
            "resources": {"limits": {"cpu": "500m", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "512Mi"}},
        }
    if (storage := spec.head.gcs_fault_tolerance) is not None:
        options: Json = {"redisAddress": storage.redis_address}
        if (secret := storage.password_secret) is not None:
            options["redisPassword"] = {"valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
        rendered["gcsFaultToleranceOptions"] = options
    return rendered


def resized(cluster: Json, spec: ModelFleetSpec) -> Json:
    """A rendered cluster with the sizes that its worker groups should have now."""
    groups = {group.name: group for group in spec.worker_groups}
    return {
        **cluster,
        "workerGroupSpecs": [
            {**rendered, **_sizes(group)} if (group := groups.get(rendered["groupName"])) is not None else rendered
            for rendered in cluster["workerGroupSpecs"]
        ],
    }


def ordered(spec: ModelFleetSpec, before: Json | None) -> ModelFleetSpec:
    """The spec with its worker groups in the order of a cluster rendered `before`, new ones last: KubeRay takes added
    groups in place only at the end, and a list of named things has no order of its own."""
    if before is None:
        return spec
    places = {rendered["groupName"]: place for place, rendered in enumerate(before["workerGroupSpecs"])}
    groups = sorted(spec.worker_groups, key=lambda group: places.get(group.name, len(places)))
    return spec.model_copy(update={"worker_groups": groups})


def elastic(spec: ModelFleetSpec) -> bool:
    """Whether it needs Ray's autoscaler, which is a container of the head."""
    return any(group.ceiling > group.min_replicas for group in spec.worker_groups)


def _sizes(group: WorkerGroup) -> Json:
    return {"replicas": group.min_replicas, "minReplicas": group.min_replicas, "maxReplicas": group.ceiling}


def _marked(template: Json, restart: str) -> Json:
    if not restart:
        return template
    marked: Json = merge(template, {"metadata": {"annotations": {RESTART_ANNOTATION: restart}}})
    return marked


def _worker_group(fleet: FleetName, spec: ModelFleetSpec, group: WorkerGroup, restart: str) -> Json:
    resources = {"cpu": group.cpu, "memory": group.memory}
    if group.gpu is not None:
        resources[group.gpu_resource or room.NVIDIA] = str(group.gpu)
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {FLEET_LABEL: fleet.name, "ray.io/group": group.name}},
    }
    template = _template(fleet, spec, WORKER, resources, ports=[("metrics", 8080)])
    template["spec"] |= {"topologySpreadConstraints": [spread], "automountServiceAccountToken": False}
    template["spec"]["containers"][0]["lifecycle"] = {"preStop": {"exec": {"command": ["bash", "-c", DRAIN]}}}
    if group.image is not None:
        template["spec"]["containers"][0]["image"] = group.image
    if group.node_selector:
        template["spec"]["nodeSelector"] = dict(sorted(group.node_selector.items()))
    if group.tolerations:
        tolerations = [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in group.tolerations]
        template["spec"]["tolerations"] = tolerations
        # KubeRay takes no notice of tolerations, and the pods that run would go on without those that are new.
        template["metadata"]["annotations"] = {TOLERATIONS_ANNOTATION: _digest(tolerations)}
    return {
        "groupName": group.name,
        **_sizes(group),
        "rayStartParams": _start_params(group, on_demand=room.steady(spec) and not group.spot),
        "template": _marked(merge(template, group.template), restart),
    }


def _start_params(group: WorkerGroup, *, on_demand: bool) -> Json:
    """What Ray is told, and Ray's autoscaler of pods that are yet to come. Of GPUs only where KubeRay may not see them
    by itself, so that fleets which were there before keep their clusters."""
    # Ray counts in whole CPUs; a pod of half a CPU can still run one replica of half a CPU.
    params = {"num-cpus": str(math.ceil(quantity.parse_count(group.cpu)))}
    if group.gpu_resource is not None or group.accelerator is not None:
        params["num-gpus"] = str(room.Worker.of(group).gpus)
    offered = {f"{room.ACCELERATOR}{group.accelerator}": room.OFFERED} if group.accelerator is not None else {}
    if on_demand:
        offered[room.ON_DEMAND] = room.OFFERED
    if offered:
        # In the one form that KubeRay hands to a shell as it should, and that Ray's autoscaler reads.
        params["resources"] = '"' + json.dumps(offered, sort_keys=True).replace('"', '\\"') + '"'
    return params


def offers(params: Json) -> dict[str, int]:
    """The custom resources in rendered `rayStartParams`. Raises ValueError for another form."""
    written = str(params.get("resources", '"{}"'))
    found: dict[str, int] = json.loads(written[1:-1].replace("\\", ""))
    return found


def steady(cluster: Json) -> bool | None:
    """Whether routers can ask a rendered cluster for workers that are no spot ones; None where somebody wrote into it
    what says nothing of that."""
    try:
        return any(room.ON_DEMAND in offers(group["rayStartParams"]) for group in cluster["workerGroupSpecs"])
    except (LookupError, TypeError, AttributeError, ValueError):
        return None


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _head_template(fleet: FleetName, spec: ModelFleetSpec) -> Json:
    head: Head = spec.head
    ports = [
        ("gcs-server", 6379),
        ("dashboard", DASHBOARD_PORT),
        ("client", 10001),
        ("metrics", 8080),
        # KubeRay makes the ports of its Services from those of the head that are named serve or serve-….
        ("serve", SERVE_PORT),
        ("serve-grpc", GRPC_PORT),
    ]
    template = _template(fleet, spec, HEAD, {"cpu": head.cpu, "memory": head.memory}, ports=ports)
    # KubeRay's autoscaler is a second container of the head, and asks the API server for pods.
    template["spec"]["automountServiceAccountToken"] = elastic(spec)
    merged: Json = merge(template, head.template)
    return merged


def _template(
    fleet: FleetName, spec: ModelFleetSpec, container: str, resources: Json, *, ports: list[tuple[str, int]]
) -> Json:
    variables = {"RAYFLEET_CACHE_DIR": CACHE_DIR, "RAYFLEET_CREDENTIALS_DIR": CREDENTIALS_DIR}
    variables |= {variable.name: variable.value for variable in spec.env}
    cache = spec.model_cache
    volumes: list[Json] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "home", "emptyDir": {}},
        {"name": "model-cache", "persistentVolumeClaim": {"claimName": cache.claim_name}}
        if cache.claim_name is not None
        else {"name": "model-cache", "emptyDir": {"sizeLimit": cache.size_limit} if cache.size_limit else {}},
        # Optional: no model may need any, and the pods must not wait for it.
        {"name": "credentials", "secret": {"secretName": fleet.credentials_secret, "optional": True}},
    ]
    mounts = {"tmp": "/tmp", "home": "/home/ray", "model-cache": CACHE_DIR}  # noqa: S108 - a path in the pod
    main: Json = {
        "name": container,
        "image": spec.image,
        "ports": [{"name": name, "containerPort": number} for name, number in ports],
        # KubeRay leaves an empty value out when it writes the object back.
        "env": [{"name": name} | ({"value": value} if value else {}) for name, value in sorted(variables.items())],
        "resources": {"limits": resources, "requests": resources},
        "securityContext": _RESTRICTED,
        "volumeMounts": [
            *({"name": name, "mountPath": path} for name, path in mounts.items()),
            {"name": "credentials", "mountPath": CREDENTIALS_DIR, "readOnly": True},
        ],
    }
    if spec.image_pull_policy is not None:
        main["imagePullPolicy"] = spec.image_pull_policy
    if spec.env_from:
        main["envFrom"] = [
            {"secretRef": {"name": source.secret_name}}
            if source.secret_name is not None
            else {"configMapRef": {"name": source.config_map_name}}
            for source in spec.env_from
        ]
    pod: Json = {
        "containers": [main],
        "volumes": volumes,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # A shared cache may hold many files; only a volume that is new needs them changed.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if spec.image_pull_secrets:
        # A set: another order must not be another cluster.
        pod["imagePullSecrets"] = [{"name": name} for name in sorted(spec.image_pull_secrets)]
    if spec.service_account_name is not None:
        pod["serviceAccountName"] = spec.service_account_name
    return {"metadata": {"labels": fleet.labels}, "spec": pod}
