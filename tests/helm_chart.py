"""The chart, rendered by the real helm in the ways that people install it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from cluster.binaries import binary

Json = dict[str, Any]

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "rayfleet"
NAMESPACE = "rayfleet-system"

VARIANTS: dict[str, Json] = {
    "defaults": {},
    "namespaces": {"watchNamespaces": ["team-a", "team-b"]},
    "words": {
        "fullnameOverride": "on",
        "watchNamespaces": ["123", "on"],
        "serviceAccount": {"name": "123"},
        "leaderElection": {"leaseName": "456"},
        "mlflow": {"existingSecret": "yes"},
        "registryWebhook": {"existingSecret": "012"},
        "prometheus": {"existingSecret": "345"},
        "priorityClassName": "789",
    },
    "replicas": {"replicas": 2},
    "alone": {
        "leaderElection": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "metrics": {"service": {"enabled": False}},
        "rbac": {"aggregate": False},
        "crds": {"enabled": False},
        "runAsUser": None,
        "fleetNetworkPolicies": False,
        "fleetDashboardClients": [],
    },
    "everything": {
        "fullnameOverride": "models",
        "commonLabels": {"team": "ml"},
        "crds": {"keep": False},
        "image": {"registry": "registry.example.com:5000", "digest": f"sha256:{'0' * 64}", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
        "servingImage": {"registry": "registry.example.com:5000/ml", "tag": "1.2.3"},
        "rayVersion": "2.61.0",
        "fleetDefaults": {
            "imagePullSecrets": ["registry"],
            "head": {"memory": "4Gi"},
            "workerGroups": [{"name": "cpu", "minReplicas": 1, "maxReplicas": 4, "cpu": "4", "memory": "16Gi"}],
        },
        "replicas": 3,
        "fleetDashboardClients": ["own-kuberay"],
        "leaderElection": {"leaseName": "turns"},
        "settings": {"concurrency": 16, "resync": "2m", "kubeQps": 12.5, "logLevel": "DEBUG", "logFormat": "text"},
        "mlflow": {"trackingUri": "https://mlflow.example.com", "existingSecret": "mlflow"},
        "registryWebhook": {"existingSecret": "webhook", "port": 80},
        "prometheus": {"url": "https://metrics.example.com/prometheus", "existingSecret": "prometheus"},
        "env": [
            {"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"},
            {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "secret"}}},
        ],
        "envFrom": [{"secretRef": {"name": "more", "optional": True}}],
        "volumes": [{"name": "certificates", "configMap": {"name": "certificates"}}],
        "volumeMounts": [{"name": "certificates", "mountPath": "/etc/certificates", "readOnly": True}],
        "serviceAccount": {"name": "models-operator", "annotations": {"example.com/role": "models"}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]
                }
            }
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"example.com/scrape": "yes"},
        "podLabels": {"example.com/pod": "yes"},
        "networkPolicy": {
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "webhookFrom": [{"namespaceSelector": {"matchLabels": {"name": "mlflow"}}}],
        },
        "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    },
}


class HelmError(RuntimeError):
    """helm refused; the message is what it said."""


def helm(*arguments: str, values: Json | None = None) -> str:
    """Run helm and answer its output. `values` are given as a file. Raises HelmError."""
    command = [str(binary("helm")), *arguments, *(["--values", "-"] if values is not None else [])]
    ran = subprocess.run(
        command, input=yaml.safe_dump(values) if values is not None else None, capture_output=True, text=True
    )
    if ran.returncode:
        raise HelmError(ran.stderr + ran.stdout)
    return ran.stdout


def template(values: Json, *, release: str = "rayfleet", namespace: str = NAMESPACE) -> list[Json]:
    """The objects that the chart makes."""
    text = helm("template", release, str(CHART), "--namespace", namespace, values=values)
    return [manifest for manifest in yaml.safe_load_all(text) if manifest is not None]


def of_kind(manifests: list[Json], kind: str) -> list[Json]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def one(manifests: list[Json], kind: str) -> Json:
    """The one object of a kind."""
    (found,) = of_kind(manifests, kind)
    return found


def service_named(manifests: list[Json], name: str) -> Json:
    (found,) = [service for service in of_kind(manifests, "Service") if service["metadata"]["name"] == name]
    return found
