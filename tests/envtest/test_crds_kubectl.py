"""What people see of our kinds through kubectl."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cluster.control_plane import ControlPlane
from cluster.kubectl import KubectlError
from envtest.objects import Json, Objects

from rayfleet_operator.api import documents
from rayfleet_operator.api.types import API_VERSION

NAMESPACE = "crds-kubectl"


def obj(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def conditions(**reasons: tuple[str, str]) -> list[Json]:
    since = "2026-01-01T00:00:00Z"
    return [
        {"type": kind, "status": status, "reason": reason, "lastTransitionTime": since}
        for kind, (status, reason) in reasons.items()
    ]


MODEL = {"uri": "models:/ResNet50@champion"}
RESNET = obj("ModelDeployment", "resnet", {"fleet": "vision", "model": MODEL, "replicas": 2})
BERT = obj("ModelDeployment", "bert", {"model": {"uri": "models:/bert/3"}})
VISION = obj("ModelFleet", "vision", {})
STATUS = {
    "ModelDeployment": {
        "conditions": conditions(
            Ready=("True", "Serving"), Progressing=("True", "ShiftingTraffic"), Degraded=("False", "AsExpected")
        ),
        "url": "http://vision.crds-kubectl.svc:8000/resnet",
        "replicas": 3,
        "versions": [{"name": "8", "app": "resnet-b", "weight": 90}, {"name": "7", "app": "resnet-a", "weight": 10}],
    },
    "ModelFleet": {
        "conditions": conditions(
            Ready=("True", "Serving"), Progressing=("False", "Settled"), Degraded=("True", "Unschedulable")
        ),
        "url": "http://vision.crds-kubectl.svc:8000",
        "cluster": "vision-x7k2p",
        "models": 1,
    },
}


class Shell:
    """kubectl in the namespace of these tests."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._kubectl = control_plane.kubectl

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        return self._kubectl("--namespace", NAMESPACE, *arguments, stdin=stdin)

    def table(self, *arguments: str) -> list[list[str]]:
        """The lines of a `kubectl get`, cut where columns begin, without the age."""
        head, *lines = self("get", *arguments).splitlines()
        columns = [(found.group(), *found.span()) for found in re.finditer(r"\S+ *", head)]
        kept = [(begin, None if end == len(head) else end) for name, begin, end in columns if name.strip() != "AGE"]
        return [[line[begin:end].strip() for begin, end in kept] for line in (head, *lines)]


@pytest.fixture(scope="module")
def kubectl(control_plane: ControlPlane) -> Shell:
    with control_plane.client() as client:
        objects = Objects(client, NAMESPACE)
        for each in (RESNET, BERT, VISION):
            assert objects.create(each).accepted
        for each in (RESNET, VISION):
            assert objects.merge({**each, "status": STATUS[each["kind"]]}, part="status").accepted
    return Shell(control_plane)


def test_get_shows_whether_it_answers_and_what_is_under_way(kubectl: Shell) -> None:
    assert kubectl.table("md") == [
        ["NAME", "READY", "PROGRESS", "MODEL", "VERSION", "REPLICAS"],
        ["bert", "", "", "models:/bert/3", "", ""],
        ["resnet", "True", "ShiftingTraffic", "models:/ResNet50@champion", "8", "3"],
    ]
    assert kubectl.table("mf") == [
        ["NAME", "READY", "PROGRESS", "MODELS"],
        ["vision", "True", "Settled", "1"],
    ]


def test_wide_output_adds_reasons_fleet_and_addresses(kubectl: Shell) -> None:
    assert kubectl.table("md", "resnet", "-o", "wide") == [
        ["NAME", "READY", "PROGRESS", "MODEL", "VERSION", "REPLICAS", "REASON", "DEGRADED", "FLEET", "URL"],
        ["resnet", "True", "ShiftingTraffic", "models:/ResNet50@champion", "8", "3", "Serving", "AsExpected", "vision",
         "http://vision.crds-kubectl.svc:8000/resnet"],
    ]  # fmt: skip
    assert kubectl.table("mf", "-o", "wide") == [
        ["NAME", "READY", "PROGRESS", "MODELS", "REASON", "DEGRADED", "CLUSTER", "URL"],
        ["vision", "True", "Settled", "1", "Serving", "Unschedulable", "vision-x7k2p",
         "http://vision.crds-kubectl.svc:8000"],
    ]  # fmt: skip


