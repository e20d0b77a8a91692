"""Whole operator processes on a real API server; only what a reconcile does is a stand-in."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.control_plane import ControlPlane
from operator_process import Operator

from rayfleet_operator import manager
from rayfleet_operator.kube.lease import ATTEMPT_S

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kustomize" / "operator.yaml"

Start = Callable[..., Operator]
CLUSTER: dict[str, Any] = {
    "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "ray-head"}]}}}
}


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    name = f"manager-{os.urandom(4).hex()}"
    control_plane.kubectl("create", "namespace", name)
    return name


@pytest.fixture
def start(control_plane: ControlPlane, namespace: str) -> Iterator[Start]:
    """Starts operators of the test's own namespace, with a Lease there."""
    operators = []

    def started(identity: str = "first", **environment: str) -> Operator:
        environment = {"RAYFLEET_NAMESPACES": namespace, "RAYFLEET_OPERATOR_NAMESPACE": namespace} | environment
        operators.append(Operator(control_plane.kubeconfig, identity, **environment))
        return operators[-1]

    yield started
    for each in operators:
        each.end()


class Objects:
    """Written as a user or KubeRay would."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._kubectl = control_plane.kubectl
        self.namespace = namespace

    def apply(self, api_version: str, kind: str, name: str, fleet: str | None = None, **fields: Any) -> None:
        labels = {"app.kubernetes.io/managed-by": "rayfleet", "rayfleet.io/fleet": fleet} if fleet else {}
        metadata = {"name": name, "namespace": self.namespace, "labels": labels}
        self._kubectl.apply(yaml.safe_dump({"apiVersion": api_version, "kind": kind, "metadata": metadata} | fields))

    def model(self, name: str, fleet: str | None = None) -> None:
        spec: dict[str, Any] = {"model": {"uri": "models:/m/1"}} | ({"fleet": fleet} if fleet else {})
        self.apply("rayfleet.io/v1alpha1", "ModelDeployment", name, spec=spec)

    def lease(self) -> dict[str, Any]:
        """Spec of the operators' Lease."""
        answer = self._kubectl("get", "lease", "rayfleet-operator", "-n", self.namespace, "-o", "jsonpath={.spec}")
        spec: dict[str, Any] = json.loads(answer)
        return spec

    def delete(self, what: str, name: str) -> None:
        self._kubectl("delete", what, name, "-n", self.namespace, "--wait=false")


@pytest.fixture
def objects(control_plane: ControlPlane, namespace: str) -> Objects:
    return Objects(control_plane, namespace)


def leader_and_standby(start: Start) -> tuple[Operator, Operator]:
    first = start("first")
    first.until_working()
    second = start("second")
    second.until("it stands by", lambda: "first holds the Lease" in second.log)
    return first, second


