"""What a fleet's RayService asks of KubeRay beside its pods."""

from __future__ import annotations

import pytest

from rayfleet_operator.render import objects

from .specs import NAME, OWNERS

DAY_S = 24 * 60 * 60


@pytest.mark.parametrize(("longest_request_s", "kept_s"), [(0.001, DAY_S), (3600, DAY_S), (DAY_S, DAY_S + 30)])
def test_a_replaced_cluster_outlives_a_day_without_an_operator_and_its_last_request(
    longest_request_s: float, kept_s: int
) -> None:
    asked = objects.rayservice(
        NAME, OWNERS, cluster={}, serve_config=b"", inputs="a", environment="", longest_request_s=longest_request_s
    )
    assert asked["spec"]["rayClusterDeletionDelaySeconds"] == kept_s
