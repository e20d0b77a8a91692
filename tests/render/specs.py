"""Fleets to render: a small one, and one that uses everything."""

from __future__ import annotations

from typing import Any

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.render.names import FleetName

NAME = FleetName("ml", "vision")
OWNERS = [{"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelFleet", "name": "vision", "uid": "0a1b"}]

SMALL: dict[str, Any] = {
    "image": "example.com/rayfleet-serving:1",
    "rayVersion": "2.60.0",
    "workerGroups": [{"name": "cpu"}],
}

FULL: dict[str, Any] = {
    "image": "example.com/rayfleet-serving:1",
    "rayVersion": "2.60.0",
    "imagePullPolicy": "Always",
    "imagePullSecrets": ["registry", "mirror"],
    "serviceAccountName": "vision",
    "env": [
        {"name": "ZONE", "value": "b"},
        {"name": "EMPTY", "value": ""},
        {"name": "AWS_REGION", "value": "eu-central-1"},
    ],
    "envFrom": [{"secretName": "tokens"}, {"configMapName": "settings"}],
    "head": {
        "cpu": "500m",
        "memory": "3Gi",
        "gcsFaultTolerance": {"redisAddress": "redis.ray.svc:6379", "passwordSecret": {"name": "redis"}},
        "template": {"spec": {"nodeSelector": {"pool": "system"}, "priorityClassName": "high"}},
    },
    "routers": {"replicas": 3, "cpu": "0.5"},
    "workerGroups": [
        {"name": "cpu", "minReplicas": 2, "cpu": "2500m", "memory": "6Gi"},
        {
            "name": "gpu-a10",
            "minReplicas": 1,
            "maxReplicas": 8,
            "cpu": "8",
            "memory": "64Gi",
            "gpu": 2,
            "template": {
                "metadata": {
                    "labels": {"team": "vision"},
                    "annotations": {"cluster-autoscaler.kubernetes.io/safe": "no"},
                },
                "spec": {
                    "runtimeClassName": "nvidia",
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                    "containers": [
                        {
                            "name": "ray-worker",
                            "env": [
                                {"name": "NCCL_DEBUG", "value": "WARN"},
                                {"name": "ZONE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                            ],
                            "resources": {"requests": {"cpu": "4"}},
                            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
                        },
                        {"name": "sidecar", "image": "example.com/logs:1"},
                    ],
                    "volumes": [
                        {"name": "shm", "emptyDir": {"medium": "Memory"}},
                        {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                    ],
                },
            },
        },
    ],
    "modelCache": {"sizeLimit": "200Gi"},
    "progressDeadline": "30m",
}


def spec(written: dict[str, Any], **more: Any) -> ModelFleetSpec:
    return ModelFleetSpec.model_validate({**written, **more})
