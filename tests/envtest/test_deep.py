"""Objects that are nested as deep as the API server takes them: they are trouble for their own fleets alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster.control_plane import ControlPlane
from cluster.deadline import until

API = "/apis/rayfleet.io/v1alpha1/namespaces"
OPERATOR = "from rayfleet_operator.cli.main import main; main(['operator'])"
WITHIN_S = 90.0


class Scene:
    """One namespace, and what is asked of the API server without reading it level by level."""

    def __init__(self, client: httpx.Client, namespace: str) -> None:
        self._client, self.namespace = client, namespace

    def create(self, plural: str, body: str) -> None:
        headers = {"content-type": "application/json"}
        answer = self._client.post(f"{API}/{self.namespace}/{plural}", content=body, headers=headers)
        assert answer.status_code == 201, answer.text[:1000]

    def fleet(self, name: str, depth: int) -> None:
        deep = '{"a":' * depth + "1" + "}" * depth
        self.create(
            "modelfleets",
            f'{{"apiVersion":"rayfleet.io/v1alpha1","kind":"ModelFleet","metadata":{{"name":"{name}"}},'
            f'"spec":{{"head":{{"template":{{"spec":{{"x":{deep}}}}}}}}}}}',
        )

    def model(self, name: str, fleet: str | None = None) -> None:
        named = f'"fleet":"{fleet}",' if fleet else ""
        self.create(
            "modeldeployments",
            f'{{"apiVersion":"rayfleet.io/v1alpha1","kind":"ModelDeployment","metadata":{{"name":"{name}"}},'
            f'"spec":{{{named}"model":{{"uri":"models:/m/1"}}}}}}',
        )

    def degraded(self, name: str) -> tuple[str, str]:
        """Reason and message of the model; "" while nobody has looked at it."""
        answer = self._client.get(f"{API}/{self.namespace}/modeldeployments/{name}").json()
        found: list[dict[str, Any]] = answer.get("status", {}).get("conditions", [])
        return next(((each["reason"], each["message"]) for each in found if each["type"] == "Degraded"), ("", ""))

    def clear(self) -> None:
        """Nobody else must have to read them."""
        for plural in ("modelfleets", "modeldeployments"):
            self._client.delete(f"{API}/{self.namespace}/{plural}")


@pytest.fixture
def scene(control_plane: ControlPlane) -> Iterator[Scene]:
    namespace = f"deep-{os.urandom(4).hex()}"
    control_plane.kubectl("create", "namespace", namespace)
    with control_plane.client() as client:
        scene = Scene(client, namespace)
        try:
            yield scene
        finally:
            scene.clear()


@pytest.fixture
def operator(control_plane: ControlPlane, scene: Scene, tmp_path: Path) -> Iterator[Path]:
    """A whole operator of this namespace, started when it is full of such objects; gives its log."""
    scene.fleet("deep", 1_500)
    scene.fleet("deepest", 9_900)
    scene.model("bad", "deep")
    scene.model("worse", "deepest")
    scene.model("good")
    log = tmp_path / "log"
    variables = {
        "KUBECONFIG": str(control_plane.kubeconfig),
        "RAYFLEET_NAMESPACES": scene.namespace,
        "RAYFLEET_OPERATOR_NAMESPACE": scene.namespace,
        "RAYFLEET_LEADER_ELECTION": "false",
        "RAYFLEET_METRICS_PORT": "0",
        "RAYFLEET_HEALTH_PORT": "0",
        # What is heard of is heard by the watches.
        "RAYFLEET_RESYNC": "1h",
        "RAYFLEET_LOG_FORMAT": "text",
    }
    command = [sys.executable, "-c", OPERATOR]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **variables}) as it,
    ):
        try:
            yield log
        finally:
            it.kill()


def test_it_is_an_invalid_fleet_and_all_others_go_on(scene: Scene, operator: Path) -> None:
    for name in ("bad", "worse"):
        until(f"{name} is told", lambda name=name: scene.degraded(name)[0] == "InvalidFleet", WITHIN_S)
        assert "nested more than 64 levels deep" in scene.degraded(name)[1]
    until("the good model is looked at", lambda: scene.degraded("good")[0] != "", WITHIN_S)
    scene.model("late")
    scene.fleet("late", 5_000)
    until("what is made later is heard of", lambda: scene.degraded("late")[0] == "InvalidFleet", WITHIN_S)
    assert "RecursionError" not in operator.read_text()
