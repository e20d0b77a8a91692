"""What files become: objects, every problem with its line, and notes about what is not ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayfleet_operator.api import documents, yamltree

from .cases import CASES

HEAD = "apiVersion: rayfleet.io/v1alpha1\n"
MODEL = f"{HEAD}kind: ModelDeployment\nmetadata: {{name: %s}}\nspec: {{model: {{uri: models:/m/1}}}}\n"
FLEET = f"{HEAD}kind: ModelFleet\nmetadata: {{name: %s}}\n"

SCALE = MODEL.replace("%s", "a").replace("}}", "}, transform: {input: {image: {resize: [1, 1], scale: %s}}}}")

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


def load(folder: Path, text: str | bytes, name: str = "a.yaml") -> documents.Loaded:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return documents.load([file])


def lines(loaded: documents.Loaded, folder: Path) -> list[str]:
    return [str(problem).removeprefix(f"{folder}/") for problem in loaded.problems]


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
        "a.yaml:23: ModelDeployment/resnet spec.autoscale: unknown field; the fields here are fleet, model, replicas,"
        " resources, batching, limits, transform",
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


# Text of one file, and where and what is wrong: "line object field: message", in order.
MISTAKES: dict[str, tuple[str | bytes, list[str]]] = {
    "not YAML": ("a: [\n", ["2: not YAML: while parsing a flow node, expected the node content"]),
    "a tab": ("a:\n\tb: 1\n", ["2: not YAML: while scanning for the next token"]),
    "not UTF-8": (b"a: 1\nb: \xff\n", ["2: not UTF-8 text"]),
    "a control character": ("a: 1\nb: \x00\n", ["2: not YAML: character"]),
    "an escape beyond Unicode": ('a: "\\UFFFFFFFF"\n', ["1: not YAML"]),
    "half a surrogate pair": (HEAD + 'kind: ModelFleet\nmetadata: {name: a, x: "\\ud800"}\n', [
        "3: ModelFleet/a metadata.x: half of a surrogate pair"]),
    "a list": ("- a\n", ["1: not a Kubernetes object"]),
    "a word": ("model\n", ["1: not a Kubernetes object"]),
    "no kind and no apiVersion": ("spec: {}\n", ["1: not a Kubernetes object"]),
    "no kind": (HEAD, ["1: kind: missing; write ModelDeployment or ModelFleet"]),
    "no apiVersion": ("kind: ModelFleet\nmetadata: {name: a}\n", [
        "1: ModelFleet/a apiVersion: missing; write rayfleet.io/v1alpha1"]),
    "an unknown version": ("apiVersion: rayfleet.io/v2\nkind: ModelFleet\nmetadata: {name: a}\n", [
        "1: ModelFleet/a apiVersion: 'rayfleet.io/v2' is not known; write rayfleet.io/v1alpha1"]),
    "a misspelt group": ("apiVersion: rayflet.io/v1alpha1\nkind: ModelFleet\nmetadata: {name: a}\n", [
        "1: ModelFleet/a apiVersion: 'rayflet.io/v1alpha1' is not known"]),
    "a kind that is no text": (HEAD + "kind: [a]\n", ["2: kind: ['a'] is not known"]),
    "no metadata": (HEAD + "kind: ModelFleet\n", ["1: ModelFleet metadata: missing; this field is required"]),
    "no name": (HEAD + "kind: ModelFleet\nmetadata: {labels: {a: b}}\n", [
        "3: ModelFleet metadata.name: missing; this field is required"]),
    "no spec": (HEAD + "kind: ModelDeployment\nmetadata: {name: a}\n", [
        "1: ModelDeployment/a spec: missing; this field is required"]),
    "an empty URI": ((MODEL % "a").replace("models:/m/1", ""), [
        "4: ModelDeployment/a spec.model.uri: missing; this field is required"]),
    "a key twice": (MODEL % "a" + "kind: ModelDeployment\n", [
        "5: ModelDeployment/a kind: also given in line 2; keep one of them"]),
    "a key that is a number": (FLEET % "a" + "1: b\n", ["4: ModelFleet/a: 1 is not a text key; put the key in quotes"]),
    "a tag": (FLEET % "a" + "spec: !!python/object:os.system {}\n", ["4: ModelFleet/a spec: YAML tag"]),
    "a binary value": (FLEET % "a" + "spec: !!binary aGk=\n", ["4: ModelFleet/a spec: YAML tag"]),
    "a number without end": (FLEET % "a" + "spec: {routers: {replicas: %s}}\n" % ("9" * 5000), [
        "4: ModelFleet/a spec.routers.replicas: no valid int"]),
    "not a number": (
        (MODEL % "a").replace("}}", "}, transform: {input: {image: {resize: [1, 1], scale: .nan}}}}"),
        ["4: ModelDeployment/a spec.transform.input.image.scale: nan is not a finite number"]),
    "a time in place of a number": ((MODEL % "a").replace("}}", "}, replicas: 1:30}"), [
        "4: ModelDeployment/a spec.replicas: '1:30' is not a whole number; write a whole number"]),
    "a number in quotes": (SCALE % "'1e-3'", [
        "4: ModelDeployment/a spec.transform.input.image.scale: '1e-3' is not a number; write it without quotes"]),
    "a word in place of a number": (SCALE % "small", [
        "4: ModelDeployment/a spec.transform.input.image.scale: 'small' is not a number; write a number"]),
    "a word in place of true": ((MODEL % "a").replace("/1", "/1, allowCodeExecution: sure"), [
        "4: ModelDeployment/a spec.model.allowCodeExecution: 'sure' is not true or false; write true or false"]),
    "a name twice": (MODEL % "a" + "---\n" + MODEL % "a", [
        "3: ModelDeployment/a metadata.name: the name of another ModelDeployment in ",
        "8: ModelDeployment/a metadata.name: the name of another ModelDeployment in "]),
    "a fleet that is not there": (
        FLEET % "vision" + "---\n" + (MODEL % "a").replace("spec: {", "spec: {fleet: vison, "),
        ["8: ModelDeployment/a spec.fleet: there is no ModelFleet 'vison'; write vision"]),
    "a fleet of another namespace": (
        (FLEET % "vision").replace("}", ", namespace: x}") + "---\n"
        + (MODEL % "a").replace("spec: {", "spec: {fleet: vision, "),
        ["8: ModelDeployment/a spec.fleet: there is no ModelFleet 'vision'; add one to namespace default"]),
    "a second document after a bad one": ("a: 1\n---\n" + FLEET % "A", [
        "1: not a Kubernetes object", "5: ModelFleet/A metadata.name: 'A' is not a name"]),
    "a good document before broken YAML": (FLEET % "a" + "---\n}\n", ["5: not YAML"]),
    "an item of a List": (
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: rayfleet.io/v1alpha1\n  kind: ModelFleet\n"
        "  metadata: {name: a}\n  spec: {router: {}}\n",
        ["7: ModelFleet/a spec.router: unknown field; did you mean routers?"]),
    "the items of a List twice": (
        "apiVersion: v1\nkind: List\nitems: []\nitems:\n- {apiVersion: v1, kind: Secret}\n",
        ["4: items: also given in line 3; keep one of them"]),
    "aliases that are only many in several documents together": (
        "".join(f"a: &a [{'0,' * 400}]\nb: &b [{'*a,' * 100}]\nc: [*b]\n---\n" for _ in range(6)),
        ["1: not a Kubernetes object", "5: not a Kubernetes object",
         "9: more than 200000 values once aliases are expanded"]),
    "a key twice in the second item of a List": (
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret}\n- apiVersion: rayfleet.io/v1alpha1\n"
        "  kind: ModelFleet\n  kind: ModelFleet\n  metadata: {name: a}\n",
        ["7: ModelFleet/a kind: also given in line 6; keep one of them"]),
    "an alias inside its anchor": ("a: &a [*a]\n", ["1: an alias stands inside its own anchor"]),
    "a billion laughs": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        ["1: more than 200000 values once aliases are expanded"]),
    "deep nesting": ("a: " + "[" * 100 + "]" * 100, ["1: nested more than 64 deep"]),
    "very deep nesting": ("[" * 3000, ["1: nested too deeply"]),
    "more than 1 MiB": ("#" * (1 << 20) + "\n", [" larger than 1 MiB"]),
    "a namespace with a control character": (
        (FLEET % "a").replace("}", ', namespace: "a\\tb"}'), [
            "3: ModelFleet/a metadata.namespace: 'a\\tb' is not a namespace of lower-case letters"]),
    "a namespace that is too long": ((FLEET % "a").replace("}", f", namespace: {'n' * 64}}}"), [
        "3: ModelFleet/a metadata.namespace: 64 characters are too many; at most 63"]),
    "control characters in names": (
        FLEET % '"a\\nb\\e[31m"',
        ["3: ModelFleet/'a\\nb\\x1b[31m' metadata.name: 'a\\nb\\x1b[31m' is not a name"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_line(name: str, tmp_path: Path) -> None:
    text, expected = MISTAKES[name]
    found = [line.removeprefix("a.yaml:") for line in lines(load(tmp_path, text), tmp_path)]
    assert len(found) == len(expected), found
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning), line


# Files without a mistake, and the names of the objects in them.
FINE = {
    "nothing": ("", []),
    "comments and empty documents": ("# nothing yet\n---\n---\n", []),
    "two documents": (MODEL % "a" + "---\n" + FLEET % "b", ["a", "b"]),
    "one name for two kinds": (MODEL % "a" + "---\n" + FLEET % "a", ["a", "a"]),
    "one name in two namespaces": (FLEET % "a" + "---\n" + (FLEET % "a").replace("}", ", namespace: x}"), ["a", "a"]),
    "a namespace as long as it may be": ((FLEET % "a").replace("}", f", namespace: {'n' * 63}}}"), ["a"]),
    "a fleet from elsewhere": ((MODEL % "a").replace("spec: {", "spec: {fleet: vision, "), ["a"]),
    "a fleet from here": (
        (MODEL % "a").replace("spec: {", "spec: {fleet: vision, ") + "---\n" + FLEET % "vision", ["a", "vision"]),
    "empty fields": (
        HEAD + "kind: ModelDeployment\nmetadata: {name: a, labels: }\nspec:\n  model: {uri: models:/m/1, registry: }\n"
        "  resources: {gpu: null, cpu: ~}\n  batching:\n", ["a"]),
    "other metadata": ((MODEL % "a").replace("}\n", ", labels: {app: x}, annotations: {a: b}}\n", 1), ["a"]),
    "a status": (FLEET % "a" + "status: {observedGeneration: not yet, anything: 1}\n", ["a"]),
    "an alias": (
        HEAD + "kind: ModelFleet\nmetadata: {name: &name a, labels: {app: *name}}\n", ["a"]),
    "a byte order mark": ("\ufeff" + FLEET % "a", ["a"]),
    "a List": (
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: rayfleet.io/v1alpha1\n  kind: ModelFleet\n"
        "  metadata: {name: a}\n- {apiVersion: v1, kind: Secret}\n", ["a"]),
    "whole numbers as quantities": ((MODEL % "a").replace("}}", "}, resources: {cpu: 2, gpu: 1}}"), ["a"]),
}  # fmt: skip


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
    [("1e-3", 0.001), ("1E+1", 10.0), ("5e-1", 0.5), (".5", 0.5), ("+1.", 1.0), ("0x1f", 31), ("0o17", 15),
     ("017", 15), ("1_000", 1000), ("0b11", 3), ("0", 0), ("089", 89.0), ("-0.5e2", -50.0)],
)  # fmt: skip
def test_numbers_are_those_of_kubectl(text: str, value: float) -> None:
    (tree,) = yamltree.read(text)
    assert (tree.value, type(tree.value)) == (value, type(value))


@pytest.mark.parametrize("text", ["1:30", "1:30.5", "-190:20:30", "1e", "e3", "1.2.3", "0x", "_1", "1-2", "+", "."])
def test_what_is_no_number_to_kubectl_is_text(text: str) -> None:
    (tree,) = yamltree.read(text)
    assert tree.value == text


def test_objects_of_others_are_skipped_with_a_note(tmp_path: Path) -> None:
    loaded = load(tmp_path, "apiVersion: v1\nkind: Secret\n---\n" + FLEET % "a")
    assert (loaded.problems, len(loaded.fleets)) == ((), 1)
    assert [str(note) for note in loaded.notes] == [f"{tmp_path}/a.yaml:1: skipped: 'Secret' is not of rayfleet.io"]


def test_folders_are_read_at_any_depth_in_order(tmp_path: Path) -> None:
    for name in ("b/z.yaml", "b/a.yml", "a.yaml", "b/c/d.yaml", ".git/hidden.yaml", "b/.hidden.yaml", "b/readme.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(FLEET % name.replace("/", "-").replace(".", "-").strip("-"))
    (tmp_path / "b/conda.yaml").write_text("name: env\ndependencies: []\n")
    os.symlink(tmp_path / "b", tmp_path / "b/c/loop")
    os.symlink(tmp_path / "a.yaml", tmp_path / "b/link.yaml")

    loaded = documents.load([tmp_path, tmp_path / "a.yaml"])
    assert loaded.problems == ()
    assert [fleet.metadata.name for fleet in loaded.fleets] == ["a-yaml", "b-a-yml", "b-c-d-yaml", "b-z-yaml"]
    assert [str(note) for note in loaded.notes] == [
        f"{tmp_path}/b/conda.yaml:1: skipped: not a Kubernetes object; it has no apiVersion: rayfleet.io/v1alpha1"
    ]


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    loaded = documents.load([tmp_path / "nowhere", tmp_path / "pipe"])
    assert lines(loaded, tmp_path) == [
        "nowhere: no such file; name YAML files or folders",
        "pipe: not a regular file; name YAML files or folders",
    ]


# Root, who may run this, can enter every folder; so the child becomes nobody, once a first load imported everything.
AS_NOBODY = """
import os
from rayfleet_operator.api import documents
from rayfleet_operator.local.sources import signature

