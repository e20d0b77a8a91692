"""Settings from the environment, and what is said of those that make no sense."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from rayfleet_operator.settings import PrometheusSettings, Settings, SettingsError


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_environment({"RAYFLEET_RESYNC": "", "RAYFLEET_NAMESPACES": " "})

    assert settings.namespaces == ()
    assert settings.leader_election
    assert (settings.metrics_port, settings.health_port) == (8080, 8081)
    assert (settings.registry_webhook, settings.registry_webhook_port) == (None, 8083)
    assert settings.prometheus == PrometheusSettings(url=None, token_file=None)
    assert settings.resync_s == 60
    assert settings.kubeconfig is None
    assert settings.dashboard_clients == ("rayfleet", "kuberay-operator", "kuberay")


def test_each_process_has_an_identity_of_its_own() -> None:
    assert Settings().identity != Settings().identity


def test_every_variable_is_read(tmp_path: Path) -> None:
    defaults = tmp_path / "defaults.yaml"
    defaults.write_text("image: registry.example/serving:1\nrayVersion: 2.60.0\nworkerGroups: []\n")

    settings = Settings.from_environment(
        {
            "RAYFLEET_NAMESPACES": "ml, vision,ml",
            "RAYFLEET_OPERATOR_NAMESPACE": "rayfleet-system",
            "RAYFLEET_IDENTITY": "me",
            "RAYFLEET_LEADER_ELECTION": "False",
            "RAYFLEET_LEASE_NAME": "other",
            "RAYFLEET_FLEET_DEFAULTS": str(defaults),
            "RAYFLEET_METRICS_PORT": "0",
            "RAYFLEET_HEALTH_PORT": "9999",
            "RAYFLEET_REGISTRY_WEBHOOK": "/etc/webhook/key",
            "RAYFLEET_REGISTRY_WEBHOOK_PORT": "7777",
            "RAYFLEET_PROMETHEUS_URL": "https://metrics.example.com/prometheus/",
            "RAYFLEET_PROMETHEUS_TOKEN_FILE": "/etc/prometheus/token",
            "RAYFLEET_CONCURRENCY": "3",
            "RAYFLEET_RESYNC": "1m30s",
            "RAYFLEET_KUBE_QPS": "7.5",
            "RAYFLEET_KUBE_BURST": "9",
            "KUBECONFIG": "/etc/kubeconfig",
            "RAYFLEET_LOG_LEVEL": "debug",
            "RAYFLEET_LOG_FORMAT": "TEXT",
            "RAYFLEET_NETWORK_POLICY": "false",
            "RAYFLEET_DASHBOARD_CLIENTS": "rayfleet, KubeRay_1.6,rayfleet",
        }
    )

    assert settings == Settings(
        namespaces=("ml", "vision"),
        operator_namespace="rayfleet-system",
        identity="me",
        leader_election=False,
        lease_name="other",
        fleet_defaults={"image": "registry.example/serving:1", "rayVersion": "2.60.0", "workerGroups": []},
        metrics_port=0,
        health_port=9999,
        registry_webhook=Path("/etc/webhook/key"),
        registry_webhook_port=7777,
        prometheus=PrometheusSettings(
            url="https://metrics.example.com/prometheus", token_file=Path("/etc/prometheus/token")
        ),
        concurrency=3,
        resync_s=90,
        kube_qps=7.5,
        kube_burst=9,
        kubeconfig="/etc/kubeconfig",
        log_level="DEBUG",
        log_format="text",
        network_policy=False,
        dashboard_clients=("rayfleet", "KubeRay_1.6"),
    )


@pytest.mark.parametrize(
    ("variable", "value", "right"),
    [
        ("RAYFLEET_NAMESPACES", "ml,Vision", "lower-case letters"),
        ("RAYFLEET_OPERATOR_NAMESPACE", "a/b", "lower-case letters"),
        ("RAYFLEET_LEADER_ELECTION", "yes", "true or false"),
        ("RAYFLEET_METRICS_PORT", "80800", "from 0 to 65535"),
        ("RAYFLEET_HEALTH_PORT", "-1", "from 0 to 65535"),
        ("RAYFLEET_REGISTRY_WEBHOOK", "key", "which begins with /"),
        ("RAYFLEET_REGISTRY_WEBHOOK_PORT", "http", "from 0 to 65535"),
        ("RAYFLEET_PROMETHEUS_URL", "prometheus:9090", "an http:// or https:// address"),
        ("RAYFLEET_PROMETHEUS_URL", "http://prometheus?a=b", "without user, password or query"),
        ("RAYFLEET_PROMETHEUS_URL", "http://prom:abc", "Invalid port: 'abc'"),
        ("RAYFLEET_PROMETHEUS_URL", "http://prom:90:90", "Invalid port"),
        ("RAYFLEET_PROMETHEUS_URL", "http://prom:0", "a port from 1 to 65535"),
        ("RAYFLEET_PROMETHEUS_URL", "http://prom:65536/prometheus", "a port from 1 to 65535"),
        ("RAYFLEET_PROMETHEUS_URL", "http://prom:-1", "a port from 1 to 65535"),
        ("RAYFLEET_PROMETHEUS_URL", "http://:9090", "an address with a host"),
        ("RAYFLEET_PROMETHEUS_URL", "http://[::1", "a host name or an IP address"),
        ("RAYFLEET_PROMETHEUS_URL", "http://[abc]:9090", "Invalid IPv6 address"),
        ("RAYFLEET_PROMETHEUS_URL", "http://1.2.3.999:9090", "Invalid IPv4 address"),
        ("RAYFLEET_PROMETHEUS_URL", "http://xn--zzzz--:9090", "a host name or an IP address"),
        ("RAYFLEET_PROMETHEUS_TOKEN_FILE", "token", "which begins with /"),
        ("RAYFLEET_CONCURRENCY", "0", "from 1 to 1000"),
        ("RAYFLEET_RESYNC", "60", "like 90s or 5m"),
        ("RAYFLEET_RESYNC", "1ms", "from 1s to 86400s"),
        ("RAYFLEET_KUBE_QPS", "nan", "a number from"),
        ("RAYFLEET_KUBE_BURST", "٣", "a whole number"),
        ("RAYFLEET_LOG_LEVEL", "LOUD", "DEBUG, INFO, WARNING, ERROR"),
        ("RAYFLEET_LOG_FORMAT", "xml", "json or text"),
        ("RAYFLEET_DASHBOARD_CLIENTS", "rayfleet,a/b", "values of a label"),
        ("RAYFLEET_DASHBOARD_CLIENTS", ",", "values of a label"),
        ("RAYFLEET_FLEET_DEFAULTS", "/nowhere/defaults.yaml", "cannot be read"),
        ("KUBECONFIG", "a:b", "one file"),
    ],
)
def test_a_wrong_value_is_refused_with_its_variable_and_what_would_be_right(
    variable: str, value: str, right: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment({variable: value})

    assert f"{variable}={value!r}" in str(refusal.value)
    assert right in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://prom",
        "http://prom:1",
        "https://prom_1.ns:65535/a/b",
        "http://[::1]:9090",
        "http://10.0.0.1:9090",
        "http://ü.de",
    ],
)
def test_an_address_that_can_be_asked_is_taken(url: str) -> None:
    assert Settings.from_environment({"RAYFLEET_PROMETHEUS_URL": url}).prometheus.url == url
    httpx.AsyncClient(base_url=url)


def test_a_password_in_an_address_is_refused_without_being_told() -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment({"RAYFLEET_PROMETHEUS_URL": "https://me:hush@prometheus.example.com"})

    assert "hush" not in str(refusal.value)
    assert "https://***@prometheus.example.com" in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image: [", "not YAML"),
        ("- image", "fields of a ModelFleet's spec"),
        ("", "fields of a ModelFleet's spec"),
        ("image: a", "must also name rayVersion"),
        ("workers: []", "must also name image and rayVersion"),
        ("{image: a, rayVersion: 2.60.0, hed: {}}", "hed: unknown field"),
        ("{image: a, rayVersion: 2.60.0, head: {cpu: many}}", "head.cpu: "),
    ],
)
def test_fleet_defaults_that_cannot_be_used_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "defaults.yaml"
    file.write_text(text)

    with pytest.raises(SettingsError, match=said):
        Settings.from_environment({"RAYFLEET_FLEET_DEFAULTS": str(file)})
