"""Every object that the API takes can be compared with every other, and what that costs be told."""

from __future__ import annotations

from typing import Any

import pytest
from api.cases import CASES, Case, merged
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.api.fleet import ModelFleet, ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.cli import costs, redaction
from rayfleet_operator.cli.compared import Compared
from rayfleet_operator.cli.costs import Running
from rayfleet_operator.render import objects, revision, standing, upgrade
from rayfleet_operator.render.names import FleetName
from rayfleet_operator.render.raycluster import cluster_spec, ordered, resized

Json = dict[str, Any]

NAME = FleetName("ml", "a")
DEFAULTS: Json = {"image": "serving:1", "rayVersion": "2.60.0", "workerGroups": [{"name": "workers", "gpu": 1}]}
GOOD = [case for case in CASES if case.refused_at is None]
FLEETS = [case for case in GOOD if case.obj["kind"] == "ModelFleet"]
MODELS = [case for case in GOOD if case.obj["kind"] == "ModelDeployment"]


def cluster(spec: Json, before: Json | None = None) -> Json:
    """As the operator renders it."""
    said = {key: value for key, value in spec.items() if value not in (None, [], {})}
    given = ModelFleetSpec.model_validate({**DEFAULTS, **said})
    return cluster_spec(NAME, ordered(given, before))


def running(spec: Json) -> Running:
    inputs = revision.inputs_digest(spec, "")
    service = objects.rayservice(
        NAME, [], cluster=cluster(spec), serve_config=b"", inputs=inputs, environment="", longest_request_s=1
    )
    kept = objects.revision(NAME, [], inputs=inputs, cluster=cluster(spec), number=1, asked=upgrade.asked(spec, ""))
    return Running(ray_service=service, revisions=[kept])


def live(obj: Json) -> Json:
    return {**obj, "metadata": {"name": "a", "namespace": "ml"}}


def without_nulls(value: Any) -> Any:
    """As files are read."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


PLAIN: Json = {"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelFleet", "metadata": {"name": "a"}, "spec": {}}


@pytest.mark.parametrize("case", FLEETS, ids=str)
def test_what_is_said_of_a_fleet_is_what_the_operator_and_kuberay_would_do(case: Case) -> None:
    """From every good fleet to a plain one and to one that says a little more, and back."""
    more = {"spec": {"imagePullPolicy": "Always", "routers": {"replicas": 7, "maxReplicas": 100}}}
    for before, after in ((PLAIN, case.obj), (case.obj, PLAIN), (case.obj, merged(case.obj, more))):
        before, after = without_nulls(before), without_nulls(after)
        found = Compared(ModelFleet.model_validate(after), live(before))
        lines = costs.of_fleet(found, running(before.get("spec") or {}), "ml") if found.changes else []
        said = any("a new Ray cluster is built beside the old one" in each and "anew" not in each for each in lines)
        one, other = (revision.inputs_digest(each.get("spec") or {}, "") for each in (before, after))
        now = cluster(before.get("spec") or {})
        wanted = resized(
            cluster(after.get("spec") or {}, now),
            ModelFleetSpec.model_validate({**DEFAULTS, **(after.get("spec") or {})}),
        )
        assert said == (one != other and not standing.in_place(now, wanted)), lines


@pytest.mark.parametrize("case", MODELS, ids=str)
def test_every_good_model_can_be_compared_with_a_plain_one(case: Case) -> None:
    plain = {"spec": {"model": {"uri": "models:/resnet@champion"}}}
    for before, after in ((plain, case.obj), (case.obj, {**case.obj, **plain}), (case.obj, merged(case.obj, plain))):
        metadata = {"metadata": {"name": "a"}}
        before, after = without_nulls(before), without_nulls(after)
        found = Compared(ModelDeployment.model_validate({**after, **metadata}), live({**case.obj, **before}))
        assert not found.changes or costs.of_model(found, lambda name: None)
    new = Compared(ModelDeployment.model_validate(without_nulls(case.obj)), None)
    assert costs.of_model(new, lambda name: True)[0].startswith("new: ")


KEYS = [
    "name",
    "spec",
    "env",
    "value",
    "workerGroups",
    "template",
    "image",
    "annotations",
    "labels",
    "f:spec",
    "status",
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["a", "2.60.0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner),
    max_leaves=15,
)
EVERY = [*FLEETS, *MODELS]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(EVERY), ANYTHING, ANYTHING, ANYTHING, ANYTHING, ANYTHING)
def test_whatever_is_on_the_cluster_can_be_compared(
    case: Case, spec: Any, annotations: Any, labels: Any, fields: Any, status: Any
) -> None:
    obj = without_nulls(case.obj)
    metadata = {"name": "a", "namespace": "ml", "annotations": annotations, "labels": labels, "managedFields": fields}
    there = {"kind": obj["kind"], "metadata": metadata, "spec": spec, "status": status}
    found: Compared[Any]
    if obj["kind"] == "ModelFleet":
        found = Compared(ModelFleet.model_validate(obj), there)
    else:
        found = Compared(ModelDeployment.model_validate(obj), there)
    for change in found.changes:
        assert "\n" not in change.where + redaction.shown(change.path, change.before)
        redaction.shown(change.path, change.after)
    if found.refused is None and found.before_item is not None and found.changes:
        told = Running(ray_service={"metadata": metadata, "spec": spec, "status": status}, revisions=[])
        if obj["kind"] == "ModelFleet":
            costs.of_fleet(found, told, "ml")
        else:
            costs.of_model(found, lambda name: None)
