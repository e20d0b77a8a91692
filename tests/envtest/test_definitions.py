"""Our definitions are accepted by a real API server, beside KubeRay's."""

from __future__ import annotations

from cluster.control_plane import ControlPlane


def test_every_kind_can_be_listed(control_plane: ControlPlane) -> None:
    for kind in ("modeldeployments.rayfleet.io", "modelfleets.rayfleet.io", "rayservices.ray.io", "rayclusters.ray.io"):
        assert control_plane.kubectl.json("get", kind, "--namespace", "nobodys")["items"] == []
