"""What the operator reads of the chart's values, and that each takes the settings that the other takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from helm_chart import VARIANTS, HelmError, Json, of_kind, one, template
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.cli.counted import routers
from rayfleet_operator.plan import demand
from rayfleet_operator.plan.admission import admit
from rayfleet_operator.plan.room import Room
from rayfleet_operator.settings import LEVELS, LogFormat, Settings, SettingsError

from .chart_files import CHART_YAML, SCHEMA
from .operator_pod import pod, settings


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
    assert admit(Room.of(spec), [*routers(spec), *demand.of_spec(model)]).waiting == ()


def test_the_operator_reads_what_the_values_say(rendered: dict[str, list[Json]], tmp_path: Path) -> None:
    found = settings(rendered["everything"], tmp_path)
    assert (found.concurrency, found.resync_s, found.kube_qps, found.kube_burst) == (16, 120, 12.5, 100)
    assert (found.log_level, found.log_format, found.lease_name) == ("DEBUG", "text", "turns")
    assert found.dashboard_clients == ("rayfleet", "own-kuberay")
    assert found.prometheus.url == "https://metrics.example.com/prometheus"
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


@pytest.mark.parametrize("name", VARIANTS)
def test_the_chart_makes_no_secret_and_credentials_are_references(name: str, rendered: dict[str, list[Json]]) -> None:
    assert not of_kind(rendered[name], "Secret")
    for variable in pod(rendered[name])["containers"][0]["env"]:
        words = ("TOKEN", "PASSWORD", "SECRET", "KEY")
        if any(word in variable["name"] for word in words) and not variable["name"].endswith("_FILE"):
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


@pytest.mark.parametrize(
    "url",
    [
        "https://user:word@prometheus.example.com",
        "prometheus:9090",
        "http://prometheus:9090/?a=b",
        "http://prometheus:abc",
        "http://prometheus:0",
        "http://prometheus:65536",
        "http://:9090",
        "http://[::1",
    ],
)
def test_a_prometheus_is_an_address_without_credentials(url: str) -> None:
    assert not taken("RAYFLEET_PROMETHEUS_URL", url)
    with pytest.raises(HelmError, match="prometheus/url"):
        template({"prometheus": {"url": url}})


@pytest.mark.parametrize("url", ["https://prometheus.example.com:65535/a/b", "http://[::1]:9090", "http://10.0.0.1:1"])
def test_every_form_of_a_prometheus_address_is_taken(url: str) -> None:
    assert taken("RAYFLEET_PROMETHEUS_URL", url)
    assert re.search(SCHEMA["properties"]["prometheus"]["properties"]["url"]["pattern"], url)


def test_prometheus_token_is_where_the_operator_reads_it(rendered: dict[str, list[Json]], tmp_path: Path) -> None:
    """The folder is mounted, because a file that is mounted by itself stays as it is."""
    spec = pod(rendered["everything"])
    (mount,) = (each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "prometheus")
    (volume,) = (each["secret"] for each in spec["volumes"] if each["name"] == "prometheus")
    assert volume == {"secretName": "prometheus", "items": [{"key": "token", "path": "token"}], "optional": True}
    file = settings(rendered["everything"], tmp_path).prometheus.token_file
    assert (file, "subPath" in mount) == (Path(mount["mountPath"]) / "token", False)


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
