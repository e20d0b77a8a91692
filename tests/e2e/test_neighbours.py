"""One model of a fleet is broken in every way. The other answers all through, and what it served itself it goes on
serving."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from cluster.deadline import until

from e2e.registry import Registry
from e2e.scene import Scene
from e2e.traffic import Traffic

WITHIN_S = 120.0
"""In which a break shows its reason here; on a quiet machine it is 30 s, and each test prints what it was."""

GOOD, OTHER = 1.0, 5.0


@pytest.fixture(scope="module")
def steady(scene: Scene, models: Registry) -> Iterator[Traffic]:
    """Requests to the good neighbour for as long as the module runs."""
    models.linear("good", GOOD)
    models.linear("other", OTHER)
    models.broken("raises", "the weights are corrupt")
    scene.apply(scene.fleet("shared"), scene.model("good", "models:/good@champion", fleet="shared"), _healthy(scene))
    scene.settled("good")
    with scene.traffic("shared", "good", rate=10) as traffic:
        yield traffic
        report = traffic.stop()
    print(report)
    assert report.failed == []


@pytest.fixture(autouse=True)
def _undisturbed(scene: Scene, steady: Traffic) -> Iterator[None]:
    """Begin with an `other` that is well, and see that the break is told, and nobody else's."""
    scene.apply(_healthy(scene))
    _heals(scene)
    yield
    assert steady.report().failed == []
    found = {each: scene.condition("good", each) for each in ("Ready", "Degraded")}
    assert {each: of["status"] for each, of in found.items()} == {"Ready": "True", "Degraded": "False"}, found


def _healthy(scene: Scene) -> dict[str, object]:
    return scene.model("other", "models:/other@champion", fleet="shared")


def _heals(scene: Scene) -> None:
    scene.wait("other", "Degraded", "False")
    scene.settled("other")
    until("one version is left", lambda: len(scene.get("modeldeployment", "other")["status"]["versions"]) == 1, 60)
    scene.answers("shared", "other", OTHER)


def _breaks(scene: Scene, reason: str, *words: str, name: str = "other") -> None:
    began = time.monotonic()
    found = scene.wait(name, "Degraded", "True", reason=reason, seconds=WITHIN_S)
    print(f"{reason} after {time.monotonic() - began:.1f} s: {found['message'][:160]!r}")
    assert all(word in found["message"] for word in words), found["message"]


def test_a_uri_that_means_nothing(scene: Scene) -> None:
    scene.apply(scene.model("other", "models:/no-such-model@champion", fleet="shared"))
    _breaks(scene, "ModelNotFound", "no-such-model")
    assert scene.condition("other", "Ready")["status"] == "True"
    scene.answers("shared", "other", OTHER)


def test_a_model_that_raises_as_it_is_loaded(scene: Scene) -> None:
    broken = scene.model("other", "models:/raises@champion", fleet="shared", model={"allowCodeExecution": True})
    scene.apply(broken)
    _breaks(scene, "VersionFailed", "the weights are corrupt")
    assert scene.condition("other", "Ready")["status"] == "True"
    scene.answers("shared", "other", OTHER)


def test_a_replica_that_fits_on_no_worker(scene: Scene) -> None:
    scene.apply(scene.model("other", "models:/other@champion", fleet="shared", resources={"cpu": "64"}))
    _breaks(scene, "InsufficientCapacity", "64 CPUs")
    scene.answers("shared", "other", OTHER)


def test_more_replicas_than_there_is_room_for(scene: Scene) -> None:
    wants = scene.model("other", "models:/other@champion", fleet="shared", resources={"cpu": "1"}, replicas=9)
    scene.apply(wants)
    _breaks(scene, "InsufficientCapacity", "needs 1 CPU, ")
    scene.answers("shared", "other", OTHER)


@pytest.mark.parametrize(
    ("name", "uri", "fleet", "reason", "word"),
    [
        ("unknown", "models:/no-such-model@champion", "shared", "ModelNotFound", "no-such-model"),
        ("stray", "models:/other@champion", "nowhere", "FleetNotFound", "nowhere"),
    ],
)
def test_a_model_that_never_answered(scene: Scene, name: str, uri: str, fleet: str, reason: str, word: str) -> None:
    scene.apply(scene.model(name, uri, fleet=fleet))
    _breaks(scene, reason, word, name=name)
    assert scene.wait(name, "Ready", "False", reason=reason, seconds=1)["message"]
    if fleet == "shared":
        status, answer = scene.ask("shared", f"/{name}/invocations", {"inputs": [[1.0, 0.0]]})
        assert status in (404, 503), answer
    scene.kubectl("delete", "modeldeployment", name, "-n", scene.namespace)


def test_mending_it_healed_it(scene: Scene) -> None:
    """That it is well the fixture has seen; here it takes its share of requests."""
    with scene.traffic("shared", "other", rate=5) as traffic:
        report = traffic.stop()
    assert report.failed == []
    assert report.answers == {'{"predictions":[5.0]}': report.sent}
