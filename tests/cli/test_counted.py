"""What `rayfleet capacity --live` counts, from the objects on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.cli import counted
from rayfleet_operator.cli.capacity import Report
from rayfleet_operator.cli.kubectl import Kubectl
from rayfleet_operator.plan import serve_config
from rayfleet_operator.render import objects
from rayfleet_operator.render.names import FleetName
from rayfleet_operator.render.raycluster import cluster_spec
from rayfleet_serving.config import ModelIdentity, TrafficTable

Json = dict[str, Any]

NAME = FleetName("ml", "vision")
FLEET: Json = {
    "image": "serving:1",
    "rayVersion": "2.60.0",
    "workerGroups": [{"name": "gpu", "cpu": "32", "memory": "64Gi", "gpu": 1}],
}
SPEC: Json = {
    "fleet": "vision",
    "model": {"uri": "models:/web/1"},
    "resources": {"gpu": "0.1"},
    "autoscaling": {"minReplicas": 1, "maxReplicas": 9},
}


class Cluster(Kubectl):
    """Has these objects."""

    def __init__(self, *found: Json) -> None:
        self._found = found

    def get(
        self, kind: str, names: Sequence[str] = (), *, namespace: str | None = None, labels: str | None = None
    ) -> list[Json]:
        return [each for each in self._found if kind.startswith(each["kind"].lower())]


def entry(version: int) -> Json:
    model = ModelDeployment.model_validate({"metadata": {"name": "web"}, "spec": SPEC})
    identity = ModelIdentity(version=str(version), model_id=f"m-{version}", artifact_uri="s3://b/m")
    return serve_config.model_app(model, identity)


def cluster(status: Json, *versions: int) -> Cluster:
    spec = ModelFleetSpec.model_validate(FLEET)
    applications = [serve_config.router_app(spec, TrafficTable()), *map(entry, versions)]
    service = objects.rayservice(
        NAME,
        [],
        cluster=cluster_spec(NAME, spec),
        serve_config=serve_config.canonical(serve_config.serve_config(applications, serve_config.ServeOptions())),
        inputs="a",
        environment="",
        longest_request_s=1,
    )
    told = [
        {"name": str(each), "app": entry(each)["name"], "weight": 100 if each == versions[0] else 0, "state": "Ready"}
        for each in versions
    ]
    metadata = {"namespace": "ml", "generation": 1}
    return Cluster(
        {"kind": "ModelFleet", "metadata": {"name": "vision", **metadata}, "spec": FLEET},
        {
            "kind": "ModelDeployment",
            "metadata": {"name": "web", **metadata},
            "spec": SPEC,
            "status": {"versions": told, **status},
        },
        service,
    )


@pytest.mark.parametrize(
    ("status", "versions", "taken"),
    [
        ({}, (1,), [1]),
        ({"replicas": 5}, (1,), [5]),
        ({"replicas": 5, "scaling": {"wanted": 7, "running": 5}}, (1,), [7]),
        ({"replicas": 8, "scaling": {"wanted": 5, "running": 5}}, (1, 2), [5, 3]),
        ({"replicas": 8}, (1, 2), [7, 1]),
    ],
)
def test_a_model_that_follows_its_load_is_counted_as_large_as_its_status_says(
    status: Json, versions: tuple[int, ...], taken: list[int]
) -> None:
    (found,) = counted.of_cluster(cluster(status, *versions), "ml")
    by_app = {ask.app: max(ask.running, ask.target, ask.size.least) for ask in found.asks}
    assert [by_app[entry(version)["name"]] for version in versions] == taken
    (line,) = [each for each in Report.of(found).lines() if "GPU 0:" in each]
    assert f"GPU 0: {1 - 0.1 * sum(taken):.1g} free" in line
