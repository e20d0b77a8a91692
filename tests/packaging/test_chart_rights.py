"""The rights that the chart gives: to the operator, and to people who may view and edit."""

from __future__ import annotations

from pathlib import Path

import pytest
from helm_chart import NAMESPACE, VARIANTS, Json, of_kind, one, template

from .operator_pod import settings

READ = ["get", "list", "watch"]
WRITE = ["create", "patch", "delete"]
FLEETS = [
    ("rayfleet.io", ["modeldeployments", "modelfleets"], READ),
    ("rayfleet.io", ["modeldeployments/status", "modelfleets/status"], ["patch"]),
    ("ray.io", ["rayservices"], READ + WRITE),
    ("ray.io", ["rayclusters"], ["list", "watch", "patch", "delete"]),
    ("", ["services", "secrets"], READ + WRITE),
    ("", ["configmaps"], ["list", "watch"]),
    ("", ["pods"], ["list"]),
    ("networking.k8s.io", ["networkpolicies"], READ + WRITE),
    ("apps", ["controllerrevisions"], ["list", "watch", *WRITE]),
    ("events.k8s.io", ["events"], ["create"]),
]
"""All that the operator may do with the objects of the fleets it watches."""


def rules(role: Json) -> list[tuple[str, list[str], list[str]]]:
    return [(rule["apiGroups"][0], rule["resources"], rule["verbs"]) for rule in role["rules"]]


def test_the_operator_may_do_what_it_needs_and_nothing_else(rendered: dict[str, list[Json]]) -> None:
    roles = {role["metadata"]["name"]: role for role in of_kind(rendered["defaults"], "ClusterRole")}
    assert set(roles) == {"rayfleet-operator", "rayfleet-operator-view", "rayfleet-operator-edit"}
    assert rules(roles["rayfleet-operator"]) == FLEETS
    assert one(rendered["defaults"], "ClusterRoleBinding")["subjects"] == [
        {"kind": "ServiceAccount", "name": "rayfleet-operator", "namespace": NAMESPACE}
    ]


def test_in_its_own_namespace_it_may_use_its_lease_and_make_its_key(rendered: dict[str, list[Json]]) -> None:
    role = one(rendered["defaults"], "Role")
    assert role["metadata"]["namespace"] == NAMESPACE
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["rayfleet-operator-key"], "verbs": ["get"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["rayfleet-operator"],
            "verbs": ["get", "update"],
        },
    ]


@pytest.mark.parametrize(
    ("values", "release", "name"),
    [
        ({}, "rayfleet", "rayfleet-operator"),
        ({}, "ml", "ml-rayfleet-operator"),
        ({"fullnameOverride": "models"}, "ml", "models"),
        ({"leaderElection": {"leaseName": "turns"}}, "ml", "turns"),
    ],
)
def test_releases_in_one_namespace_have_leases_of_their_own(
    values: Json, release: str, name: str, tmp_path: Path
) -> None:
    manifests = template(values, release=release)
    assert settings(manifests, tmp_path).lease_name == name
    (named,) = [rule["resourceNames"] for rule in one(manifests, "Role")["rules"] if "update" in rule["verbs"]]
    assert named == [name]


def test_with_namespaces_it_has_no_right_in_others(rendered: dict[str, list[Json]]) -> None:
    manifests = rendered["namespaces"]
    assert not of_kind(manifests, "ClusterRoleBinding")
    assert {role["metadata"]["name"] for role in of_kind(manifests, "ClusterRole")} == {
        "rayfleet-operator-view",
        "rayfleet-operator-edit",
    }
    roles = {role["metadata"]["namespace"]: role for role in of_kind(manifests, "Role")}
    assert set(roles) == {"team-a", "team-b", NAMESPACE}
    assert rules(roles["team-a"]) == rules(roles["team-b"]) == FLEETS
    for binding in of_kind(manifests, "RoleBinding"):
        assert binding["subjects"][0]["namespace"] == NAMESPACE


def test_people_who_may_view_and_edit_may_do_so_with_our_kinds(rendered: dict[str, list[Json]]) -> None:
    roles = {role["metadata"]["name"]: role for role in of_kind(rendered["defaults"], "ClusterRole")}
    prefix = "rbac.authorization.k8s.io/aggregate-to-"

    def aggregated(role: Json) -> set[str]:
        return {label.removeprefix(prefix) for label in role["metadata"]["labels"] if label.startswith(prefix)}

    view, edit = roles["rayfleet-operator-view"], roles["rayfleet-operator-edit"]
    assert aggregated(view) == {"view", "edit", "admin"}
    assert rules(view) == [("rayfleet.io", ["modeldeployments", "modelfleets"], READ)]
    assert aggregated(edit) == {"edit", "admin"}
    assert rules(edit) == [
        (
            "rayfleet.io",
            ["modeldeployments", "modelfleets"],
            ["create", "update", "patch", "delete", "deletecollection"],
        ),
        ("rayfleet.io", ["modeldeployments/scale"], ["get", "update", "patch"]),
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_no_rule_has_a_wildcard(name: str, rendered: dict[str, list[Json]]) -> None:
    for role in [*of_kind(rendered[name], "ClusterRole"), *of_kind(rendered[name], "Role")]:
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
