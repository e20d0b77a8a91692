"""What a changed model starts beside what it runs, from its two specs alone."""

from __future__ import annotations

from typing import Any

import pytest

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan.succession import Need, succession

Json = dict[str, Any]

SPEC: Json = {
    "model": {"uri": "models:/web@live", "registry": {"trackingUri": "http://mlflow:5000"}},
    "replicas": 2,
    "resources": {"cpu": "1", "memory": "2Gi", "gpu": "0.5"},
}
TWO = Need(replicas=2, most=2, cpus=2.0, gpus=1.0, memory=4.0 * 2**30)


def model(spec: Json, artifact: str | None = None) -> ModelDeployment:
    resolved = {"uri": "models:/web@live", "version": "3", "modelId": "m-3", "artifactUri": artifact}
    status = {"resolved": resolved} if artifact is not None else {}
    return ModelDeployment.model_validate({"metadata": {"name": "web"}, "spec": spec, "status": status})


def with_model(**fields: Any) -> Json:
    return {**SPEC, "model": {**SPEC["model"], **fields}}


@pytest.mark.parametrize(
    "after",
    [
        SPEC,
        {**SPEC, "batching": {"maxBatchSize": 8}},
        {**SPEC, "limits": {"requestTimeout": "5s", "maxOngoingRequests": 7}},
        {**SPEC, "rollout": {"strategy": "BlueGreen"}},
        with_model(registry={"trackingUri": "http://mlflow:5000", "pollInterval": "5m"}),
    ],
)
def test_what_replicas_take_in_place_starts_none(after: Json) -> None:
    found = succession(model(SPEC), model(after))
    assert (found.own, found.named, found.before, found.after, found.other_uri) == (None, {}, TWO, TWO, False)


@pytest.mark.parametrize(
    ("after", "need"),
    [
        ({**SPEC, "resources": {"cpu": "2"}}, Need(replicas=2, most=2, cpus=4.0)),
        ({**SPEC, "resources": {**SPEC["resources"], "gpuMemory": "6Gi"}}, TWO),
        (with_model(allowCodeExecution=True), TWO),
        (with_model(registry={**SPEC["model"]["registry"], "secretName": "token"}), TWO),
    ],
)
def test_what_they_cannot_take_is_a_new_version_of_all_replicas(after: Json, need: Need) -> None:
    found = succession(model(SPEC), model(after))
    assert (found.own, found.other_uri) == (need, False)
    assert (found.before, found.after) == (TWO, need)


def test_another_uri_or_registry_may_mean_another_version() -> None:
    for after in (with_model(uri="models:/web/3"), with_model(registry={"trackingUri": "http://other:5000"})):
        found = succession(model(SPEC), model(after))
        assert (found.own, found.other_uri) == (TWO, True)


def test_replicas_come_in_place() -> None:
    found = succession(model(SPEC), model({**SPEC, "replicas": 5}))
    assert found.own is None
    assert (found.before.replicas, found.after.replicas, found.after.gpus) == (2, 5, 2.5)


def test_versions_that_traffic_names_have_replicas_of_their_own() -> None:
    versions: list[Json] = [{"name": "b", "uri": "models:/web/4", "weight": 10, "replicas": 3}]
    before, after = model(SPEC), model({**SPEC, "traffic": {"versions": versions}})
    found = succession(before, after)
    assert found.own is None
    assert found.named == {"b": Need(replicas=3, most=3, cpus=3.0, gpus=1.5, memory=6.0 * 2**30)}
    assert found.after.replicas == 5
    # Another weight, and the name of the model's own version, are nothing to be started.
    versions[0] |= {"weight": 20}
    versions.append({"name": "own", "uri": "models:/web@live", "replicas": 9})
    again = succession(after, model({**SPEC, "traffic": {"versions": versions}}))
    assert (again.own, again.named, again.after.replicas) == (None, {}, 5)


def test_a_new_model_starts_everything() -> None:
    found = succession(None, model(SPEC))
    assert (found.own, found.before, found.after, found.other_uri) == (TWO, Need(), TWO, False)


def test_what_is_known_of_where_the_files_are_counts_for_both() -> None:
    assert succession(model(SPEC, "s3://b/m"), model({**SPEC, "replicas": 3})).own is None


MOVING: Json = {**{key: value for key, value in SPEC.items() if key != "replicas"}, "resources": {"cpu": "1"}}


@pytest.mark.parametrize(
    ("least", "scaling", "replicas"),
    [
        (0, None, 1),
        (0, {"wanted": 0, "running": 0}, 1),
        (0, {"wanted": 5, "running": 5}, 5),
        (2, {"wanted": 5, "running": 3}, 5),
        (2, {"wanted": 99, "running": 99}, 8),
        (2, None, 2),
    ],
)
def test_a_candidate_is_as_large_as_what_it_takes_over_from_and_is_one_replica_at_least(
    least: int, scaling: Json | None, replicas: int
) -> None:
    spec = {**MOVING, "autoscaling": {"minReplicas": least, "maxReplicas": 8}}
    before = model(spec)
    told = before.status.model_validate({"scaling": scaling} if scaling is not None else {})
    before = before.model_copy(update={"status": told})
    found = succession(before, model({**spec, "resources": {"cpu": "2"}}))
    assert found.own == Need(replicas=replicas, most=8, cpus=2.0 * replicas)
    assert (found.before.replicas, found.after.replicas) == (least, least)


def test_what_may_sleep_later_starts_with_one() -> None:
    spec = {**MOVING, "autoscaling": {"minReplicas": 0, "maxReplicas": 8}}
    assert succession(None, model(spec)).anew == Need(replicas=1, most=8, cpus=1.0)
    fixed = model({**MOVING, "replicas": 3})
    assert succession(fixed, model({**spec, "resources": {"cpu": "2"}})).own == Need(replicas=3, most=8, cpus=6.0)
