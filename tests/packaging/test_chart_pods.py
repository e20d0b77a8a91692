"""The operator's pods: what they may do, how many there are, who reaches them, and their image."""

from __future__ import annotations

from pathlib import Path

import pytest
from helm_chart import VARIANTS, HelmError, Json, of_kind, one, template

from .chart_files import CHART_YAML
from .operator_pod import pod, settings


@pytest.mark.parametrize("name", VARIANTS)
def test_pods_keep_to_the_restricted_standard(name: str, rendered: dict[str, list[Json]]) -> None:
    spec = pod(rendered[name])
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_cluster_may_choose_the_user(rendered: dict[str, list[Json]]) -> None:
    assert pod(rendered["defaults"])["securityContext"]["runAsUser"] == 65532
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod(rendered["alone"])["securityContext"].keys()


def test_only_the_pod_asks_for_a_token(rendered: dict[str, list[Json]]) -> None:
    assert one(rendered["defaults"], "ServiceAccount")["automountServiceAccountToken"] is False
    assert pod(rendered["defaults"])["automountServiceAccountToken"] is True


def test_several_replicas_spread_and_are_drained_one_by_one(rendered: dict[str, list[Json]]) -> None:
    manifests = rendered["replicas"]
    assert one(manifests, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    (spread,) = pod(manifests)["topologySpreadConstraints"]
    deployment = one(manifests, "Deployment")["spec"]
    assert spread["labelSelector"] == deployment["selector"]
    assert deployment["selector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()
    assert not of_kind(rendered["defaults"], "PodDisruptionBudget")


def test_two_operators_without_a_lease_are_never_there_at_once(rendered: dict[str, list[Json]]) -> None:
    assert one(rendered["alone"], "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    with pytest.raises(HelmError, match=r"replicas: several operators need leaderElection\.enabled"):
        template({"replicas": 2, "leaderElection": {"enabled": False}})


@pytest.mark.parametrize("name", VARIANTS)
def test_fleets_let_the_operator_reach_ray(name: str, rendered: dict[str, list[Json]], tmp_path: Path) -> None:
    """They know it by a label."""
    labels = one(rendered[name], "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] in settings(rendered[name], tmp_path).dashboard_clients


@pytest.mark.parametrize("name", VARIANTS)
def test_the_operator_is_reached_for_metrics_probes_and_webhooks_only(
    name: str, rendered: dict[str, list[Json]]
) -> None:
    ports = {port["name"]: port["containerPort"] for port in pod(rendered[name])["containers"][0]["ports"]}
    webhook = {"webhook": 8083} if name in ("words", "everything") else {}
    assert ports == {"metrics": 8080, "health": 8081} | webhook
    for policy in of_kind(rendered[name], "NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        assert [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]] == list(ports)


def test_images_are_named_by_registry_tag_and_digest(rendered: dict[str, list[Json]]) -> None:
    assert pod(rendered["defaults"])["containers"][0]["image"] == f"rayfleet-operator:{CHART_YAML['appVersion']}"
    assert (
        pod(rendered["everything"])["containers"][0]["image"]
        == f"registry.example.com:5000/rayfleet-operator@sha256:{'0' * 64}"
    )


@pytest.mark.parametrize(
    "registry",
    ["", "localhost:5000", "registry.example.com/a/b_c", "1.dkr.ecr.eu-west-1.amazonaws.com", "[::1]:5000"],
)
def test_a_registry_is_a_host_and_what_is_below_it(registry: str) -> None:
    image = pod(template({"image": {"registry": registry, "tag": "1"}}))["containers"][0]["image"]
    assert image == f"{registry}/rayfleet-operator:1".lstrip("/")
