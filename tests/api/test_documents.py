"""What texts become: objects, and every problem with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayfleet_operator.api import yamltree

from .texts import FINE, MISTAKES, MODEL, lines, load

MANY_MISTAKES = """\
apiVersion: rayfleet.io/v1alpha1
kind: ModelDeployment
metadata: {name: resnet}
spec:
  model:
    uri: s3://models/resnet
    registry: {pollInterval: 0s}
  resources:
    gpu: 0.33
    gpuMemory: 6GB
  batching:
    maxBatchsize: 32
    maxWait: 2s
  limits:
    maxOngoingRequests: "100"
  transform:
    input:
      image:
        resize: [224, 224]
        mode: rgb
        mean: [0.5, 0.5, 0.5]
        std: [0.5, 0, 0.5]
  autoscale: {}
---
apiVersion: rayfleet.io/v1alpha1
kind: ModelDeploymnt
metadata: {name: other}
"""


def test_every_mistake_at_once_each_with_its_line(tmp_path: Path) -> None:
    loaded = load(tmp_path, MANY_MISTAKES)
    assert loaded.models == ()
    assert lines(loaded, tmp_path) == [
        "a.yaml:7: ModelDeployment/resnet spec.model.registry.pollInterval: '0s' is not a duration from 1s to 24h;"
        " write it like 30s",
        'a.yaml:9: ModelDeployment/resnet spec.resources.gpu: 0.33 is a bare fraction; write it in quotes, like "0.33"',
        "a.yaml:10: ModelDeployment/resnet spec.resources.gpuMemory: '6GB' is not a size from 1M to 9.99Ti;"
        " write it like 512Mi or 4Gi",
        "a.yaml:12: ModelDeployment/resnet spec.batching.maxBatchsize: unknown field; did you mean maxBatchSize?",
        "a.yaml:13: ModelDeployment/resnet spec.batching.maxWait: '2s' is not a duration from 0s to 1s;"
        " write it like 5ms",
        "a.yaml:15: ModelDeployment/resnet spec.limits.maxOngoingRequests: '100' is not a whole number;"
        " write it without quotes",
        "a.yaml:20: ModelDeployment/resnet spec.transform.input.image.mode: 'rgb' is not known; write 'RGB' or 'L'",
        "a.yaml:22: ModelDeployment/resnet spec.transform.input.image.std[1]: 0 is too small; more than 0.0",
        "a.yaml:23: ModelDeployment/resnet spec.autoscale: unknown field; did you mean autoscaling?",
        "a.yaml:26: ModelDeploymnt/other kind: 'ModelDeploymnt' is not known; did you mean ModelDeployment?",
    ]


def test_rules_on_several_fields_speak_beside_other_mistakes(tmp_path: Path) -> None:
    text = MODEL % "a" + "".join(
        [
            "---\n" + (MODEL % "b").replace("models:/m/1", "/models/a, registry: {}, allowCodeExecuton: true"),
            "---\n" + (MODEL % "c").replace("}}", "}, resources: {gpuMemory: 6Gi, cpu: one}}"),
        ]
    )
    assert [(problem.name, problem.field) for problem in load(tmp_path, text).problems] == [
        ("b", "spec.model.allowCodeExecuton"),
        ("b", "spec.model.registry"),
        ("c", "spec.resources.cpu"),
        ("c", "spec.resources.gpuMemory"),
    ]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_line(name: str, tmp_path: Path) -> None:
    text, expected = MISTAKES[name]
    found = [line.removeprefix("a.yaml:") for line in lines(load(tmp_path, text), tmp_path)]
    assert len(found) == len(expected), found
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning), line


@pytest.mark.parametrize("name", FINE)
def test_what_is_right_is_loaded(name: str, tmp_path: Path) -> None:
    text, names = FINE[name]
    loaded = load(tmp_path, text)
    assert loaded.problems == ()
    assert sorted(item.metadata.name for item in (*loaded.models, *loaded.fleets)) == names
    assert sorted(identity.name for identity in loaded.places) == names
    places = [*map(loaded.place, loaded.models), *map(loaded.place, loaded.fleets)]
    assert sorted(places) == sorted(loaded.places.values())


def test_whole_numbers_become_text(tmp_path: Path) -> None:
    (model,) = load(tmp_path, (MODEL % "a").replace("}}", "}, resources: {cpu: 2, memory: 1000000}}")).models
    assert (model.spec.resources.cpu, model.spec.resources.memory) == ("2", "1000000")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1E+1", 10), ("2.0", 2), ("-0.0", 0), ("5e-1", 0.5), (".5", 0.5), ("+1.", 1), ("0x1f", 31),
     ("0o17", 15), ("017", 15), ("1_000", 1000), ("0b11", 3), ("0", 0), ("089", 89), ("-0.5e2", -50), ("1e30", 1e30)],
)  # fmt: skip
def test_numbers_are_those_of_kubectl(text: str, value: float) -> None:
    (tree,) = yamltree.read(text)
    assert (tree.value, type(tree.value)) == (value, type(value))  # 2.0 becomes JSON's 2


@pytest.mark.parametrize("text", ["1:30", "1:30.5", "-190:20:30", "1e", "e3", "1.2.3", "0x", "_1", "1-2", "+", "."])
def test_what_is_no_number_to_kubectl_is_text(text: str) -> None:
    (tree,) = yamltree.read(text)
    assert tree.value == text
