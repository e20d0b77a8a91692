"""The chart's values: each is in the schema and explained, and a mistake in them is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from helm_chart import HelmError, Json, template

from .chart_files import SCHEMA, VALUES, VALUES_TEXT


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
        "/networkPolicy/webhookFrom/items",
        "/global",
    }


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
        ({"registryWebhook": {"existingSecret": "A secret"}}, "existingSecret"),
        ({"registryWebhook": {"existingSecret": "a", "port": 65536}}, "registryWebhook/port"),
        ({"registryWebhook": {"key": "hush"}}, "key"),
        ({"prometheus": {"existingSecret": "A secret"}}, "prometheus/existingSecret"),
        ({"prometheus": {"token": "hush"}}, "token"),
        ({"commonLabels": {"app.kubernetes.io/name": "mine"}}, "commonLabels/app.kubernetes.io~1name"),
        ({"podLabels": {"app.kubernetes.io/instance": "mine"}}, "podLabels/app.kubernetes.io~1instance"),
        ({"metrics": {"serviceMonitor": {"labels": {"helm.sh/chart": "mine"}}}}, "labels/helm.sh~1chart"),
    ],
)
def test_a_mistake_in_the_values_is_named(values: Json, named: str) -> None:
    with pytest.raises(HelmError) as error:
        template(values)
    assert named in str(error.value)
