"""From nothing to a prediction, and back to nothing."""

from __future__ import annotations

import time

import pytest
from cluster.deadline import until

from e2e.registry import Registry
from e2e.scene import Scene


@pytest.fixture(scope="module", autouse=True)
def version(scene: Scene, models: Registry) -> str:
    """The version that is served: a registry outlives a run of the tests."""
    version = models.linear("seven", 7)
    scene.apply(scene.model("seven", "models:/seven@champion"))
    scene.settled("seven", version=version)
    return version


def test_a_model_that_is_ready_answers_through_its_service(scene: Scene, version: str) -> None:
    with scene.traffic("seven", "seven", rate=10) as traffic:
        report = traffic.stop()
    assert report.failed == []
    assert report.versions == {version: report.sent}
    assert report.answers == {'{"predictions":[7.0]}': report.sent}


def test_kubectl_get_shows_what_matters(scene: Scene, version: str) -> None:
    shown = scene.kubectl("get", "md", "-n", scene.namespace, "-o", "wide")
    header, row = shown.splitlines()
    assert header.split()[:6] == ["NAME", "READY", "PROGRESS", "MODEL", "VERSION", "REPLICAS"]
    assert row.split()[:5] == ["seven", "True", "Settled", "models:/seven@champion", version]
    assert scene.url("seven", "/seven") in row


def test_status_says_what_the_uri_meant(scene: Scene, version: str) -> None:
    status = scene.get("modeldeployment", "seven")["status"]
    (live,) = status["versions"]
    assert (live["name"], live["weight"], live["state"]) == (version, 100, "Ready")
    assert status["resolved"]["modelId"] == live["modelId"] != ""
    assert status["replicas"] == 1


def test_pods_run_with_a_read_only_root(scene: Scene) -> None:
    """That they are restricted in other ways the namespace sees to."""
    for pod in scene.list("pods", "rayfleet.io/fleet=seven"):
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_dashboard_asks_for_the_token(scene: Scene) -> None:
    (head,) = scene.list("pods", "rayfleet.io/fleet=seven,ray.io/node-type=head")
    script = (
        "import urllib.request, urllib.error\n"
        f"try: urllib.request.urlopen('http://{head['status']['podIP']}:8265/api/serve/applications/', timeout=10)\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    workers = scene.list("pods", "rayfleet.io/fleet=seven,ray.io/node-type=worker")
    name = workers[0]["metadata"]["name"]
    out = scene.kubectl("exec", "-n", scene.namespace, name, "-c", "ray-worker", "--", "python", "-c", script)
    assert out.strip() in ("401", "403")


def test_each_transition_is_told_once(scene: Scene) -> None:
    """An event says that it serves for each time that it began to; two copies of one are counted in a series."""
    told = [each for each in scene.events("seven") if each["regarding"]["kind"] == "ModelDeployment"]
    serving = [each for each in told if each["reason"] == "Serving"]
    lost = [each for each in told if each["type"] == "Warning"]
    assert 1 <= len(serving) <= 1 + len(lost), [(each["reason"], each["note"]) for each in told]


def test_deleting_the_model_leaves_nothing(scene: Scene) -> None:
    began = time.monotonic()
    scene.kubectl("delete", "modeldeployment", "seven", "-n", scene.namespace, "--timeout=60s")

    def left() -> list[str]:
        kinds = "rayservices,rayclusters,pods,services,secrets,networkpolicies,controllerrevisions,configmaps,jobs"
        items = scene.kubectl.json("get", kinds, "-n", scene.namespace)["items"]
        names = [f"{each['kind']}/{each['metadata']['name']}" for each in items]
        return [name for name in names if name != "ConfigMap/kube-root-ca.crt"]

    until("nothing is left", lambda: not left(), 180, every=1)
    print(f"nothing left {time.monotonic() - began:.0f} s after delete")
