"""What the chart makes of MLflow's webhooks: where the key is, and who may send one."""

from __future__ import annotations

from pathlib import Path

import yaml
from helm_chart import Json, of_kind, one, service_named

from .operator_pod import pod, settings


def test_by_default_nothing_listens_for_webhooks(rendered: dict[str, list[Json]], tmp_path: Path) -> None:
    assert settings(rendered["defaults"], tmp_path).registry_webhook is None
    assert "webhook" not in yaml.safe_dump_all(of_kind(rendered["defaults"], "Deployment"))
    assert [service["metadata"]["name"] for service in of_kind(rendered["defaults"], "Service")] == [
        "rayfleet-operator-metrics"
    ]


def test_the_webhooks_key_is_where_the_operator_reads_it(rendered: dict[str, list[Json]], tmp_path: Path) -> None:
    spec = pod(rendered["everything"])
    (volume,) = [each["secret"] for each in spec["volumes"] if each["name"] == "webhook"]
    assert (volume["secretName"], volume["optional"]) == ("webhook", True)
    (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "webhook"]
    assert "subPath" not in mount, "a rotation would not arrive"
    (item,) = volume["items"]
    found = settings(rendered["everything"], tmp_path)
    assert str(found.registry_webhook) == f"{mount['mountPath']}/{item['path']}"
    assert {"name": "webhook", "containerPort": found.registry_webhook_port} in spec["containers"][0]["ports"]


def test_webhooks_have_a_service_and_may_be_for_some_alone(rendered: dict[str, list[Json]]) -> None:
    service = service_named(rendered["everything"], "models-webhook")
    assert service["spec"]["ports"] == [{"name": "webhook", "port": 80, "targetPort": "webhook"}]
    labels = one(rendered["everything"], "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert one(rendered["everything"], "NetworkPolicy")["spec"]["ingress"][-1] == {
        "ports": [{"protocol": "TCP", "port": "webhook"}],
        "from": [{"namespaceSelector": {"matchLabels": {"name": "mlflow"}}}],
    }
    assert "from" not in one(rendered["words"], "NetworkPolicy")["spec"]["ingress"][-1]
