"""The environment says which cluster is used, and one of somebody else is taken as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import providers
from cluster.binaries import module_folder
from cluster.control_plane import ControlPlane
from cluster.layout import Layout
from cluster.node import Node
from cluster.providers import ClusterError, NodeCluster, chosen


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAYFLEET_E2E_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAYFLEET_CLUSTER_STATE", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("theirs")) as started:
        yield started


@pytest.mark.parametrize("kind", ["kind", "node"])
def test_a_kind_of_cluster_can_be_asked_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYFLEET_E2E_CLUSTER", kind)
    assert chosen().kind == kind


@pytest.mark.parametrize(("has_image", "kind"), [(True, "kind"), (False, "node")])
def test_kind_is_used_where_its_image_is(has_image: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for a Docker with the image, which cannot be had without a registry.
    monkeypatch.setattr(providers, "_has_kind_image", lambda: has_image)
    assert chosen().kind == kind


def test_an_unknown_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYFLEET_E2E_CLUSTER", "minikube")
    with pytest.raises(ClusterError, match="'minikube'; it may be kind or node"):
        chosen()


def test_somebodys_cluster_needs_images_and_kuberay(theirs: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYFLEET_E2E_CONTEXT", "rayfleet-tests")
    monkeypatch.setenv("KUBECONFIG", str(theirs.kubeconfig))
    with pytest.raises(ClusterError, match="RAYFLEET_E2E_OPERATOR_IMAGE, RAYFLEET_E2E_SERVING_IMAGE"):
        chosen().up()

    monkeypatch.setenv("RAYFLEET_E2E_OPERATOR_IMAGE", "theirs/operator:1")
    monkeypatch.setenv("RAYFLEET_E2E_SERVING_IMAGE", "theirs/serving:1")
    with pytest.raises(ClusterError, match="has no KubeRay"):
        chosen().up()

    folder = module_folder("kuberay-operator") / "config" / "crd" / "bases"
    theirs.kubectl.apply("\n---\n".join(file.read_text() for file in sorted(folder.glob("*.yaml"))))
    cluster = chosen()
    cluster.up()
    assert cluster.images == {"operator": "theirs/operator:1", "serving": "theirs/serving:1"}
    assert "namespace/default" in cluster.kubectl("get", "namespaces", "-o", "name")
    assert cluster.kubeconfig.stat().st_mode & 0o077 == 0
    cluster.down()
    assert not cluster.kubeconfig.exists()


@pytest.mark.parametrize("foreign", ["notes.txt", None])
def test_a_wipe_removes_what_the_cluster_made_and_nothing_else(
    foreign: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Node, "down", lambda _: None)  # a developer's own cluster may run on this machine
    state = tmp_path / "state"
    for folder in ("cluster/logs", "containerd/content", "docker/data", "scratch-killed/context"):
        (state / folder).mkdir(parents=True)
    for file in ("images.json", "sysctls.json", "lock", "images.lock", *([foreign] if foreign else [])):
        (state / file).write_text("{}")
    NodeCluster(Layout(state)).wipe()
    assert [path.name for path in tmp_path.rglob("*")] == (["state", foreign] if foreign else [])


def test_a_context_that_is_not_there_is_named(theirs: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYFLEET_E2E_CONTEXT", "elsewhere")
    monkeypatch.setenv("KUBECONFIG", str(theirs.kubeconfig))
    monkeypatch.setenv("RAYFLEET_E2E_OPERATOR_IMAGE", "theirs/operator:1")
    monkeypatch.setenv("RAYFLEET_E2E_SERVING_IMAGE", "theirs/serving:1")
    with pytest.raises(ClusterError, match="elsewhere cannot be used"):
        chosen().up()
