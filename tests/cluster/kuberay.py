"""KubeRay in a cluster, from its module's own kustomization, in a namespace of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from cluster.binaries import module_folder
from cluster.kubectl import Kubectl

NAMESPACE = "kuberay-system"
PUBLISHED = "quay.io/kuberay/operator"
PODS = "app.kubernetes.io/name in (kuberay,kuberay-operator),!ray.io/cluster"
"""The kustomization and the Helm chart label them differently, and Ray's own pods have one of these names too."""


def install(kubectl: Kubectl, image: str) -> None:
    """Apply definitions, roles and the operator, and wait until it runs. Raises kubectl.KubectlError."""
    name, _, tag = image.rpartition(":")
    config = module_folder("kuberay-operator") / "config" / "default"
    with tempfile.TemporaryDirectory() as folder:
        overlay = {
            "namespace": NAMESPACE,
            "resources": [os.path.relpath(config, Path(folder).resolve())],
            "images": [{"name": PUBLISHED, "newName": name, "newTag": tag}],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        manifests = kubectl("kustomize", folder)
    kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    kubectl.apply(manifests)


def pods(kubectl: Kubectl) -> list[dict[str, Any]]:
    """The pods of KubeRay's operator, wherever somebody has installed it. Raises kubectl.KubectlError."""
    found: list[dict[str, Any]] = kubectl.json("get", "pods", "-A", "-l", PODS)["items"]
    return found


def wait(kubectl: Kubectl) -> None:
    """Wait until KubeRay's operator is ready."""
    kubectl("rollout", "status", "deployment/kuberay-operator", "-n", NAMESPACE, "--timeout=180s", timeout=200)


def restart(kubectl: Kubectl) -> None:
    """Replace KubeRay's pod, as an upgrade would."""
    kubectl("rollout", "restart", "deployment/kuberay-operator", "-n", NAMESPACE)
    wait(kubectl)
