"""What the files say that only Kubernetes takes up is told, and told once."""

from __future__ import annotations

from pathlib import Path

import pytest
from rayfleet_up import RayfleetUp

from rayfleet_operator.local.sources import Sources, without_effect

FLEET = "apiVersion: rayfleet.io/v1alpha1\nkind: ModelFleet\nmetadata: {name: vision}\n"
MODEL = """\
apiVersion: rayfleet.io/v1alpha1
kind: ModelDeployment
metadata: {name: digits}
spec: {model: {uri: models:/digits/1, registry: {%s}}}
"""


def told(folder: Path, text: str) -> list[str]:
    (folder / "a.yaml").write_text(text)
    wanted = Sources([str(folder)], None).wanted
    assert wanted.problems == ()
    return without_effect(wanted)


@pytest.mark.parametrize("spec", ["", "spec: {}", "spec: {routers: {replicas: 3, cpu: 2}}", "spec: {head: }"])
def test_a_fleet_that_says_no_more_than_its_routers_is_taken_without_a_word(tmp_path: Path, spec: str) -> None:
    assert told(tmp_path, FLEET + spec) == []


def test_other_fields_of_a_fleet_are_named(tmp_path: Path) -> None:
    spec = "spec: {routers: {replicas: 3}, workerGroups: [{name: gpu, gpu: 1}], image: a, progressDeadline: 15m}"
    assert told(tmp_path, FLEET + spec) == [
        "ModelFleet/vision: spec.image, spec.workerGroups, spec.progressDeadline have no effect here, only on "
        "Kubernetes: this machine is the fleet"
    ]


def test_a_registrys_secret_and_certificates_are_named(tmp_path: Path) -> None:
    assert told(tmp_path, MODEL % "pollInterval: 10s") == []
    (line,) = told(tmp_path, MODEL % "secretName: mlflow, caConfigMapName: ca")
    assert line.startswith(
        "ModelDeployment/digits: spec.model.registry.secretName, spec.model.registry.caConfigMapName have no effect"
    )
    (line,) = told(tmp_path, MODEL % "secretName: mlflow")
    assert line.startswith("ModelDeployment/digits: spec.model.registry.secretName has no effect here")


def test_up_says_it_once_for_each_edit(up: RayfleetUp, served: Path) -> None:
    fleet = served / "fleet.yaml"
    before = up.output
    try:
        fleet.write_text(FLEET + "spec: {image: a}")
        up.wait("the image is said to have no effect", lambda: "ModelFleet/vision: spec.image has" in up.output)
        fleet.write_text(FLEET + "spec: {image: b, env: [{name: A}]}")
        up.wait("so is the environment", lambda: "ModelFleet/vision: spec.image, spec.env have" in up.output)
    finally:
        fleet.unlink()
    up.wait("the edit is seen", lambda: up.output.count("were read again") >= before.count("were read again") + 3)
    said = [line for line in up.output[len(before) :].splitlines() if "no effect here" in line]
    assert len(said) == 2