documents.load(["good.yaml"])
if os.getuid() == 0:
    os.setuid(65534)
loaded = documents.load([".", "theirs/b.yaml", "theirs"])
print(*loaded.problems, *[fleet.metadata.name for fleet in loaded.fleets], sep="\\n")
print("seen" if any(file == "link.yaml" for file, *_ in signature([".", "theirs/b.yaml"])) else "not seen")
"""


def test_a_folder_that_may_not_be_entered_takes_nothing_else_away(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(FLEET % "good")
    (tmp_path / "theirs").mkdir()
    os.symlink("theirs/a.yaml", tmp_path / "link.yaml")
    os.symlink("nowhere", tmp_path / "dangling.yaml")
    (tmp_path / "theirs").chmod(0)
    tmp_path.chmod(0o755)
    ended = subprocess.run([sys.executable, "-c", AS_NOBODY], cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout.splitlines() == [
        "link.yaml: cannot be read: Permission denied",
        "theirs: this folder cannot be read: Permission denied",
        "theirs/b.yaml: cannot be read: Permission denied",
        "good",
        "seen",
    ], ended.stderr


def test_one_name_in_several_files_is_a_mistake_of_each(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml", "c.yaml"):
        (tmp_path / name).write_text(FLEET % "one")
    loaded = documents.load([tmp_path])
    assert loaded.fleets == ()
    assert lines(loaded, tmp_path) == [
        f"{file}.yaml:3: ModelFleet/one metadata.name: the name of another ModelFleet in {tmp_path}/{other}.yaml:1;"
        " give each its own name"
        for file, other in (("a", "b"), ("b", "a"), ("c", "a"))
    ]


def work(folder: Path, text: str) -> int:
    """Lines of Python that run in this package to load the text: unlike the time, the same on every machine."""
    package = str(Path(documents.__file__).parent)
    count = 0

    def inside(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        count += event == "line"
        return inside

    def called(frame: FrameType, event: str, arg: object) -> Any:
        return inside if frame.f_code.co_filename.startswith(package) else None

    before = sys.gettrace()
    sys.settrace(called)
    try:
        load(folder, text)
    finally:
        sys.settrace(before)
    return count


def test_a_list_four_times_as_long_is_four_times_the_work(tmp_path: Path) -> None:
    item = "- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b, c: d, e: f, g: h}}\n"
    some, more = (work(tmp_path, f"apiVersion: v1\nkind: List\nitems:\n{item * count}") for count in (50, 200))
    assert more < 5 * some


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(["1", "5ms", "4Gi", "models:/m/1"])
)
FIELDS = st.sampled_from(
    sorted(
        {step for case in CASES for step in (case.refused_at or "").split(".") if step.isalnum()}
        | {"name", "namespace", "kind", "items", "1", "a.b", "", "ü"}
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(FIELDS, inner, max_size=5)),
    max_leaves=30,
)
OBJECTS = st.fixed_dictionaries(
    {
        "apiVersion": st.one_of(st.just("rayfleet.io/v1alpha1"), VALUES),
        "kind": st.one_of(st.sampled_from(["ModelDeployment", "ModelFleet"]), VALUES),
    },
    optional={"metadata": VALUES, "spec": VALUES, "status": VALUES},
)
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)


@FUZZ
@given(st.one_of(VALUES, OBJECTS))
def test_any_value_is_loaded_or_told(tmp_path: Path, value: Any) -> None:
    loaded = load(tmp_path, yaml.safe_dump(value, allow_unicode=True).encode(errors="replace"))
    assert all(str(problem).isprintable() for problem in loaded.problems)
    if isinstance(value, dict) and value.get("apiVersion") == "rayfleet.io/v1alpha1":
        assert loaded.problems or loaded.models or loaded.fleets


MARKS = st.text(alphabet="ab:-&*[]{}!|>\"'#%@`\n\t \\?,\ud7ff\u2028", max_size=80).map(str.encode)


@FUZZ
@given(st.one_of(st.binary(), MARKS))
def test_any_bytes_are_loaded_or_told(tmp_path: Path, data: bytes) -> None:
    loaded = load(tmp_path, data)
    assert all(str(problem).isprintable() for problem in loaded.problems)
