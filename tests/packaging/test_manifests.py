"""The files made from the chart and the CustomResourceDefinitions are those in the tree."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml
from cluster.binaries import binary
from deploy.manifests import crd_template
from helm_chart import NAMESPACE, ROOT, Json, of_kind, one, template

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.cli.counted import routers
from rayfleet_operator.plan import demand
from rayfleet_operator.plan.admission import admit
from rayfleet_operator.plan.room import Room

KUSTOMIZE = ROOT / "deploy" / "kustomize"


@pytest.fixture(scope="module")
def built() -> list[Json]:
    text = subprocess.run(
        [binary("kubectl"), "kustomize", KUSTOMIZE], capture_output=True, text=True, check=True
    ).stdout
    return list(yaml.safe_load_all(text))


def test_generated_files_are_fresh() -> None:
    command = [sys.executable, "-m", "deploy.manifests", "--check", "--helm", str(binary("helm"))]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


def test_helms_own_language_in_a_definition_stays_text() -> None:
    text = "# Code\nkind: X\nmetadata:\n  name: a.b\nspec:\n  description: 'say {{ .Values.x }} or {{- end }}'\n"
    made = crd_template(text)
    assert """'say {{ "{{" }} .Values.x }} or {{ "{{" }}- end }}'""" in made


def key(item: Json) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def test_kustomize_makes_what_the_chart_makes(built: list[Json]) -> None:
    charts = {key(item): item for item in template({"crds": {"keep": False}})}
    (name,) = [item["metadata"]["name"] for item in of_kind(built, "ConfigMap")]
    assert re.fullmatch(r"rayfleet-operator-fleet-defaults-[a-z0-9]{10}", name)
    found = {key(item): item for item in built if item["kind"] not in ("Namespace", "ConfigMap")}
    assert found.keys() | {("ConfigMap", "rayfleet-operator-fleet-defaults")} == charts.keys()
    for each, item in found.items():
        if each[0] in ("ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding", "CustomResourceDefinition"):
            for part in ("rules", "roleRef", "subjects", "spec"):
                assert item.get(part) == charts[each].get(part), each

    spec, charts_spec = (
        one(items, "Deployment")["spec"]["template"]["spec"] for items in (built, list(charts.values()))
    )
    volume = next(volume for volume in spec["volumes"] if volume["name"] == "fleet-defaults")
    assert volume["configMap"]["name"] == name
    volume["configMap"]["name"] = "rayfleet-operator-fleet-defaults"
    assert spec == charts_spec


def test_kustomize_has_the_charts_fleet_defaults(built: list[Json]) -> None:
    (ours,), (charts,) = (of_kind(items, "ConfigMap") for items in (built, template({})))
    found, rendered = (yaml.safe_load(item["data"]["fleet-defaults.yaml"]) for item in (ours, charts))
    assert found == rendered
    assert found["image"] == f"rayfleet-serving:{_version()}"


def test_with_kustomizes_defaults_a_model_that_says_nothing_else_has_room(built: list[Json]) -> None:
    (defaults,) = of_kind(built, "ConfigMap")
    spec = ModelFleetSpec.model_validate(yaml.safe_load(defaults["data"]["fleet-defaults.yaml"]))
    model = ModelDeployment.model_validate(
        {"metadata": {"name": "digits"}, "spec": {"model": {"uri": "models:/digits@champion"}}}
    )
    assert admit(Room.of(spec), [*routers(spec), *demand.of_spec(model)]).waiting == ()


def test_everything_lies_in_the_namespace_that_comes_with_it(built: list[Json]) -> None:
    namespace = one(built, "Namespace")
    assert namespace["metadata"]["name"] == NAMESPACE
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    cluster_wide = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
    for item in built:
        assert (item["metadata"].get("namespace") == NAMESPACE) == (item["kind"] not in cluster_wide)


def test_nothing_of_helm_is_left(built: list[Json]) -> None:
    assert "helm" not in yaml.safe_dump(built).lower()


def _version() -> str:
    chart: Json = yaml.safe_load((ROOT / "charts" / "rayfleet" / "Chart.yaml").read_text())
    return str(chart["appVersion"])
