"""What the Helm chart makes of its values."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from helm_chart import CHART, NAMESPACE, ROOT, VARIANTS, HelmError, Json, helm, of_kind, one, template
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import capacity
from rayfleet_operator.settings import LEVELS, LogFormat, Settings, SettingsError

CHART_YAML = yaml.safe_load((CHART / "Chart.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCHEMA = json.loads((CHART / "values.schema.json").read_text())

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


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Json]]:
    return {name: template(values) for name, values in VARIANTS.items()}


def rules(role: Json) -> list[tuple[str, list[str], list[str]]]:
    return [(rule["apiGroups"][0], rule["resources"], rule["verbs"]) for rule in role["rules"]]


def pod(manifests: list[Json]) -> Json:
    spec: Json = one(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("name", VARIANTS)
def test_helm_finds_nothing_to_say(name: str) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), values=VARIANTS[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_object_is_labelled_and_there_once(name: str, rendered: dict[str, list[Json]]) -> None:
    named = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in rendered[name]]
    assert len(named) == len(set(named))
    for item in rendered[name]:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "rayfleet"
        assert VARIANTS[name].get("commonLabels", {}).items() <= labels.items()


def names(node: object) -> Iterator[object]:
    """Every name and namespace in an object, whatever it names."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("name", "namespace", "serviceAccountName", "priorityClassName"):
                yield value
            elif key == "resourceNames":
                yield from value
            else:
                yield from names(value)
    elif isinstance(node, list):
        for value in node:
            yield from names(value)


def test_names_that_look_like_numbers_and_booleans_stay_text(tmp_path: Path) -> None:
    manifests = template(VARIANTS["words"] | {"crds": {"enabled": False}}, namespace="0x10")
    found = list(names(manifests))
    assert all(isinstance(name, str) for name in found), found
    assert set(found) >= {"123", "on", "456", "yes", "789", "0x10"}
    assert settings(manifests, tmp_path).namespaces == ("123", "on")


