"""A cluster of somebody else is as it was when the end-to-end tests have ended, however they end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.control_plane import ControlPlane
from cluster.layout import Layout
from cluster.providers import ExistingCluster
from e2e import conftest
from helm_chart import CHART


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """With a controller manager, without which no namespace goes."""
    with ControlPlane(tmp_path_factory.mktemp("theirs"), controller_manager=True) as started:
        yield started


@pytest.fixture
def borrowed(theirs: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExistingCluster:
    monkeypatch.setenv("RAYFLEET_E2E_OPERATOR_IMAGE", "theirs/operator:1")
    monkeypatch.setenv("RAYFLEET_E2E_SERVING_IMAGE", "theirs/serving:1")
    cluster = ExistingCluster("theirs", Layout(tmp_path))
    cluster.kubeconfig.symlink_to(theirs.kubeconfig)
    return cluster


def things(cluster: ExistingCluster) -> set[str]:
    kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings"
    return set(cluster.kubectl("get", kinds, "-o", "name").split())


def never_ready(cluster: ExistingCluster, **_: object) -> None:
    """An install that breaks off when everything of the chart is there."""
    conftest.helm(cluster, "install", "rayfleet", str(CHART), "--namespace", conftest.NAMESPACE)
    raise TimeoutError("the operator is not ready")


def never_begun(*_: object, **__: object) -> None:
    raise TimeoutError("Helm could not be built")


def failing(cluster: ExistingCluster, scene: dict[str, object]) -> None:
    cluster.kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": scene}])
    raise AssertionError("tests fail")


@pytest.mark.parametrize("install", [never_ready, never_begun])
def test_a_failed_install_leaves_nothing(
    install: object, borrowed: ExistingCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = things(borrowed)
    monkeypatch.setattr(conftest, "install", install)
    with pytest.raises(TimeoutError), conftest.installation(borrowed):
        pytest.fail("nothing is installed")
    assert things(borrowed) == before


def test_failed_tests_leave_nothing(borrowed: ExistingCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    before = things(borrowed)
    monkeypatch.setattr(conftest, "install", lambda *_, **__: None)
    scene = {"name": "e2e-some", "labels": {conftest.OURS: "scene"}}
    with pytest.raises(AssertionError, match="tests"), conftest.installation(borrowed):
        failing(borrowed, scene)
    assert things(borrowed) == before
