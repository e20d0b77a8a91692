"""Files good and bad, and what is said of them."""

from __future__ import annotations

from pathlib import Path

from rayfleet_operator.api import documents

HEAD = "apiVersion: rayfleet.io/v1alpha1\n"
MODEL = f"{HEAD}kind: ModelDeployment\nmetadata: {{name: %s}}\nspec: {{model: {{uri: models:/m/1}}}}\n"
FLEET = f"{HEAD}kind: ModelFleet\nmetadata: {{name: %s}}\n"

SCALE = MODEL.replace("%s", "a").replace("}}", "}, transform: {input: {image: {resize: [1, 1], scale: %s}}}}")


def load(folder: Path, text: str | bytes, name: str = "a.yaml") -> documents.Loaded:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return documents.load([file])


def lines(loaded: documents.Loaded, folder: Path) -> list[str]:
    return [str(problem).removeprefix(f"{folder}/") for problem in loaded.problems]


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