def test_labels_of_pods_hold_over_common_ones(rendered: dict[str, list[Json]]) -> None:
    manifests = template({"commonLabels": {"team": "ml", "site": "x"}, "podLabels": {"team": "own"}})
    deployment = one(manifests, "Deployment")
    assert deployment["metadata"]["labels"].items() >= {"team": "ml", "site": "x"}.items()
    before = one(rendered["defaults"], "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["template"]["metadata"]["labels"] == before | {"team": "own", "site": "x"}


# Rights


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


# Pods


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


@pytest.mark.parametrize(
    ("values", "release", "name"),
    [
        ({}, "rayfleet", "rayfleet-operator"),
        ({}, "ml", "ml-rayfleet-operator"),
        ({}, "r" * 53, f"{'r' * 41}-operator"),
        ({"fullnameOverride": "models"}, "ml", "models"),
    ],
)
def test_objects_are_named_after_the_release(values: Json, release: str, name: str) -> None:
    manifests = template(values, release=release)
    assert one(manifests, "Deployment")["metadata"]["name"] == name
    assert all(len(item["metadata"]["name"]) <= 63 for item in manifests if item["kind"] == "Service")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_operator_is_reached_for_metrics_and_probes_only(name: str, rendered: dict[str, list[Json]]) -> None:
    ports = {port["name"]: port["containerPort"] for port in pod(rendered[name])["containers"][0]["ports"]}
    assert ports == {"metrics": 8080, "health": 8081}
    for policy in of_kind(rendered[name], "NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        assert [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]] == ["metrics", "health"]


# Settings


def settings(manifests: list[Json], folder: Path) -> Settings:
    """What the operator reads in its pod."""
    (defaults,) = of_kind(manifests, "ConfigMap")
    container = pod(manifests)["containers"][0]
    environ = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    mount = next(mount for mount in container["volumeMounts"] if mount["name"] == "fleet-defaults")
    volume = next(volume for volume in pod(manifests)["volumes"] if volume["name"] == "fleet-defaults")
    assert volume["configMap"]["name"] == defaults["metadata"]["name"]
    named = Path(environ["RAYFLEET_FLEET_DEFAULTS"])
    assert str(named.parent) == mount["mountPath"]
    file = folder / named.name
    file.write_text(defaults["data"][named.name])
    return Settings.from_environment(environ | {"RAYFLEET_FLEET_DEFAULTS": str(file)})


def test_the_operator_reads_its_defaults_from_the_charts(rendered: dict[str, list[Json]], tmp_path: Path) -> None:
    found = settings(rendered["defaults"], tmp_path)
    plain = Settings(
        fleet_defaults=found.fleet_defaults, identity=found.identity, operator_namespace=found.operator_namespace
    )
    assert found == plain
    version = CHART_YAML["appVersion"]
    assert found.fleet_defaults == {
        "image": f"rayfleet-serving:{version}",
        "rayVersion": "2.60.0",
        "workerGroups": [{"name": "workers", "minReplicas": 2, "cpu": "2", "memory": "4Gi"}],
    }


def test_by_default_a_model_that_says_nothing_else_has_room(rendered: dict[str, list[Json]], tmp_path: Path) -> None:
    spec = ModelFleetSpec.model_validate(settings(rendered["defaults"], tmp_path).fleet_defaults)
    model = ModelDeployment.model_validate(
        {"metadata": {"name": "digits"}, "spec": {"model": {"uri": "models:/digits@champion"}}}
    )
    assert capacity.misfits([model], spec) == {}
    assert capacity.shortage([model], spec) is None


def test_the_operator_reads_what_the_values_say(rendered: dict[str, list[Json]], tmp_path: Path) -> None:
    found = settings(rendered["everything"], tmp_path)
    assert (found.concurrency, found.resync_s, found.kube_qps, found.kube_burst) == (16, 120, 12.5, 100)
    assert (found.log_level, found.log_format, found.lease_name) == ("DEBUG", "text", "turns")
    assert found.dashboard_clients == ("rayfleet", "own-kuberay")
    spec = ModelFleetSpec.model_validate(found.fleet_defaults)
    assert (spec.image, spec.ray_version) == ("registry.example.com:5000/ml/rayfleet-serving:1.2.3", "2.61.0")
    assert (spec.head.memory, spec.worker_groups[0].max_replicas) == ("4Gi", 4)
    assert settings(rendered["namespaces"], tmp_path).namespaces == ("team-a", "team-b")
    alone = settings(rendered["alone"], tmp_path)
    assert (alone.leader_election, alone.network_policy) == (False, False)
    assert alone.dashboard_clients == ("rayfleet",)


def test_fleet_defaults_may_name_another_image(tmp_path: Path) -> None:
    own = {"image": "example.com/own:1", "rayVersion": "2.59.0", "workerGroups": [{"name": "own"}]}
    assert settings(template({"fleetDefaults": own}), tmp_path).fleet_defaults == own


def test_changed_fleet_defaults_replace_the_pods(rendered: dict[str, list[Json]]) -> None:
    def checksum(manifests: list[Json]) -> str:
        metadata = one(manifests, "Deployment")["spec"]["template"]["metadata"]
        found: str = metadata["annotations"]["checksum/fleet-defaults"]
        return found

    assert checksum(template({})) == checksum(rendered["defaults"])
    assert checksum(template({"fleetDefaults": {"head": {"memory": "4Gi"}}})) != checksum(rendered["defaults"])


def test_images_are_named_by_registry_tag_and_digest(rendered: dict[str, list[Json]]) -> None:
    assert pod(rendered["defaults"])["containers"][0]["image"] == f"rayfleet-operator:{CHART_YAML['appVersion']}"
    assert (
        pod(rendered["everything"])["containers"][0]["image"]
        == f"registry.example.com:5000/rayfleet-operator@sha256:{'0' * 64}"
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_the_chart_makes_no_secret_and_credentials_are_references(name: str, rendered: dict[str, list[Json]]) -> None:
    assert not of_kind(rendered[name], "Secret")
    for variable in pod(rendered[name])["containers"][0]["env"]:
        if any(word in variable["name"] for word in ("TOKEN", "PASSWORD", "SECRET", "KEY")):
            assert "value" not in variable


def test_mlflows_credentials_come_from_the_secret(rendered: dict[str, list[Json]]) -> None:
    container = pod(rendered["everything"])["containers"][0]
    assert {"name": "MLFLOW_TRACKING_URI", "value": "https://mlflow.example.com"} in container["env"]
    assert container["envFrom"][0] == {"secretRef": {"name": "mlflow"}}
    assert "envFrom" not in pod(rendered["defaults"])["containers"][0]


@pytest.mark.parametrize("uri", ["https://user:word@mlflow.example.com", "mlflow.example.com:5000"])
def test_a_tracking_uri_is_an_address_without_credentials(uri: str) -> None:
    with pytest.raises(HelmError, match="mlflow/trackingUri"):
        template({"mlflow": {"trackingUri": uri}})


# Metrics


def test_a_service_monitor_finds_the_service(rendered: dict[str, list[Json]]) -> None:
    monitor, service = one(rendered["everything"], "ServiceMonitor"), one(rendered["everything"], "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert not of_kind(rendered["defaults"], "ServiceMonitor")
    with pytest.raises(HelmError, match=r"needs metrics\.service\.enabled"):
        template({"metrics": {"service": {"enabled": False}, "serviceMonitor": {"enabled": True}}})


# CustomResourceDefinitions


def definitions() -> dict[str, Json]:
    files = sorted((ROOT / "crds").glob("*.yaml"))
    return {found["metadata"]["name"]: found for found in (yaml.safe_load(file.read_text()) for file in files)}


@pytest.mark.parametrize("name", ["defaults", "everything"])
def test_the_chart_holds_the_definitions_as_they_are(name: str, rendered: dict[str, list[Json]]) -> None:
    found = {item["metadata"]["name"]: item for item in of_kind(rendered[name], "CustomResourceDefinition")}
    for definition in found.values():
        definition["metadata"].pop("labels")
        kept = definition["metadata"].pop("annotations", {})
        assert kept == ({"helm.sh/resource-policy": "keep"} if name == "defaults" else {})
    assert found == definitions()


def test_the_definitions_can_be_left_out(rendered: dict[str, list[Json]]) -> None:
    assert not of_kind(rendered["alone"], "CustomResourceDefinition")


# Values


def objects(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every schema of an object within a schema."""
    if schema.get("type") == "object" or "properties" in schema:
        yield path, schema
    for key, value in schema.get("properties", {}).items():
        yield from objects(value, f"{path}/{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from objects(schema[key], f"{path}/{key}")
    for key, value in schema.get("$defs", {}).items():
        yield from objects(value, f"{path}/$defs/{key}")


def test_the_schema_lets_nothing_unknown_pass() -> None:
    free = {path for path, schema in objects(SCHEMA) if "additionalProperties" not in schema}
    assert free == {
        "/fleetDefaults",
        "/volumes/items",
        "/affinity",
        "/topologySpreadConstraints/items",
        "/networkPolicy/metricsFrom/items",
        "/global",
    }


VALUES_TEXT = (CHART / "values.yaml").read_text()
VALUES = yaml.safe_load(VALUES_TEXT)


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    def known(schema: Json, values: Json, path: str) -> None:
        assert set(schema["properties"]) - {"global"} == set(values), path
        for key, value in values.items():
            below = schema["properties"][key]
            if isinstance(value, dict) and "properties" in below and path + key != "/resources":
                known(below, value, f"{path}{key}/")

    known(SCHEMA, VALUES, "/")


def named_values(node: yaml.MappingNode, path: str = "") -> Iterator[tuple[str, int]]:
    """Every value that is not a section of others, and the line it begins on."""
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode) and value.value and key.value != "resources":
            yield from named_values(value, f"{path}{key.value}.")
        else:
            yield path + key.value, key.start_mark.line


def test_every_value_is_explained() -> None:
    lines = [line.strip() for line in VALUES_TEXT.splitlines()]
    for name, line in named_values(yaml.compose(VALUES_TEXT)):
        start = line
        while lines[start - 1].startswith("#"):
            start -= 1
        assert lines[start].startswith("# -- "), name


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 2}, "replica"),
        ({"image": {"tagg": "1"}}, "tagg"),
        ({"metrics": {"serviceMonitor": {"enable": True}}}, "enable"),
        ({"replicas": "2"}, "replicas"),
        ({"rayVersion": 2.6}, "rayVersion"),
        ({"watchNamespaces": "team-a"}, "watchNamespaces"),
        ({"watchNamespaces": ["Team A"]}, "watchNamespaces"),
        ({"runAsUser": 0}, "runAsUser"),
        ({"image": {"digest": "sha256:1"}}, "digest"),
        ({"image": {"pullPolicy": "always"}}, "pullPolicy"),
        ({"image": {"registry": "https://registry.example.com"}}, "image/registry"),
        ({"image": {"registry": "registry.example.com/"}}, "image/registry"),
        ({"servingImage": {"registry": "https://registry.example.com"}}, "servingImage/registry"),
        ({"fullnameOverride": "2models"}, "fullnameOverride"),
        ({"settings": {"concurrency": 1001}}, "concurrency"),
        ({"settings": {"resync": "60"}}, "resync"),
        ({"settings": {"resync": "0s"}}, "resync"),
        ({"settings": {"resync": "500ms"}}, "resync"),
        ({"settings": {"resync": "48h"}}, "resync"),
        ({"settings": {"kubeQps": 0.05}}, "kubeQps"),
        ({"settings": {"kubeQps": 10001}}, "kubeQps"),
        ({"settings": {"kubeBurst": 100001}}, "kubeBurst"),
        ({"env": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}, "env"),
        ({"envFrom": [{}]}, "envFrom"),
        ({"fleetDefaults": "none"}, "fleetDefaults"),
        ({"fleetDashboardClients": ["a,b"]}, "fleetDashboardClients"),
        ({"leaderElection": {"leaseName": "a.b"}}, "leaseName"),
        ({"commonLabels": {"app.kubernetes.io/name": "mine"}}, "commonLabels/app.kubernetes.io~1name"),
        ({"podLabels": {"app.kubernetes.io/instance": "mine"}}, "podLabels/app.kubernetes.io~1instance"),
        ({"metrics": {"serviceMonitor": {"labels": {"helm.sh/chart": "mine"}}}}, "labels/helm.sh~1chart"),
    ],
)
def test_a_mistake_in_the_values_is_named(values: Json, named: str) -> None:
    with pytest.raises(HelmError) as error:
        template(values)
    assert named in str(error.value)


OPERATORS = SCHEMA["properties"]["settings"]["properties"]
RESYNC = OPERATORS["resync"]["pattern"]


def taken(variable: str, value: object) -> bool:
    """Whether the operator starts with this value of a variable."""
    try:
        Settings.from_environment({variable: str(value)})
    except SettingsError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "variable", "step"),
    [
        ("concurrency", "RAYFLEET_CONCURRENCY", 1),
        ("kubeQps", "RAYFLEET_KUBE_QPS", 0.01),
        ("kubeBurst", "RAYFLEET_KUBE_BURST", 1),
    ],
)
def test_the_chart_takes_the_numbers_that_the_operator_takes(name: str, variable: str, step: float) -> None:
    low, high = OPERATORS[name]["minimum"], OPERATORS[name]["maximum"]
    assert taken(variable, low)
    assert taken(variable, high)
    assert not taken(variable, low - step)
    assert not taken(variable, high + step)


@pytest.mark.parametrize("value", ["1s", "59s", "60s", "90s", "1m30s", "1h30m", "23h59m59s", "86400s", "1440m", "24h"])
def test_the_chart_takes_every_common_way_to_write_a_resync(value: str) -> None:
    assert re.search(RESYNC, value)
    assert taken("RAYFLEET_RESYNC", value)


@pytest.mark.parametrize("value", ["0s", "0m", "999ms", "86401s", "1441m", "1440m1s", "24h1s", "25h", "1d"])
def test_neither_takes_another_resync(value: str) -> None:
    assert not re.search(RESYNC, value)
    assert not taken("RAYFLEET_RESYNC", value)


@given(st.from_regex(RESYNC.replace("$", r"\Z"), alphabet="0123456789hms"))
def test_every_resync_that_the_chart_takes_is_one_for_the_operator(value: str) -> None:
    assert taken("RAYFLEET_RESYNC", value)


def test_the_chart_and_the_operator_know_the_same_logs() -> None:
    assert OPERATORS["logLevel"]["enum"] == list(LEVELS)
    assert OPERATORS["logFormat"]["enum"] == list(get_args(LogFormat))


@pytest.mark.parametrize(
    "registry",
    ["", "localhost:5000", "registry.example.com/a/b_c", "1.dkr.ecr.eu-west-1.amazonaws.com", "[::1]:5000"],
)
def test_a_registry_is_a_host_and_what_is_below_it(registry: str) -> None:
    image = pod(template({"image": {"registry": registry, "tag": "1"}}))["containers"][0]["image"]
    assert image == f"{registry}/rayfleet-operator:1".lstrip("/")


# The chart itself


def test_the_chart_is_of_the_projects_version() -> None:
    assert CHART_YAML["appVersion"] == PROJECT["version"]
    assert CHART_YAML["version"] == PROJECT["version"].replace(".dev", "-dev.")


def test_the_ray_version_is_that_of_the_serving_image() -> None:
    (ray,) = [line for line in PROJECT["optional-dependencies"]["serving"] if line.startswith("ray[")]
    assert f"ray[serve]=={VALUES['rayVersion']}" == ray


def test_an_old_cluster_is_refused() -> None:
    with pytest.raises(HelmError, match=r"1\.32"):
        helm("template", "rayfleet", str(CHART), "--kube-version", "1.31.9")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_notes_say_what_to_do_next(name: str) -> None:
    text = helm("install", "rayfleet", str(CHART), "--dry-run=client", "--namespace", NAMESPACE, values=VARIANTS[name])
    notes = text[text.index("NOTES:") :]
    assert "kubectl get crd rayservices.ray.io" in notes
    manifest = notes[notes.index("apiVersion:") : notes.index("   and apply it:")]
    parsed = yaml.safe_load(
        "\n".join(line[5:] if number else line for number, line in enumerate(manifest.splitlines()))
    )
    assert parsed["kind"] == "ModelDeployment"
    assert [parsed["metadata"].get("namespace")] == VARIANTS[name].get("watchNamespaces", [None])[:1]
    assert ("registry" in parsed["spec"]["model"]) == (name != "everything")
    assert ("crds.keep is false" in notes) == (name == "everything")
