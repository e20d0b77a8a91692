"""Which fleets a change concerns."""

from __future__ import annotations

from typing import Any

import pytest

from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.keys import FleetKey, Fleets
from rayfleet_operator.kube.kinds import Kind, kind_of
from rayfleet_operator.kube.places import Place

Json = dict[str, Any]


def model(name: str, fleet: str | None = None) -> Json:
    return {"metadata": {"namespace": "ml", "name": name}, "spec": {"fleet": fleet} if fleet else {}}


def child(fleet: str | None) -> Json:
    return {"metadata": {"namespace": "ml", "name": "x", "labels": {"rayfleet.io/fleet": fleet} if fleet else None}}


@pytest.mark.parametrize(
    ("kind", "obj", "fleets"),
    [
        (kinds.MODEL_DEPLOYMENT, model("resnet", "vision"), {"vision"}),
        (kinds.MODEL_DEPLOYMENT, model("resnet"), {"resnet"}),
        (kinds.MODEL_DEPLOYMENT, {"metadata": {"namespace": "ml", "name": "bare"}}, {"bare"}),
        (kinds.MODEL_FLEET, model("vision"), {"vision"}),
        (kinds.RAY_CLUSTER, child("vision"), {"vision"}),
        (kinds.SECRET, child(None), set()),
    ],
)
def test_an_object_concerns_its_fleet(kind: Kind, obj: Json, fleets: set[str]) -> None:
    assert Fleets().seen(kind, obj) == {FleetKey("ml", fleet) for fleet in fleets}


def test_a_model_that_moves_concerns_both_fleets_once() -> None:
    fleets = Fleets()
    fleets.seen(kinds.MODEL_DEPLOYMENT, model("resnet", "vision"))

    assert fleets.seen(kinds.MODEL_DEPLOYMENT, model("resnet", "big")) == {("ml", "vision"), ("ml", "big")}
    assert fleets.seen(kinds.MODEL_DEPLOYMENT, model("resnet", "big")) == {("ml", "big")}
    assert fleets.seen(kinds.MODEL_DEPLOYMENT, model("resnet", "big"), deleted=True) == {("ml", "big")}
    assert fleets.seen(kinds.MODEL_DEPLOYMENT, model("resnet", "new")) == {("ml", "new")}


def test_a_list_finds_what_was_missed_and_is_all_that_is_remembered() -> None:
    fleets = Fleets()
    for name in ("gone", "moved", "stays"):
        fleets.seen(kinds.MODEL_DEPLOYMENT, model(name, f"{name}-fleet"))

    def listed(kind: Kind, *objects: Json, namespace: str | None = "ml") -> set[str]:
        return {fleet for _, fleet in fleets.listed(Place(kind, namespace), objects)}

    moved, stays = model("moved", "elsewhere"), model("stays", "stays-fleet")
    assert listed(kinds.RAY_SERVICE, child("orphan")) == {"x"}
    assert listed(kinds.MODEL_DEPLOYMENT, namespace="other") == set()
    assert listed(kinds.MODEL_DEPLOYMENT, moved, stays) == {"gone-fleet", "moved-fleet", "elsewhere", "stays-fleet"}
    assert listed(kinds.MODEL_DEPLOYMENT, moved, stays) == {"elsewhere", "stays-fleet"}
    assert listed(kinds.MODEL_DEPLOYMENT, namespace=None) == {"elsewhere", "stays-fleet"}
    assert listed(kinds.MODEL_DEPLOYMENT) == set()


def test_kinds_are_known_by_what_objects_say() -> None:
    for kind in kinds.ALL:
        assert kind_of({"apiVersion": kind.api_version, "kind": kind.name}) is kind
    with pytest.raises(ValueError, match="v1beta1"):
        kind_of({"apiVersion": "ray.io/v1beta1", "kind": "RayService"})
    assert kinds.SECRET.path("ml", "a") == "/api/v1/namespaces/ml/secrets/a"
    assert kinds.RAY_SERVICE.path(None) == "/apis/ray.io/v1/rayservices"
    assert kinds.MODEL_FLEET.path("ml", "a", "status").endswith("/namespaces/ml/modelfleets/a/status")
