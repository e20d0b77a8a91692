"""Somebody edits or deletes what the operator made: it is put right, and what others own is left alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster.deadline import until

from e2e.registry import Registry
from e2e.scene import START_S, Scene
from e2e.traffic import Report, Traffic

WITHIN_S = 120.0
"""In which it is put right here; each test prints what it was."""
AGAIN_S = 60.0
"""In which the model answers again after that, if the edit took it away at all."""
ANSWER = 3.0


@pytest.fixture(scope="module", autouse=True)
def served(scene: Scene, models: Registry) -> None:
    models.linear("drift", ANSWER)
    scene.apply(scene.model("drift", "models:/drift@champion"))
    scene.settled("drift")


def _children(scene: Scene) -> list[tuple[str, str]]:
    (revision,) = scene.list("controllerrevisions", "rayfleet.io/fleet=drift")
    return [
        ("service", "drift"),
        ("secret", "drift-auth"),
        ("secret", "drift-credentials"),
        ("networkpolicy", "drift"),
        ("controllerrevision", revision["metadata"]["name"]),
    ]


def _essence(obj: dict[str, Any]) -> dict[str, Any]:
    """What the operator says of it. A revision is made again from the live RayService, where the API server has filled
    in what it takes for granted: that this is no change for KubeRay, the same Ray cluster shows."""
    said = ("spec", "revision") if obj["kind"] == "ControllerRevision" else ("spec", "data", "type")
    kept = {key: value for key, value in obj.items() if key in said}
    if "spec" in kept:
        kept["spec"] = {key: value for key, value in kept["spec"].items() if not key.startswith("clusterIP")}
    metadata = obj["metadata"]
    return {**kept, "labels": metadata["labels"], "owners": metadata["ownerReferences"]}


@pytest.fixture(scope="module")
def steady(scene: Scene) -> Iterator[Traffic]:
    """Requests for as long as children are deleted and edited."""
    with scene.traffic("drift", "drift", rate=5) as traffic:
        yield traffic


def _lost(steady: Traffic, before: Report) -> list[dict[str, Any]]:
    """Requests sent between then and now that were not answered, once all of them have ended: while there is no
    Service, connections hang until the client gives up. For the same reason, earlier ones may still be given up."""
    return [each for each in steady.caught_up().failed if each["at"] >= before.raw["seconds"]]


@pytest.mark.parametrize("number", range(5), ids=["service", "token", "credentials", "networkpolicy", "revision"])
def test_a_deleted_child_comes_back_as_it_was(scene: Scene, steady: Traffic, number: int) -> None:
    kind, name = _children(scene)[number]
    before, clusters = scene.get(kind, name), scene.ray_clusters("drift")
    rendered = scene.get("rayservice", "drift")["spec"]["rayClusterConfig"]
    earlier = steady.report()
    scene.kubectl("delete", kind, name, "-n", scene.namespace)
    began = time.monotonic()
    until(f"{kind} {name} is back", lambda: bool(scene.get(kind, name)), WITHIN_S, every=0.3)
    print(f"{kind} {name} back after {time.monotonic() - began:.1f} s")
    assert _essence(scene.get(kind, name)) == _essence(before)
    _answers(scene)
    assert scene.get("rayservice", "drift")["spec"]["rayClusterConfig"] == rendered
    assert scene.ray_clusters("drift") == clusters
    lost = _lost(steady, earlier)
    print(f"{len(lost)} requests lost")
    # For as long as there is no Service nobody can connect.
    assert kind == "service" or lost == []


def _answers(scene: Scene) -> None:
    """It does, and its status says so."""
    began = time.monotonic()
    scene.answers("drift", "drift", ANSWER, seconds=AGAIN_S)
    print(f"answered {time.monotonic() - began:.1f} s later")
    scene.settled("drift")


EDITS: list[tuple[str, str, dict[str, Any], Callable[[dict[str, Any]], Any]]] = [
    ("service", "drift", {"spec": {"selector": {"ray.io/cluster": "nobody"}}}, lambda obj: obj["spec"]["selector"]),
    ("service", "drift", {"spec": {"selector": {"example.com/tier": "gold"}}}, lambda obj: obj["spec"]["selector"]),
    ("secret", "drift-auth", {"stringData": {"auth_token": "guessed"}}, lambda obj: obj["data"]),
    ("networkpolicy", "drift", {"spec": {"ingress": []}}, lambda obj: obj["spec"].get("ingress")),
    ("rayservice", "drift", {"spec": {"serveConfigV2": "applications: []"}}, lambda obj: obj["spec"]["serveConfigV2"]),
    ("rayservice", "drift", {"spec": {"excludeHeadPodFromServeSvc": False}},
     lambda obj: obj["spec"]["excludeHeadPodFromServeSvc"]),
    ("rayservice", "drift", {"metadata": {"labels": {"rayfleet.io/fleet": "another"}}},
     lambda obj: obj["metadata"]["labels"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "edit", "part"), EDITS, ids=[f"{kind}-{json.dumps(edit)[:40]}" for kind, _, edit, _ in EDITS]
)
def test_an_edited_child_is_put_right(
    scene: Scene, steady: Traffic, kind: str, name: str, edit: dict[str, Any], part: Callable[[dict[str, Any]], Any]
) -> None:
    earlier = steady.report()
    before, clusters = part(scene.get(kind, name)), scene.ray_clusters("drift")
    scene.patch(kind, name, edit)
    began = time.monotonic()
    until(f"{kind} {name} is put right", lambda: part(scene.get(kind, name)) == before, WITHIN_S, every=0.3)
    print(f"{kind} {name} put right after {time.monotonic() - began:.1f} s")
    _answers(scene)
    assert part(scene.get(kind, name)) == before
    assert scene.ray_clusters("drift") == clusters
    lost = _lost(steady, earlier)
    print(f"{len(lost)} requests lost")
    # These two lead requests away, or end the model, until they are put right.
    assert kind == "service" or "serveConfigV2" in edit.get("spec", {}) or lost == []


def test_a_deleted_rayservice_is_made_again(scene: Scene) -> None:
    """Its Ray cluster goes with it, and the Service leads to the one that comes."""
    uid, clusters = scene.get("rayservice", "drift")["metadata"]["uid"], scene.ray_clusters("drift")
    began = time.monotonic()
    scene.kubectl("delete", "rayservice", "drift", "-n", scene.namespace, "--wait=false")

    def followed() -> str:
        selector: dict[str, str] = scene.get("service", "drift")["spec"]["selector"]
        return selector["ray.io/cluster"]

    until("the Service leads to another cluster", lambda: followed() not in clusters, START_S, every=0.5)
    assert scene.get("rayservice", "drift")["metadata"]["uid"] != uid
    scene.answers("drift", "drift", ANSWER, seconds=START_S)
    print(f"answered {time.monotonic() - began:.1f} s after its RayService was deleted")
    scene.settled("drift")
    assert scene.ray_clusters("drift") == [followed()]


def test_what_others_write_stays(scene: Scene) -> None:
    """Annotations and labels of others, and the number of pods that Ray's autoscaler chose."""
    for kind in ("rayservice", "service", "networkpolicy"):
        scene.kubectl("annotate", kind, "drift", "-n", scene.namespace, "example.com/owner=team-a", "--overwrite")
        scene.kubectl("label", kind, "drift", "-n", scene.namespace, "example.com/tier=gold", "--overwrite")
    # The operator writes again: its own part of the objects has changed.
    scene.patch("modeldeployment", "drift", {"spec": {"limits": {"requestTimeout": "45s"}}})
    _answers(scene)
    for kind in ("rayservice", "service", "networkpolicy"):
        metadata = scene.get(kind, "drift")["metadata"]
        assert metadata["annotations"]["example.com/owner"] == "team-a"
        assert metadata["labels"]["example.com/tier"] == "gold"
