"""The Helm chart as a whole: the names and labels of its objects, its definitions, its version and its notes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helm_chart import CHART, NAMESPACE, ROOT, VARIANTS, HelmError, Json, helm, of_kind, one, service_named, template

from .chart_files import CHART_YAML, VALUES
from .operator_pod import settings

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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


def test_labels_of_pods_hold_over_common_ones(rendered: dict[str, list[Json]]) -> None:
    manifests = template({"commonLabels": {"team": "ml", "site": "x"}, "podLabels": {"team": "own"}})
    deployment = one(manifests, "Deployment")
    assert deployment["metadata"]["labels"].items() >= {"team": "ml", "site": "x"}.items()
    before = one(rendered["defaults"], "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["template"]["metadata"]["labels"] == before | {"team": "own", "site": "x"}


def test_a_service_monitor_finds_the_service(rendered: dict[str, list[Json]]) -> None:
    monitor = one(rendered["everything"], "ServiceMonitor")
    service = service_named(rendered["everything"], "models-metrics")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert not of_kind(rendered["defaults"], "ServiceMonitor")
    with pytest.raises(HelmError, match=r"needs metrics\.service\.enabled"):
        template({"metrics": {"service": {"enabled": False}, "serviceMonitor": {"enabled": True}}})


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
