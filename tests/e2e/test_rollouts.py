"""Versions that arrive by stages on the real cluster, while operators and the API server come and go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cluster.deadline import until
from cluster.kubectl import KubectlError
from cluster.providers import Cluster, NodeCluster
from scipy.stats import binomtest

from e2e.killing import killing
from e2e.registry import Registry
from e2e.scene import Scene
from e2e.traffic import Traffic

RATE = 50.0
MEASURED = 250
"""Answers by which a share is measured."""
ROLLOUT = {
    "strategy": "Canary",
    "steps": [{"weight": 10, "hold": "10s"}, {"weight": 50, "hold": "10s"}],
    "scaleDownDelay": "2s",
    "progressDeadline": "90s",
    "analysis": {"minRequests": 20, "errorRate": {"max": "1%"}},
}


@pytest.fixture(scope="module", autouse=True)
def served(scene: Scene, models: Registry) -> None:
    first = models.linear("ladder", 1)
    model = scene.model(
        "ladder",
        "models:/ladder@champion",
        fleet="rolling",
        rollout=ROLLOUT,
        model={"allowCodeExecution": True},
    )
    scene.apply(scene.fleet("rolling"), model)
    scene.settled("ladder", version=first)


def _status(scene: Scene) -> dict[str, Any]:
    return dict(scene.get("modeldeployment", "ladder").get("status") or {})


def _weight(scene: Scene, version: str) -> int:
    """What the routers were last given, as the RayService has it."""
    text = scene.get("rayservice", "rolling")["spec"]["serveConfigV2"]
    (router,) = (app for app in json.loads(text)["applications"] if app["name"] == "router")
    rows = router["deployments"][0]["user_config"]["models"]["ladder"]["versions"]
    return sum(row["weight"] for row in rows if row["version"] == version)


@contextmanager
def _watched(scene: Scene, version: str) -> Iterator[list[int]]:
    """The weights that the version is seen to have, one after the other."""
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                weight = _weight(scene, version)
            except (KubectlError, KeyError, ValueError):
                continue  # The API server is away.
            if not seen or seen[-1] != weight:
                seen.append(weight)
            stop.wait(0.2)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def _holding(scene: Scene, version: str, weight: int) -> bool:
    """Every router holds this weight for it."""
    told = _status(scene).get("rollout") or {}
    return told.get("weight") == weight and bool(told.get("since")) and _weight(scene, version) == weight


def _share(traffic: Traffic, scene: Scene, version: str, weight: int) -> None:
    """Of what is answered while the candidate holds this weight, its share is as it should be."""
    until(f"{version} holds {weight} %", lambda: _holding(scene, version, weight), 90, every=0.3)
    first = traffic.caught_up().versions
    enough = sum(first.values()) + MEASURED
    until("enough is answered", lambda: sum(traffic.report().versions.values()) >= enough, 60, every=0.3)
    last = traffic.report().versions
    assert _weight(scene, version) == weight, "it was measured for too long"
    answered = {name: count - first.get(name, 0) for name, count in last.items()}
    new, total = answered.get(version, 0), sum(answered.values())
    found = binomtest(new, total, weight / 100)
    low, high = found.proportion_ci(0.99)
    print(f"weight {weight}: {new} of {total} by the candidate; 99 % interval {low:.3f} to {high:.3f}")
    # The interval above misses one right split in a hundred, this one in ten thousand.
    assert found.pvalue > 1e-4


def test_a_good_version_gets_its_share_at_each_step_and_then_everything(scene: Scene, models: Registry) -> None:
    with scene.traffic("rolling", "ladder", rate=RATE) as traffic:
        second = models.linear("ladder", 2)
        with _watched(scene, second) as weights:
            _share(traffic, scene, second, 10)
            _share(traffic, scene, second, 50)
            scene.settled("ladder", version=second)
        report = traffic.stop()
    print(report, weights)
    assert report.failed == []
    assert weights == [0, 10, 50, 100]
    assert _status(scene)["history"][0]["outcome"] == "Succeeded"
    scene.answers("rolling", "ladder", 2)


def test_the_first_step_stops_a_version_that_raises(scene: Scene, models: Registry) -> None:
    (good,) = (each["name"] for each in _status(scene)["versions"])
    with scene.traffic("rolling", "ladder", rate=RATE) as traffic:
        bad = models.raising("ladder", 4)
        with _watched(scene, bad) as weights:
            found = scene.wait("ladder", "Degraded", reason="RolledBack", seconds=120)
            until(
                "its last request is answered",
                lambda: [each["name"] for each in _status(scene)["versions"]] == [good],
                90,
            )
        report = traffic.stop()
    print(report, weights, found["message"])
    assert max(weights) == 10
    assert "requests failed" in found["message"]
    assert {each["status"] for each in report.failed} == {422}
    assert len(report.failed) < 0.1 * report.sent
    assert scene.condition("ladder", "Ready")["status"] == "True"
    assert _status(scene)["history"][0]["outcome"] == "RolledBack"
    assert "RolledBack" in {each["reason"] for each in scene.events("ladder")}


def test_operators_that_are_killed_all_the_time_change_nothing(
    scene: Scene, models: Registry, cluster: Cluster
) -> None:
    # Long enough for all of them to be killed on the way.
    slowly = [{"weight": 10, "hold": "60s"}, {"weight": 50, "hold": "60s"}]
    with scene.traffic("rolling", "ladder", rate=RATE) as traffic:
        third = models.linear("ladder", 3)
        # Any edit of spec.rollout has the bad version before it tried again, as long as that is the wanted one.
        until("it is wanted", lambda: _status(scene)["resolved"]["version"] == third, 60, every=0.3)
        scene.patch("modeldeployment", "ladder", {"spec": {"rollout": {"steps": slowly}}})
        with _watched(scene, third) as weights, killing(scene, cluster, times=20) as killed:
            until("the first step", lambda: _weight(scene, third) == 10, 180, every=0.3)
            if isinstance(cluster, NodeCluster):
                cluster.node.restart("kube-apiserver")
            until("the last is killed", lambda: len(killed) == 20, 240, every=0.3)
            assert _weight(scene, third) < 100, "it was over before the last was killed"
            scene.settled("ladder", version=third)
        report = traffic.stop()
    print(f"{len(killed)} operators killed; weights {weights}; {report}")
    assert report.failed == []
    assert weights == sorted(weights), "no weight goes back and forth"
    assert weights[-1] == 100
    scene.answers("rolling", "ladder", 3)


def test_without_requests_it_waits_and_says_so(scene: Scene, models: Registry) -> None:
    # Nothing is measured here, so nothing need last.
    scene.patch("modeldeployment", "ladder", {"spec": {"rollout": {"steps": [{"weight": 10, "hold": "2s"}]}}})
    fourth = models.linear("ladder", 4)
    found = scene.wait("ladder", "Progressing", reason="Inconclusive", seconds=120)
    assert "of at least 20 requests" in found["message"]
    assert _weight(scene, fourth) == 10
    with scene.traffic("rolling", "ladder", rate=RATE) as traffic:
        scene.settled("ladder", version=fourth)
        report = traffic.stop()
    assert report.failed == []


def test_versions_beside_the_models_own_answer_their_share_and_are_compared(scene: Scene) -> None:
    """Each version multiplies by another number, so a mirror never agrees."""
    (own,) = (each["name"] for each in _status(scene)["versions"])
    named = [
        {"name": "b", "uri": "models:/ladder/1", "weight": 30},
        {"name": "shadow", "uri": "models:/ladder/2", "mirror": 100},
    ]
    scene.patch("modeldeployment", "ladder", {"spec": {"rollout": None, "traffic": {"versions": named}}})
    with scene.traffic("rolling", "ladder", rate=RATE) as traffic:
        until("b has its share", lambda: _weight(scene, "1") == 30, 180, every=0.3)
        scene.wait("ladder", "Progressing", "False", reason="Settled")
        first = traffic.caught_up().versions
        enough = sum(first.values()) + MEASURED
        until("enough is answered", lambda: sum(traffic.report().versions.values()) >= enough, 60, every=0.3)
        report = traffic.stop()
    answered = {name: count - first.get(name, 0) for name, count in report.versions.items()}
    print(f"{answered}; {report}; {_mirrored(scene)}")
    assert report.failed == []
    assert answered.keys() - {name for name, count in answered.items() if not count} == {own, "1"}
    assert binomtest(answered["1"], sum(answered.values()), 0.3).pvalue > 1e-4
    rows, differing = _mirrored(scene)
    assert rows == differing > MEASURED
    told = {
        each["traffic"]: (each["name"], each.get("weight", 0))
        for each in _status(scene)["versions"]
        if each.get("traffic")
    }
    assert told == {"b": ("1", 30), "shadow": ("2", 0)}
    scene.patch("modeldeployment", "ladder", {"spec": {"traffic": None}})
    scene.settled("ladder", version=own)


def _mirrored(scene: Scene) -> tuple[float, float]:
    """Rows that were compared, and rows of them that differ, over all routers."""
    status, text = scene.ask("rolling", "/metrics")
    assert status == 200
    lines = [line.split(" ") for line in text.splitlines() if line.startswith("rayfleet_mirror_")]
    return tuple(  # type: ignore[return-value]
        sum(float(value) for name, value in lines if name.startswith(f"rayfleet_mirror_{kind}_total{{"))
        for kind in ("rows", "differing_rows")
    )
