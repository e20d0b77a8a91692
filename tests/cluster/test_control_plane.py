"""A control plane of a test's own: it can be stopped, restarted and shared out, and it ends with its tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import WATCHDOG, ControlPlane
from cluster.deadline import until
from cluster.kubectl import Kubectl, KubectlError
from cluster.sandbox import command_line

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as control_plane:
        yield control_plane


def test_objects_survive_a_crash_of_every_part(started: ControlPlane) -> None:
    started.kubectl("create", "namespace", "survivor")
    url = started.url
    for part in ("kube-apiserver", "etcd"):
        started.kill_part(part)
        assert not started.running(part)
    started.start_part("etcd")
    started.start_part("kube-apiserver")
    assert started.url == url
    assert started.kubectl("get", "namespace", "survivor", "-o", "name") == "namespace/survivor\n"


def test_two_do_not_see_each_other(started: ControlPlane, tmp_path: Path) -> None:
    started.kubectl("create", "namespace", "mine")
    with ControlPlane(tmp_path) as other:
        assert "namespace/mine" not in other.kubectl("get", "namespaces", "-o", "name")
    assert "namespace/mine" in started.kubectl("get", "namespaces", "-o", "name")


def test_a_user_may_do_what_was_granted_and_no_more(started: ControlPlane) -> None:
    started.kubectl("create", "clusterrole", "reader", "--verb=list", "--resource=pods")
    started.kubectl("create", "clusterrolebinding", "reader", "--clusterrole=reader", "--group=readers")
    reader = Kubectl(started.kubeconfig_for("jane", ["readers"]))
    assert reader.json("get", "pods")["items"] == []
    with pytest.raises(KubectlError, match='User "jane" cannot list resource "secrets"'):
        reader("get", "secrets")


def test_a_service_account_is_known_by_its_token(started: ControlPlane) -> None:
    started.kubectl("create", "serviceaccount", "robot")
    robot = Kubectl(started.kubeconfig_for_service_account("default", "robot"))
    found = robot.json("auth", "whoami")
    assert found["status"]["userInfo"]["username"] == "system:serviceaccount:default:robot"


def test_a_watch_from_a_forgotten_version_is_gone(started: ControlPlane) -> None:
    old = started.kubectl.json("get", "namespace", "default")["metadata"]["resourceVersion"]
    started.kubectl("create", "namespace", "later")
    started.compact()
    started.restart_part("kube-apiserver")
    with started.client() as client:
        answer = client.get("/api/v1/namespaces", params={"watch": "1", "resourceVersion": old, "timeoutSeconds": "1"})
    assert json.loads(answer.text.splitlines()[0]).get("object", {}).get("code") == 410 or answer.status_code == 410


def test_with_a_controller_manager_owned_objects_go_with_their_owner(tmp_path: Path) -> None:
    with ControlPlane(tmp_path, controller_manager=True) as control_plane:
        kubectl = control_plane.kubectl
        kubectl("create", "configmap", "owner")
        owner = kubectl.json("get", "configmap", "owner")["metadata"]
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
        child = {"name": "child", "namespace": "default", "ownerReferences": [reference]}
        kubectl.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": child}])
        kubectl("delete", "configmap", "owner")
        until("the child is gone", lambda: not kubectl("get", "configmap", "child", "--ignore-not-found"))


def test_parts_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal\n"
        "from cluster.control_plane import ControlPlane\n"
        f"started = ControlPlane(pathlib.Path({str(tmp_path)!r}))\n"
        "started.start()\n"
        "print(*(process.pid for process in started._running.values()), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=TESTS, capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    pids = [int(pid) for pid in ran.stdout.split()]
    assert len(pids) == 2
    until("etcd and the API server ended", lambda: not any(map(command_line, pids)))


def test_a_part_that_crashed_and_was_started_again_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pid may be another process's by the time that the watchdog ends what it knows."""
    ended = tmp_path / "ended"
    told = WATCHDOG.replace("kill -9 $live", f"echo $live >{ended}")
    assert told != WATCHDOG
    monkeypatch.setattr("cluster.control_plane.WATCHDOG", told)
    with ControlPlane(tmp_path) as crashing:
        os.kill(crashing._running["kube-apiserver"].pid, signal.SIGKILL)
        until("the API server ended", lambda: not crashing.running("kube-apiserver"))
        crashing.start_part("kube-apiserver")
    assert not ended.exists()


def test_a_part_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"kube-apiserver ended while starting(?s:.)*unknown flag: --nonsense"),
        ControlPlane(tmp_path, apiserver_arguments=["--nonsense"]),
    ):
        pass
