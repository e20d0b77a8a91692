"""A real API server takes all that the chart and deploy/ make, and the rights in it are enough."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from cluster.control_plane import ControlPlane
from cluster.kubectl import KubectlError
from helm_chart import NAMESPACE, ROOT, VARIANTS, Json, helm, of_kind, one, template

SERVICE_MONITORS: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {"kind": "ServiceMonitor", "plural": "servicemonitors"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""A stand-in for the Prometheus operator's own, whose fields it does not check."""


def namespaces(*names: str) -> list[Json]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}} for name in names]


@pytest.fixture(scope="module")
def prepared(control_plane: ControlPlane) -> ControlPlane:
    control_plane.kubectl.apply([SERVICE_MONITORS, *namespaces(NAMESPACE, "team-a", "team-b", "123", "on")])
    return control_plane


@pytest.mark.parametrize("name", VARIANTS)
def test_the_api_server_takes_everything(name: str, prepared: ControlPlane) -> None:
    manifests = template(VARIANTS[name])
    answer = prepared.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"),
        stdin=yaml.safe_dump_all(manifests),
    )
    assert len(answer.splitlines()) == len(manifests)


@pytest.mark.parametrize("name", VARIANTS)
def test_pods_are_admitted_under_the_restricted_standard(name: str, prepared: ControlPlane) -> None:
    deployment = one(template(VARIANTS[name]), "Deployment")
    spec = dict(deployment["spec"]["template"]["spec"])
    spec.pop("priorityClassName", None)  # system-cluster-critical is for some namespaces only
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried", "namespace": NAMESPACE}, "spec": spec}
    prepared.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(pod))
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        prepared.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(pod))


def test_kustomize_is_applied_by_kubectl(prepared: ControlPlane) -> None:
    folder = ROOT / "deploy" / "kustomize"
    answer = prepared.kubectl("apply", "-k", str(folder), "--dry-run=server", "--validate=strict")
    assert "deployment.apps/rayfleet-operator created" in answer


class Rights:
    """What a service account may do, as the API server sees it."""

    def __init__(self, control_plane: ControlPlane, account: str, namespace: str) -> None:
        self._kubectl = control_plane.kubectl
        self._user = f"system:serviceaccount:{namespace}:{account}"

    def __call__(self, verb: str, resource: str, namespace: str) -> bool:
        try:
            answer = self._kubectl(
                "auth", "can-i", verb, *resource.split(), "--namespace", namespace, "--as", self._user
            )
        except KubectlError as error:
            if error.output.strip() != "no":
                raise
            return False  # kubectl ends with 1 for "no", and for all that keeps it from asking
        return answer.strip() == "yes"


@pytest.fixture(scope="module")
def installed(prepared: ControlPlane) -> Rights:
    values: dict[str, Any] = {
        "watchNamespaces": ["team-a"],
        "crds": {"enabled": False},
        "rbac": {"aggregate": False},
        "fullnameOverride": "narrow",
    }
    prepared.kubectl.apply(template(values, release="narrow"))
    return Rights(prepared, "narrow", NAMESPACE)


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("list", "modeldeployments.rayfleet.io"),
        ("patch", "modelfleets.rayfleet.io --subresource=status"),
        ("patch", "rayservices.ray.io"),
        ("create", "secrets"),
        ("watch", "configmaps"),
        ("create", "networkpolicies.networking.k8s.io"),
        ("patch", "controllerrevisions.apps"),
        ("create", "events.events.k8s.io"),
    ],
)
def test_rights_hold_in_the_namespaces_that_are_watched_and_in_no_other(
    verb: str, resource: str, installed: Rights
) -> None:
    assert installed(verb, resource, "team-a")
    assert not installed(verb, resource, "team-b")


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("get", "secrets/rayfleet-operator-key", True),
        ("get", "secrets/another", False),
        ("list", "secrets", False),
        ("create", "secrets", True),
        ("update", "leases.coordination.k8s.io/narrow", True),
        ("update", "leases.coordination.k8s.io/rayfleet-operator", False),
        ("update", "leases.coordination.k8s.io/another", False),
        ("create", "leases.coordination.k8s.io", True),
    ],
)
def test_in_its_own_namespace_the_operator_reaches_what_is_its_own(
    verb: str, resource: str, allowed: bool, installed: Rights
) -> None:
    assert installed(verb, resource, NAMESPACE) is allowed


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("create", "pods"),
        ("get", "pods"),
        ("patch", "deployments.apps"),
        ("get", "nodes"),
        ("update", "modeldeployments.rayfleet.io --subresource=finalizers"),
        ("patch", "events.events.k8s.io"),
    ],
)
def test_the_operator_has_no_right_that_it_does_not_need(verb: str, resource: str, installed: Rights) -> None:
    assert not installed(verb, resource, "team-a")


def test_helm_installs_upgrades_and_leaves_the_definitions(tmp_path_factory: pytest.TempPathFactory) -> None:
    """On an API server of its own: the definitions are there for the whole cluster."""
    with ControlPlane(tmp_path_factory.mktemp("helm")) as alone:

        def run(*arguments: str, values: Json | None = None) -> str:
            return helm(*arguments, "--kubeconfig", str(alone.kubeconfig), "--namespace", NAMESPACE, values=values)

        chart = str(ROOT / "charts" / "rayfleet")
        run("install", "rayfleet", chart, "--create-namespace", values={})
        model = {
            "apiVersion": "rayfleet.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "digits", "namespace": "default"},
            "spec": {"model": {"uri": "models:/digits@champion"}},
        }
        alone.kubectl("wait", "--for=condition=Established", "crd/modeldeployments.rayfleet.io", "--timeout=30s")
        alone.kubectl.apply([model])

        run("upgrade", "rayfleet", chart, values={"replicas": 2, "fleetDefaults": {"head": {"memory": "4Gi"}}})
        deployment = alone.kubectl.json("--namespace", NAMESPACE, "get", "deployment", "rayfleet-operator")
        assert deployment["spec"]["replicas"] == 2

        run("uninstall", "rayfleet")
        assert not alone.kubectl.json("--namespace", NAMESPACE, "get", "deployments")["items"]
        (left,) = alone.kubectl.json("get", "modeldeployments", "--all-namespaces")["items"]
        assert left["metadata"]["name"] == "digits"

        run("install", "rayfleet", chart, values={})  # takes over the definitions that its like left
        assert of_kind(alone.kubectl.json("get", "crds")["items"], "CustomResourceDefinition")
