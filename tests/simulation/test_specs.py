"""The simulator keeps to what is deployed: the same file, the same numbers."""

from __future__ import annotations

import pytest

from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import serve_config
from rayfleet_operator.plan.size import Size
from rayfleet_operator.simulation import replica, router, scaling, specs
from rayfleet_operator.simulation.curve import Curve
from rayfleet_serving.model import batcher
from rayfleet_serving.model import scaling as model_scaling
from rayfleet_serving.router import coalescer, load


@pytest.mark.parametrize(
    "written",
    [
        {"minReplicas": 0, "maxReplicas": 3},
        {"minReplicas": 0, "maxReplicas": 3, "scaleToZeroDelay": "10m"},
        {"minReplicas": 0, "maxReplicas": 3, "scaleToZeroDelay": "0s"},
        {"minReplicas": 0, "maxReplicas": 3, "scaleToZeroDelay": "40s", "lookBackPeriod": "37s"},
        {"minReplicas": 2, "maxReplicas": 9, "upscaleDelay": "7s", "downscaleDelay": "11s"},
    ],
)
def test_delays_and_bounds_are_those_that_serve_is_given(written: dict[str, object]) -> None:
    document = {"metadata": {"name": "digits"}, "spec": {"model": {"uri": "models:/digits/1"}, "autoscaling": written}}
    model = ModelDeployment.model_validate(document)
    assert model.spec.autoscaling is not None
    size = Size(model.spec.autoscaling.min_replicas, model.spec.autoscaling.max_replicas)
    given = serve_config.replicas(model.spec, size)["autoscaling_config"]
    pace = specs.setup(model, Curve(((1, 0.1),)), routers=2, start_up_s=1.0).scaling.pace
    names = ("min_replicas", "max_replicas", "upscale_delay_s", "downscale_delay_s", "downscale_to_zero_delay_s")
    assert [given[name] for name in names] == [
        pace.least, pace.most, pace.upscale_delay_s, pace.downscale_delay_s, pace.scale_to_zero_delay_s,
    ]  # fmt: skip


def test_the_numbers_of_the_data_path_are_its_own() -> None:
    assert router.REMEMBERED_CALLS == coalescer.REMEMBERED_CALLS
    assert router.FREE_LARGE_CALLS == coalescer.FREE_LARGE_CALLS
    assert replica.SMOOTHING == batcher.SMOOTHING
    assert scaling.SETTLED_S == load.SETTLED_S
    assert scaling.BUSY_S == model_scaling.BUSY_S
