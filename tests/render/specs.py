"""Fleets to render: a small one, one that uses everything of pods, and one with workers of every kind."""

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

KINDS: dict[str, Any] = {
    "image": "example.com/rayfleet-serving:1",
    "rayVersion": "2.60.0",
    "workerGroups": [
        {"name": "cpu", "minReplicas": 2, "cpu": "4", "memory": "8Gi"},
        {
            "name": "l4",
            "maxReplicas": 4,
            "cpu": "8",
            "memory": "32Gi",
            "gpu": 1,
            "gpuMemory": "24Gi",
            "accelerator": "L4",
            "spot": True,
            "image": "example.com/rayfleet-serving:1-cuda",
            "nodeSelector": {"pool": "l4", "cloud.google.com/gke-spot": "true"},
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "spot", "value": "true", "effect": "NoExecute", "tolerationSeconds": 30},
            ],
        },
        {"name": "mig", "cpu": "8", "memory": "32Gi", "gpu": 3, "gpuResource": "nvidia.com/mig-1g.10gb"},
        {
            "name": "sliced",
            "cpu": "8",
            "memory": "32Gi",
            "gpu": 2,
            "gpuResource": "nvidia.com/gpu.shared",
            "accelerator": "A100-80GB",
        },
    ],
}


def spec(written: dict[str, Any], **more: Any) -> ModelFleetSpec:
    return ModelFleetSpec.model_validate({**written, **more})
