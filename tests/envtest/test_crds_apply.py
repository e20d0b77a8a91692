"""Who owns what of an object: several field managers, spec and status."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from cluster.control_plane import ControlPlane
from envtest.objects import Answer, Json, Objects

from rayfleet_operator.api.types import API_VERSION

NUMBERS = itertools.count(1)
SINCE = "2026-01-01T00:00:00Z"


@pytest.fixture
def objects(control_plane: ControlPlane) -> Iterator[Objects]:
    """In a namespace of the test's own."""
    with control_plane.client() as client:
        yield Objects(client, f"crds-apply-{next(NUMBERS)}")


def model(**parts: Any) -> Json:
    return {"apiVersion": API_VERSION, "kind": "ModelDeployment", "metadata": {"name": "a"}, **parts}


def fleet(**parts: Any) -> Json:
    return {"apiVersion": API_VERSION, "kind": "ModelFleet", "metadata": {"name": "a"}, **parts}


def condition(kind: str, status: str = "True") -> Json:
    return {"type": kind, "status": status, "reason": "Tested", "lastTransitionTime": SINCE}


def version(name: str, weight: int) -> Json:
    return {"name": name, "app": f"a-{name}", "weight": weight}


SPEC = {"model": {"uri": "models:/m/1"}}


def good(answer: Answer) -> Json:
    assert answer.accepted, answer.body
    return answer.body


