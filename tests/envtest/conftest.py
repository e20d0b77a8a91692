"""A real API server with our definitions and KubeRay's; without it nothing here is skipped, it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cluster.binaries import module_folder
from cluster.control_plane import ControlPlane
from envtest.stage import Stage, set_up

from rayfleet_operator.ray import address, connections, routers

HERE = Path(__file__).parent
CRDS = HERE.parents[1] / "crds"


def definitions() -> str:
    """Every CustomResourceDefinition that a rayfleet cluster has, as YAML."""
    kuberay = module_folder("kuberay-operator") / "config" / "crd" / "bases"
    files = [*sorted(CRDS.glob("*.yaml")), *sorted(kuberay.glob("*.yaml"))]
    return "\n---\n".join(file.read_text() for file in files)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Shared by the session: use namespaces of your own, and a ControlPlane of your own to stop its parts."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as started:
        started.kubectl.apply(definitions())
        yield started


@pytest.fixture
async def stage(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    # The Ray that answers at once is in this process, which may have no CPU for seconds.
    for module, bound in ((address, "TIMEOUT_S"), (routers, "TIMEOUT_S"), (connections, "SERVE_TIMEOUT_S")):
        monkeypatch.setattr(module, bound, 60.0)
    async with set_up(control_plane) as stage:
        yield stage
