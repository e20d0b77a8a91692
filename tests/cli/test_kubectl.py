"""What is said where kubectl cannot be asked, or has no answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayfleet_operator.cli import kubectl as kubectl_module
from rayfleet_operator.cli.kubectl import KindMissingError, Kubectl, KubectlError, NotAllowedError

from .kubectl_stand_in import KubectlStandIn, installed

KUBECTL = Kubectl(context=None, kubeconfig=None)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KubectlStandIn:
    return installed(tmp_path, monkeypatch)


def get(*names: str) -> list[str]:
    found = KUBECTL.get("modelfleets.rayfleet.io", names, namespace="ml", labels="a in (b)")
    return [each["metadata"]["name"] for each in found]


@pytest.mark.parametrize("names", [(), ("a",), ("a", "b")])
def test_nothing_is_an_answer(stand_in: KubectlStandIn, names: tuple[str, ...]) -> None:
    assert get(*names) == []


def test_one_and_several_objects(stand_in: KubectlStandIn) -> None:
    metadata = {"namespace": "ml", "labels": {"a": "b"}}
    stand_in.says([{"kind": "ModelFleet", "metadata": {**metadata, "name": name}} for name in ("x", "y")])
    assert (get("x"), get("y", "x", "z"), get()) == (["x"], ["x", "y"], ["x", "y"])


def test_the_cluster_is_the_one_that_was_asked_for(stand_in: KubectlStandIn) -> None:
    Kubectl(context="prod", kubeconfig="/k").get("modelfleets.rayfleet.io", ["x"], namespace="ml")
    (asked,) = stand_in.asked()
    assert {"--context=prod", "--kubeconfig=/k", "--namespace=ml"} <= set(asked)
    assert any(each.startswith("--request-timeout=") for each in asked)


def test_without_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KubectlError, match="no kubectl is on PATH"):
        get("x")


def test_one_that_cannot_be_run(stand_in: KubectlStandIn) -> None:
    stand_in.program("#!/nowhere/at/all\n")
    with pytest.raises(KubectlError, match="kubectl cannot be run"):
        get("x")


def test_one_that_does_not_end(stand_in: KubectlStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubectl_module, "END_S", 0.2)
    stand_in.program("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(KubectlError, match=r"kubectl get did not end within 0.2 s; is the cluster of this context up"):
        get("x")


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ('error: the server doesn\'t have a resource type "modelfleets"', KindMissingError, "resource type"),
        (
            "Error from server (NotFound): Unable to list: the server could not find the requested resource",
            KindMissingError,
            "requested",
        ),
        ("Error from server (Forbidden): modelfleets is forbidden: User x cannot get", NotAllowedError, "User x"),
        ("Unable to connect to the server: dial tcp: i/o timeout", KubectlError, "can it be reached from here"),
        ("The connection to the server localhost:8080 was refused", KubectlError, "can it be reached from here"),
        ("error: context was not found for specified context: prod", KubectlError, "not found for specified"),
        ("E0101 10:00:00.000000   1 memcache.go:265] noise\nerror: wrong", KubectlError, "^wrong$"),
        ("\x1b[2Jwrong", KubectlError, r"^\\x1b\[2Jwrong$"),
        ("", KubectlError, "kubectl get failed, and did not say why"),
    ],
)
def test_what_kubectl_says_is_wrong(
    stand_in: KubectlStandIn, tmp_path: Path, said: str, kind: type[KubectlError], told: str
) -> None:
    (tmp_path / "text").write_text(said)
    stand_in.program(f"#!/bin/sh\ncat {tmp_path}/text >&2\nexit 1\n")
    with pytest.raises(KubectlError, match=told) as caught:
        get("x")
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "said", ["no json", "[]", "3", "null", "{}", '{"kind": "List", "items": [{}]}', '{"kind": "List"}', "[" * 100_000]
)
def test_an_answer_that_is_none(stand_in: KubectlStandIn, tmp_path: Path, said: str) -> None:
    (tmp_path / "text").write_text(said)
    stand_in.program(f"#!/bin/sh\ncat {tmp_path}/text\n")
    with pytest.raises(KubectlError, match="did not answer with objects in JSON"):
        get("x")
