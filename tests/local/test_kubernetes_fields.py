"""What the files say that only Kubernetes takes up is told, and told once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from rayfleet_up import RayfleetUp

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.local.sources import Sources, of_any_kind, on_one_machine, without_effect
from rayfleet_operator.plan import serve_config
from rayfleet_serving.config import TrafficTable

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


@pytest.mark.parametrize(
    "spec", ["", "spec: {}", "spec: {routers: {replicas: 3, cpu: 2}}", "spec: {head: }", "spec: {gpuSharing: MPS}"]
)
def test_a_fleet_that_says_no_more_than_what_holds_here_is_taken_without_a_word(tmp_path: Path, spec: str) -> None:
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


def test_the_kind_of_a_gpu_is_named_and_asked_of_nobody(tmp_path: Path) -> None:
    """There is one machine, and its Ray knows nothing of kinds."""
    model = yaml.safe_load(MODEL % "pollInterval: 10s")
    model["spec"]["resources"] = {"gpu": "0.5", "accelerator": "L4"}
    (line,) = told(tmp_path, yaml.safe_dump(model))
    assert line == (
        "ModelDeployment/digits: spec.resources.accelerator has no effect here, only on Kubernetes: "
        "the GPUs are those of this machine, of whatever kind"
    )
    (read,) = Sources([str(tmp_path)], None).wanted.models
    assert read.spec.resources.accelerator == "L4"
    meant = of_any_kind(read)
    assert serve_config.actor_options(meant.spec.resources) == {"num_cpus": 1.0, "num_gpus": 0.5}
    del model["spec"]["resources"]["accelerator"]
    plain = ModelDeployment.model_validate(model)
    assert meant.spec.resources == plain.spec.resources, "and its replicas are the same as without"


def test_routers_look_for_no_other_machine(tmp_path: Path) -> None:
    spec = "spec: {routers: {replicas: 3}, workerGroups: [{name: a, spot: true}, {name: b}]}"
    (tmp_path / "a.yaml").write_text(FLEET + spec)
    fleet = on_one_machine(Sources([str(tmp_path)], None).wanted.fleet)
    assert fleet is not None
    router = serve_config.router_app(fleet.spec, TrafficTable())["deployments"][0]
    assert router["autoscaling_config"]["min_replicas"] == 3
    assert router["ray_actor_options"] == {"num_cpus": 1.0}


def test_the_way_of_sharing_gpus_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(FLEET + "spec: {gpuSharing: MPS}")
    fleet = on_one_machine(Sources([str(tmp_path)], None).wanted.fleet)
    assert fleet is not None
    assert fleet.spec.gpu_sharing == "MPS"


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