def test_both_kinds_at_once_by_their_short_names(kubectl: Shell) -> None:
    names = kubectl("get", "md,mf", "-o", "name").split()
    assert names == [
        "modeldeployment.rayfleet.io/bert",
        "modeldeployment.rayfleet.io/resnet",
        "modelfleet.rayfleet.io/vision",
    ]
    offered = kubectl("api-resources", "--api-group=rayfleet.io", "--no-headers")
    short_names = dict(line.split()[:2] for line in offered.splitlines())
    assert short_names == {"modeldeployments": "md", "modelfleets": "mf"}


@pytest.mark.parametrize(
    ("selector", "names"),
    [("spec.fleet=vision", ["resnet"]), ("spec.fleet!=vision", ["bert"]), ("spec.fleet=", ["bert"])],
)
def test_models_are_found_by_their_fleet(kubectl: Shell, selector: str, names: list[str]) -> None:
    found = kubectl("get", "md", "--field-selector", selector, "-o", "name").split()
    assert found == [f"modeldeployment.rayfleet.io/{name}" for name in names]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("md.spec.model.uri", "Which model, and which version of it."),
        ("md.spec.model.registry.secretName", "On Kubernetes: a Secret in the same namespace"),
        ("md.spec.resources.memory", "Value: a size from 1M to 9.99Ti, like 512Mi or 4Gi"),
        ("mf.spec.workerGroups.template.spec.containers.image", "Its image."),
        ("mf.spec.head.gcsFaultTolerance", "Left out: when the head is lost, the fleet starts anew."),
        ("mf.status.upgradeCluster", "The RayCluster that is to take over; empty when none is."),
    ],
)
def test_explain_tells_what_a_field_is_for(kubectl: Shell, path: str, told: str) -> None:
    assert told in " ".join(kubectl("explain", path).split())


def test_scale_changes_the_replicas_of_a_model(kubectl: Shell) -> None:
    said = kubectl("get", "md", "bert", "--subresource=scale", "-o", "jsonpath={.spec.replicas}")
    assert said == "1", "a HorizontalPodAutoscaler reads it, where the file does not say it, too"
    kubectl("scale", "md/bert", "--replicas=3")
    assert kubectl("get", "md", "bert", "-o", "jsonpath={.spec.replicas}") == "3"
    with pytest.raises(KubectlError, match=r"spec\.replicas.*greater than or equal to 1"):
        kubectl("scale", "md/bert", "--replicas=0")
    kubectl("scale", "md/bert", "--replicas=1")
    scale = kubectl("get", "md", "resnet", "--subresource=scale", "-o", "jsonpath={.spec.replicas} {.status.replicas}")
    assert scale == "2 3"


def test_scale_is_refused_where_the_load_decides(kubectl: Shell) -> None:
    def autoscaling(value: str) -> None:
        kubectl("patch", "md", "bert", "--type=merge", "-p", f'{{"spec": {{"autoscaling": {value}}}}}')

    autoscaling('{"maxReplicas": 4}')
    with pytest.raises(KubectlError, match="replicas has no effect beside autoscaling"):
        kubectl("scale", "md/bert", "--replicas=3")
    autoscaling("null")


WRONG = """
apiVersion: rayfleet.io/v1alpha1
kind: ModelDeployment
metadata: {name: wrong}
spec:
  model: {uri: s3://models/resnet, registry: {secretName: mlflow}}
  resources: {gpuMemory: 6Gi}
"""


def test_mistakes_are_told_with_their_fields(kubectl: Shell) -> None:
    with pytest.raises(KubectlError) as refused:
        kubectl("apply", "-f", "-", stdin=WRONG)
    told = str(refused.value)
    assert "* spec.model.registry: Invalid value: registry has no effect on a URI that is a path;" in told
    assert "* spec.resources.gpuMemory: Invalid value: gpuMemory has no effect without gpu;" in told
    with pytest.raises(KubectlError, match=r'unknown field "spec\.batching\.maxBatchsize"'):
        kubectl("apply", "-f", "-", stdin=WRONG.replace("resources: {gpuMemory: 6Gi}", "batching: {maxBatchsize: 8}"))


@pytest.mark.parametrize("number", ["2.0", "2e0", "0x2", "02", "0b10"])
def test_numbers_are_those_that_validate_reads(kubectl: Shell, number: str, tmp_path: Path) -> None:
    text = f"""
apiVersion: rayfleet.io/v1alpha1
kind: ModelDeployment
metadata: {{name: numbers}}
spec: {{model: {{uri: models:/m/1}}, replicas: {number}, resources: {{cpu: {number}}}}}
"""
    output = "jsonpath={.spec.replicas} {.spec.resources.cpu}"
    assert kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", "-o", output, stdin=text) == "2 2"
    file = tmp_path / "numbers.yaml"
    file.write_text(text)
    (model,) = documents.load([file]).models
    assert (model.spec.replicas, model.spec.resources.cpu) == (2, "2")
