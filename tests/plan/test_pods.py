"""What keeps pods from running, from statuses as a kubelet writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.plan import pods
from rayfleet_operator.plan.failure import MAX_CHARACTERS

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def pod(name: str = "vision-x7k2p-worker-a", *containers: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"containerStatuses": list(containers), **status}}


def container(name: str = "ray-worker", *, ready: bool = False, **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "example.com/serving:1", "ready": ready, **fields}


def waiting(reason: str, message: str = "", **fields: Any) -> dict[str, Any]:
    return container(state={"waiting": {"reason": reason, "message": message}}, **fields)


def ended(code: int, reason: str = "Error", finished: str = "2026-03-01T11:58:00Z", **fields: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": finished, **fields}}


RUNNING = {"running": {"startedAt": "2026-03-01T11:59:00Z"}}
NOT_SCHEDULED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
}

CASES: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "all is well": (pod("p", container(ready=True, state=RUNNING), phase="Running"), None, ""),
    "it is being started": (pod("p", waiting("ContainerCreating"), phase="Pending"), None, ""),
    "its init containers run": (pod("p", waiting("PodInitializing"), phase="Pending"), None, ""),
    "nothing is known of it": ({"metadata": {"name": "p"}}, None, ""),
    "no node": (
        {"metadata": {"name": "p"}, "status": {"phase": "Pending", "conditions": [NOT_SCHEDULED]}},
        "Unschedulable",
        "no node takes pod p: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
    "no node, and no reason": (
        {"metadata": {"name": "p"}, "status": {"conditions": [{**NOT_SCHEDULED, "message": ""}]}},
        "Unschedulable", "no node takes pod p"),
    "no image": (
        pod("p", waiting("ImagePullBackOff", 'Back-off pulling image "example.com/serving:1"')),
        "ImagePullFailed", 'the image example.com/serving:1 of container ray-worker of pod p cannot be had: Back-off'),
    "no image, first try": (
        pod("p", waiting("ErrImagePull", "not found")), "ImagePullFailed",
        "the image example.com/serving:1 of container ray-worker of pod p cannot be had: not found"),
    "a Secret is missing": (
        pod("p", waiting("CreateContainerConfigError", 'secret "tokens" not found')), "PodConfigInvalid",
        'container ray-worker of pod p cannot start: secret "tokens" not found'),
    "the runtime refuses": (
        pod("p", waiting("RunContainerError")), "PodConfigInvalid", "cannot start: RunContainerError"),
    "it crashes": (
        pod("p", waiting("CrashLoopBackOff", "back-off 5m0s", lastState=ended(1, message="no module named x"))),
        "PodCrashing", "container ray-worker of pod p ended with code 1: no module named x"),
    "it ends well again and again": (
        pod("p", waiting("CrashLoopBackOff", lastState=ended(0, "Completed"))), "PodCrashing", "ended with code 0"),
    "it crashed just now": (pod("p", container(state=ended(137))), "PodCrashing", "ended with code 137"),
    "it crashed, and runs again for now": (
        pod("p", container(state=RUNNING, lastState=ended(1))), "PodCrashing", "ended with code 1"),
    "it crashed, and is ready again": (pod("p", container(ready=True, state=RUNNING, lastState=ended(1))), None, ""),
    "it crashed long ago, and has no replica": (
        pod("p", container(state=RUNNING, lastState=ended(1, finished="2026-03-01T09:00:00Z"))), None, ""),
    "too little memory": (
        pod("p", waiting("CrashLoopBackOff", lastState=ended(137, "OOMKilled"))),
        "OutOfMemory", "container ray-worker of pod p was killed: it needs more memory than its limit"),
    "too little memory, and running again": (
        pod("p", container(state=RUNNING, lastState=ended(137, "OOMKilled"))), "OutOfMemory", "was killed"),
    "an init container crashes": (
        pod("p", waiting("PodInitializing"),
            initContainerStatuses=[container("wait-gcs-ready", state=ended(2, message="no GCS"))]),
        "PodCrashing", "container wait-gcs-ready of pod p ended with code 2: no GCS"),
    "an init container is done": (
        pod("p", container(ready=True, state=RUNNING),
            initContainerStatuses=[container("wait-gcs-ready", ready=True, state=ended(0, "Completed"))]),
        None, ""),
    "evicted": (
        {"metadata": {"name": "p"}, "status": {
            "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}},
        "PodEvicted", "pod p has failed: The node was low on resource: ephemeral-storage."),
    "failed with its node": (
        {"metadata": {"name": "p"}, "status": {"phase": "Failed", "reason": "NodeShutdown"}},
        "PodCrashing", "pod p has failed: NodeShutdown"),
    "on its way out": (
        {"metadata": {"name": "p", "deletionTimestamp": "2026-03-01T11:59:00Z"},
         "status": {"conditions": [NOT_SCHEDULED]}},
        None, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_pod(case: str) -> None:
    found, reason, message = CASES[case]
    told = pods.troubles([found], NOW)
    assert [each.reason for each in told] == ([reason] if reason else [])
    assert all(message in each.message for each in told)


def test_what_must_be_solved_first_comes_first() -> None:
    told = pods.troubles([CASES[case][0] for case in ("it crashes", "no image", "evicted", "no node")], NOW)
    assert [each.reason for each in told] == ["Unschedulable", "ImagePullFailed", "PodEvicted", "PodCrashing"]


def test_pods_alike_are_told_of_once() -> None:
    many = [
        {"metadata": {"name": f"w-{number:03}"}, "status": {"conditions": [NOT_SCHEDULED]}} for number in range(300)
    ]
    (told,) = pods.troubles(reversed(many), NOW)
    assert told.message == (
        "no node takes pod w-000: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu. (and so for 299 more)"
    )


def test_a_crashing_pod_is_told_of_at_every_moment_of_its_cycle() -> None:
    cycle = ["it crashed just now", "it crashes", "it crashed, and runs again for now"]
    assert {pods.troubles([CASES[case][0]], NOW)[0].reason for case in cycle} == {"PodCrashing"}


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=3000))
def test_whatever_a_container_says_is_short_and_harmless(said: str) -> None:
    (told,) = pods.troubles([pod("p", container(state=ended(1, message=said)))], NOW)
    assert len(told.message) <= MAX_CHARACTERS
    assert not any(ord(letter) < 32 and letter != "\n" for letter in told.message)


def test_ready_pods_get_requests() -> None:
    ready = {"type": "Ready", "status": "True"}
    assert pods.ready({"metadata": {}, "status": {"conditions": [ready]}})
    assert not pods.ready({"metadata": {}, "status": {"conditions": [{**ready, "status": "False"}]}})
    assert not pods.ready({"metadata": {"deletionTimestamp": "x"}, "status": {"conditions": [ready]}})
    assert not pods.ready({"metadata": {}})