def renewed(lease: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(lease["renewTime"])


def end_of(lease: dict[str, Any]) -> datetime:
    """When it runs out if it is not renewed."""
    return renewed(lease) + timedelta(seconds=lease["leaseDurationSeconds"])


def after(operator: Operator, fleet: str, change: Callable[[], None], what: str) -> None:
    """The fleet is reconciled after the change."""
    before = operator.count("reconciled", fleet)
    change()
    operator.until(what, lambda: operator.count("reconciled", fleet) > before)


def test_models_are_reconciled_by_fleet(start: Start, objects: Objects) -> None:
    objects.model("there-before")
    operator = start()
    operator.until("what was there is reconciled", lambda: operator.count("reconciled", "there-before") >= 1)
    operator.until_working()

    after(operator, "alone", lambda: objects.model("alone"), "a model has a fleet of its own")
    after(operator, "vision", lambda: objects.model("resnet", "vision"), "a model names its fleet")
    after(operator, "vision", lambda: objects.model("resnet", "other"), "the fleet that it left")
    operator.until("the fleet that it went to", lambda: operator.count("reconciled", "other") >= 1)
    after(operator, "other", lambda: objects.delete("modeldeployment", "resnet"), "a model is gone")
    assert operator.get("health", "/healthz").text == "ok\n"


def test_whatever_was_made_for_a_fleet_wakes_it_and_nothing_else_does(start: Start, objects: Objects) -> None:
    operator = start()
    operator.until_working()
    port = {"ports": [{"port": 80}]}
    made: list[tuple[str, str, dict[str, Any]]] = [
        ("v1", "Service", {"spec": port}),
        ("v1", "Secret", {"stringData": {"a": "b"}}),
        ("networking.k8s.io/v1", "NetworkPolicy", {"spec": {"podSelector": {}}}),
        ("apps/v1", "ControllerRevision", {"data": {}, "revision": 1}),
        ("ray.io/v1", "RayService", {"spec": {"rayClusterConfig": CLUSTER}}),
        ("ray.io/v1", "RayCluster", {"spec": CLUSTER}),
    ]
    for api_version, kind, fields in made:
        fleet = kind.lower()

        def make(api_version: str = api_version, kind: str = kind, fields: dict[str, Any] = fields) -> None:
            objects.apply(api_version, kind, kind.lower(), kind.lower(), **fields)

        after(operator, fleet, make, f"{kind} was made")
        after(operator, fleet, lambda kind=kind: objects.delete(kind.lower(), kind.lower()), f"{kind} is gone")
    objects.apply("v1", "Secret", "foreign", stringData={"a": "b"})
    objects.model("last")
    operator.until("later events were heard", lambda: operator.count("reconciled", "last") >= 1)
    assert {each["fleet"] for each in operator.said if "fleet" in each} == {kind.lower() for _, kind, _ in made} | {
        "last"
    }


def test_a_change_of_nothing_but_a_time_wakes_nobody(
    start: Start, objects: Objects, control_plane: ControlPlane
) -> None:
    operator = start()
    operator.until_working()
    objects.apply("ray.io/v1", "RayService", "vision", "vision", spec={"rayClusterConfig": CLUSTER})
    operator.until("it was made", lambda: operator.count("reconciled", "vision") >= 1)

    def status(**fields: Any) -> None:
        patch = yaml.safe_dump({"status": fields})
        arguments = ("patch", "rayservice", "vision", "-n", objects.namespace, "--subresource=status", "--type=merge")
        control_plane.kubectl(*arguments, "-p", patch)

    after(operator, "vision", lambda: status(serviceStatus="Running"), "its state changed")
    before = operator.count("reconciled", "vision")
    for second in range(5):
        status(lastUpdateTime=f"2026-01-01T00:00:0{second}Z")
    objects.model("last")
    operator.until("later events were heard", lambda: operator.count("reconciled", "last") >= 1)
    assert operator.count("reconciled", "vision") == before
    after(operator, "vision", lambda: status(numServeEndpoints=2), "its endpoints changed")


def test_nothing_is_written_to_what_is_watched(start: Start, objects: Objects, control_plane: ControlPlane) -> None:
    operator = start()
    objects.model("untouched")
    operator.until("it is reconciled", lambda: operator.count("reconciled", "untouched") >= 1)
    operator.send(signal.SIGTERM)
    assert operator.wait() == 0

    arguments = ("get", "modeldeployment", "untouched", "-n", objects.namespace, "-o", "yaml", "--show-managed-fields")
    found = yaml.safe_load(control_plane.kubectl(*arguments))
    assert "finalizers" not in found["metadata"]
    assert "status" not in found
    assert set(found["metadata"].get("annotations", {})) <= {"kubectl.kubernetes.io/last-applied-configuration"}
    assert len(found["metadata"]["managedFields"]) == 1
    assert control_plane.kubectl("get", "events", "-n", objects.namespace, "-o", "name") == ""


def test_a_failing_fleet_is_tried_again_and_again_while_others_go_on(start: Start, objects: Objects) -> None:
    operator = start(RAYFLEET_CONCURRENCY="1")
    operator.until_working()
    objects.model("bad-one")
    objects.model("again-one")
    operator.until("it failed thrice", lambda: operator.count("begun", "bad-one") >= 3)
    operator.until("the other comes back as it wants", lambda: operator.count("reconciled", "again-one") >= 5)

    assert "The reconcile failed; again in 0." in operator.log
    assert f"[{objects.namespace}/bad-one]" in operator.log
    assert "ValueError: bad-one is bad" in operator.log
    assert "Traceback" not in operator.log
    metrics = operator.get("metrics", "/metrics").text
    assert 'controller_runtime_reconcile_total{controller="fleet",result="requeue_after"}' in metrics
    assert 'controller_runtime_reconcile_errors_total{controller="fleet"} 0.0' not in metrics
    assert 'workqueue_retries_total{name="fleet"} 0.0' not in metrics


def test_asked_to_end_it_finishes_what_runs_and_gives_up_the_lease(start: Start, objects: Objects) -> None:
    operator = start()
    operator.until_working()
    objects.model("slow-one")
    operator.until("it is at work", lambda: operator.count("begun", "slow-one") == 1)
    operator.send(signal.SIGTERM)
    assert operator.wait() == 0

    assert operator.count("reconciled", "slow-one") == 1
    assert operator.count("closed") == 1
    assert not objects.lease().get("holderIdentity"), operator.log


def test_what_does_not_finish_is_cancelled_in_time(start: Start, objects: Objects) -> None:
    operator = start()
    operator.until_working()
    objects.model("stuck-one")
    operator.until("it is at work", lambda: operator.count("begun", "stuck-one") == 1)
    operator.send(signal.SIGTERM)
    assert operator.wait() == 0
    assert operator.count("cancelled", "stuck-one") == 1
    # A slow machine makes it take longer than its bounds; by these the Lease is given up before its pod's time is over.
    (deployment,) = (each for each in yaml.safe_load_all(MANIFESTS.read_text()) if each["kind"] == "Deployment")
    pod_s = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert pod_s > manager.END_S >= manager.FINISH_S + 2 * manager.CANCEL_S + ATTEMPT_S


def test_of_two_operators_one_works_and_the_other_takes_over_when_it_is_killed(start: Start, objects: Objects) -> None:
    first, second = leader_and_standby(start)
    assert second.ready
    assert not second.leads
    objects.model("one")
    first.until("the leader works", lambda: first.count("reconciled", "one") >= 1)
    assert second.count("begun") == 0

    first.send(signal.SIGKILL)
    first.wait()
    lease = objects.lease()
    second.until("it takes over", lambda: second.count("reconciled", "one") >= 1)
    taken = datetime.fromisoformat(objects.lease()["acquireTime"])
    assert taken >= end_of(lease), "the dead one's Lease must run out first"
    after(second, "two", lambda: objects.model("two"), "it hears of changes")


def test_who_ends_in_peace_gives_the_lease_up_and_is_followed(start: Start, objects: Objects) -> None:
    first, second = leader_and_standby(start)
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    first.until("it gave up the Lease, which nobody has to see run out then", lambda: "Gave up the Lease" in first.log)
    second.until("it leads", lambda: second.leads)


def test_who_is_robbed_of_the_lease_cancels_its_work_and_fails(
    start: Start, objects: Objects, control_plane: ControlPlane
) -> None:
    operator = start()
    operator.until_working()
    objects.model("stuck-one")
    operator.until("it is at work", lambda: operator.count("begun", "stuck-one") == 1)
    patch = '{"spec": {"holderIdentity": "thief"}}'
    control_plane.kubectl("patch", "lease", "rayfleet-operator", "-n", objects.namespace, "--type=merge", "-p", patch)

    assert operator.wait() == 1
    assert operator.count("cancelled", "stuck-one") == 1
    assert "thief holds the Lease" in operator.log


def test_who_stood_still_for_longer_than_its_lease_goes_on_where_nobody_took_it(start: Start, objects: Objects) -> None:
    operator = start()
    operator.until_working()
    operator.send(signal.SIGSTOP)
    lease = objects.lease()
    operator.until("its Lease ran out", lambda: datetime.now(UTC) > end_of(lease))
    operator.send(signal.SIGCONT)
    operator.until("it renews its Lease", lambda: renewed(objects.lease()) > end_of(lease))
    after(operator, "alone", lambda: objects.model("alone"), "it hears of changes")
    assert operator.leads


def test_who_stood_still_while_another_took_over_ends_and_says_so(start: Start, objects: Objects) -> None:
    first, second = leader_and_standby(start)
    first.send(signal.SIGSTOP)
    second.until_working()
    first.send(signal.SIGCONT)
    assert first.wait() == 1
    first.until(
        "it says who leads", lambda: f"second holds the Lease {objects.namespace}/rayfleet-operator now" in first.log
    )
    after(second, "alone", lambda: objects.model("alone"), "the other goes on")


def test_an_operator_that_loses_a_worker_fails_and_names_it(start: Start, objects: Objects) -> None:
    operator = start(RAYFLEET_CONCURRENCY="1")
    operator.until_working()
    objects.model("lost-one")

    assert operator.wait() == 1
    operator.until("it names it", lambda: "RuntimeError: worker 0 was cancelled" in operator.log)


def test_an_operator_that_stands_by_ends_when_asked(start: Start) -> None:
    _, second = leader_and_standby(start)
    second.send(signal.SIGTERM)
    assert second.wait() == 0


def test_without_rights_it_says_which_are_missing(control_plane: ControlPlane, namespace: str) -> None:
    operator = Operator(
        control_plane.kubeconfig_for("nobody"),
        "first",
        RAYFLEET_LEADER_ELECTION="false",
        RAYFLEET_NAMESPACES=namespace,
    )
    try:
        operator.until(
            "it says what it may not",
            lambda: f"not allowed to list modeldeployments in namespace {namespace}" in operator.log,
        )
        assert "fleets: they have not been listed yet" in operator.get("health", "/readyz").text
        assert operator.running
    finally:
        operator.end()


RIGHTS = [
    ("rayfleet.io", "modeldeployments,modelfleets", "get,list,watch"),
    ("ray.io", "rayservices", "get,list,watch,create,patch,delete"),
    ("ray.io", "rayclusters", "get,list,watch,patch"),
    ("", "services,secrets", "get,list,watch,create,patch,delete"),
    ("networking.k8s.io", "networkpolicies", "get,list,watch,create,patch,delete"),
    ("apps", "controllerrevisions", "list,watch,create,patch,delete"),
    ("coordination.k8s.io", "leases", "get,create,update,patch"),
]


def grant(control_plane: ControlPlane, objects: Objects, without: str = "") -> None:
    """Let the user named like the namespace do what the operator must."""
    rules = [
        {"apiGroups": [group], "resources": resources.split(","), "verbs": verbs.split(",")}
        for group, resources, verbs in RIGHTS
        if resources != without
    ]
    objects.apply("rbac.authorization.k8s.io/v1", "Role", "operator", rules=rules)
    subject = {"kind": "User", "name": objects.namespace, "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "Role", "name": "operator", "apiGroup": "rbac.authorization.k8s.io"}
    objects.apply("rbac.authorization.k8s.io/v1", "RoleBinding", "operator", roleRef=role, subjects=[subject])


@pytest.fixture
def limited(control_plane: ControlPlane, namespace: str) -> Iterator[Operator]:
    """An operator as a user who may do what was granted in its namespace alone."""
    operator = Operator(
        control_plane.kubeconfig_for(namespace),
        "first",
        RAYFLEET_NAMESPACES=namespace,
        RAYFLEET_OPERATOR_NAMESPACE=namespace,
    )
    yield operator
    operator.end()


def test_rights_in_its_own_namespace_are_enough(
    control_plane: ControlPlane, objects: Objects, limited: Operator
) -> None:
    grant(control_plane, objects)
    limited.until_working()
    after(limited, "alone", lambda: objects.model("alone"), "it works")


def test_a_kind_that_it_may_not_watch_holds_up_no_other(
    control_plane: ControlPlane, objects: Objects, limited: Operator
) -> None:
    grant(control_plane, objects, without="networkpolicies")
    limited.until("it says what it may not", lambda: 'cannot list resource "networkpolicies"' in limited.log)
    after(limited, "alone", lambda: objects.model("alone"), "it works")
    assert "networkpolicies have not begun" in limited.get("health", "/readyz").text
    assert limited.get("health", "/healthz").status_code == 200

    grant(control_plane, objects)
    limited.until_working()
    assert limited.log.count('cannot list resource "networkpolicies"') == 1


def test_a_namespace_that_it_may_not_look_into_holds_up_no_other(
    control_plane: ControlPlane, namespace: str, objects: Objects
) -> None:
    grant(control_plane, objects)
    operator = Operator(
        control_plane.kubeconfig_for(namespace),
        "first",
        RAYFLEET_NAMESPACES=f"{namespace},closed",
        RAYFLEET_OPERATOR_NAMESPACE=namespace,
    )
    try:
        operator.until_working()
        after(operator, "alone", lambda: objects.model("alone"), "it works in the other one")
        ready = operator.get("health", "/readyz").text
        assert ready.startswith("ok\n")
        assert "fleets: not allowed to list modeldeployments in namespace closed: " in ready
        assert "/namespaces/closed/modelfleets" in ready
        assert f"/namespaces/{namespace}/" not in ready
        assert "not allowed to list modeldeployments in namespace closed" in operator.log
    finally:
        operator.end()