def test_two_managers_of_a_fleet_add_up(objects: Objects) -> None:
    base = {"env": [{"name": "A", "value": "1"}], "workerGroups": [{"name": "cpu", "cpu": "4"}]}
    good(objects.apply(fleet(spec=base), "base"))
    node = {"spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "ray-worker", "tty": True}]}}
    more = {
        "env": [{"name": "B", "value": "2"}],
        "workerGroups": [{"name": "cpu", "memory": "8Gi", "template": node}, {"name": "gpu", "gpu": 1}],
    }
    spec = good(objects.apply(fleet(spec=more), "overlay"))["spec"]
    assert spec["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert spec["workerGroups"] == [
        {"name": "cpu", "cpu": "4", "memory": "8Gi", "minReplicas": 1, "template": node},
        {"name": "gpu", "cpu": "2", "memory": "4Gi", "gpu": 1, "minReplicas": 1},
    ]
    side = {"spec": {"containers": [{"name": "side", "image": "b"}]}}
    spec = good(objects.apply(fleet(spec={"workerGroups": [{"name": "cpu", "template": side}]}), "third"))["spec"]
    containers = spec["workerGroups"][0]["template"]["spec"]["containers"]
    assert containers == [{"name": "ray-worker", "tty": True}, {"name": "side", "image": "b"}]


def test_a_null_in_a_template_is_kept(objects: Objects) -> None:
    """It takes a field of the operator's own template away."""
    spec = {
        "head": {"template": {"spec": {"securityContext": None, "containers": [{"name": "ray-head", "tty": None}]}}}
    }
    assert good(objects.apply(fleet(spec=spec), "base"))["spec"] == spec


def test_what_one_manager_owns_another_cannot_change_by_chance(objects: Objects) -> None:
    good(objects.apply(fleet(spec={"env": [{"name": "A", "value": "1"}]}), "base"))
    other = fleet(spec={"env": [{"name": "A", "value": "2"}]})
    answer = objects.apply(other, "overlay")
    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
    assert '.spec.env[name="A"].value' in answer.body["message"]
    good(objects.apply(other, "overlay", force=True))
    assert objects.get("ModelFleet", "a")["spec"]["env"] == [{"name": "A", "value": "2"}]


def test_what_a_manager_no_longer_gives_is_gone(objects: Objects) -> None:
    good(objects.apply(fleet(spec={"env": [{"name": "A"}], "image": "a"}), "base"))
    good(objects.apply(fleet(spec={"env": [{"name": "B"}], "rayVersion": "2.60.0"}), "overlay"))
    spec = good(objects.apply(fleet(spec={"image": "a"}), "base"))["spec"]
    assert spec == {"image": "a", "rayVersion": "2.60.0", "env": [{"name": "B", "value": ""}]}


def test_together_they_must_still_keep_to_the_rules(objects: Objects) -> None:
    good(objects.apply(fleet(spec={"modelCache": {"claimName": "shared"}}), "base"))
    (cause,) = objects.apply(fleet(spec={"modelCache": {"sizeLimit": "10Gi"}}), "overlay").causes
    assert cause.path == "spec.modelCache.sizeLimit"
    assert "sizeLimit has no effect on a claim" in cause.why


@pytest.mark.parametrize("make", [model, fleet], ids=["ModelDeployment", "ModelFleet"])
def test_conditions_of_two_managers_stand_beside_each_other(objects: Objects, make: Any) -> None:
    obj = make(spec=SPEC if make is model else {})
    good(objects.create(obj))
    both = [condition("Ready"), condition("Progressing", "False")]
    good(objects.apply(make(status={"conditions": both}), "operator", part="status"))
    drifted = make(status={"conditions": [condition("Drifted")]})
    status = good(objects.apply(drifted, "monitor", part="status"))["status"]
    assert status["conditions"] == [*both, condition("Drifted")]
    changed = [condition("Ready", "False")]
    status = good(objects.apply(make(status={"conditions": changed}), "operator", part="status"))["status"]
    assert status["conditions"] == [*changed, condition("Drifted")]
    answer = objects.apply(make(status={"conditions": [condition("Ready", "Unknown")]}), "monitor", part="status")
    assert answer.code == 409


def test_versions_keep_the_order_in_which_they_are_applied(objects: Objects) -> None:
    """The first one is what `kubectl get` shows."""
    good(objects.create(model(spec=SPEC)))
    for weights in ({"1": 100}, {"1": 90, "2": 10}, {"2": 90, "1": 10}, {"3": 60, "2": 40, "1": 0}, {"2": 100}):
        versions = [version(name, weight) for name, weight in weights.items()]
        body = good(objects.apply(model(status={"versions": versions}), "operator", part="status"))
        assert body["status"]["versions"] == versions


@pytest.mark.parametrize("make", [model, fleet], ids=["ModelDeployment", "ModelFleet"])
def test_spec_and_status_are_written_apart(objects: Objects, make: Any) -> None:
    spec = SPEC if make is model else {}
    created = good(objects.create(make(spec=spec, status={"url": "http://people.do.not.write.it"})))
    assert "status" not in created
    assert created["metadata"]["generation"] == 1

    name, kind = created["metadata"]["name"], created["kind"]
    other = {"routers": {"replicas": 3}} if make is fleet else {**SPEC, "replicas": 3}
    body = good(objects.merge(make(spec=other, status={"url": "http://a", "observedGeneration": 1}), part="status"))
    assert body["status"] == {"url": "http://a", "observedGeneration": 1}
    assert body["spec"] == created["spec"]
    assert body["metadata"]["generation"] == 1

    body = good(objects.merge(make(spec=other, status={"url": "http://b"})))
    assert body["metadata"]["generation"] == 2
    assert objects.get(kind, name)["status"]["url"] == "http://a"


BAD_STATUS = {
    "conditions[0].reason": {"conditions": [{**condition("Ready"), "reason": ""}]},
    "conditions[0].status": {"conditions": [condition("Ready", "true")]},
    "conditions[0].lastTransitionTime": {"conditions": [{**condition("Ready"), "lastTransitionTime": "today"}]},
    "conditions[1]": {"conditions": [condition("Ready"), condition("Ready", "False")]},
    "conditions[0].type": {"conditions": [{"status": "True", "reason": "A", "lastTransitionTime": SINCE}]},
    "conditions": {"conditions": [condition(f"Type{number}") for number in range(17)]},
    "versions[0].weight": {"versions": [version("1", 101)]},
    "versions[0].state": {"versions": [{**version("1", 1), "state": "Gone"}]},
    "versions[0].app": {"versions": [{"name": "1"}]},
    "versions[1]": {"versions": [version("1", 50), version("1", 50)]},
    "replicas": {"replicas": -1},
    "observedGeneration": {"observedGeneration": "1"},
    "phase": {"phase": "Running"},
}


@pytest.mark.parametrize("field", BAD_STATUS)
def test_a_status_that_cannot_be_is_refused(objects: Objects, field: str) -> None:
    good(objects.create(model(spec=SPEC)))
    answer = objects.merge(model(status=BAD_STATUS[field]), part="status")
    assert {cause.path for cause in answer.causes} == {f"status.{field}"}, answer.body
