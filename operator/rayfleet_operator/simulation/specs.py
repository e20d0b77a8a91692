"""A ModelDeployment as the simulator takes it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from rayfleet_operator.api.autoscaling import Autoscaling
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.simulation.curve import Curve
from rayfleet_operator.simulation.router import Rules
from rayfleet_operator.simulation.scaling import Scaling, fixed, unscheduled
from rayfleet_operator.simulation.schedules import scheduled
from rayfleet_operator.simulation.simulator import Setup
from rayfleet_serving.autoscaling.delays import Pace
from rayfleet_serving.autoscaling.need import Goal

FORGET_S = 5.0
"""As in `plan.serve_config`: the last replica stays so long after the look-back is without a request, or longer."""


def setup(
    model: ModelDeployment,
    curve: Curve,
    *,
    routers: int,
    start_up_s: float,
    began: datetime | None = None,
    lasts_s: float = 0.0,
) -> Setup:
    """What the model's requests are replayed against: one version that has all of them.

    Args:
        model: with or without `spec.autoscaling`; without it, there are `spec.replicas`.
        curve: seconds of its batches, and of the way to it.
        routers: that share its requests.
        start_up_s: from the decision for a replica until it answers.
        began: when second 0 of the run was, with a time zone. None: schedules are never on.
        lasts_s: until when requests come.
    """
    spec = model.spec
    limits, batching = spec.limits, spec.batching
    # Requests that came last may be there for as long as they are given.
    last_s = lasts_s + limits.request_timeout_seconds + 1
    return Setup(
        rules=Rules(
            routers=routers,
            max_batch_size=batching.max_batch_size,
            max_ongoing_requests=limits.max_ongoing_requests,
            max_queued_requests=limits.max_queued_requests,
        ),
        scaling=_scaling(spec.autoscaling, began, last_s) if spec.autoscaling else fixed(spec.replicas),
        service=_table(curve, batching.max_batch_size),
        max_wait_s=batching.max_wait_seconds,
        request_timeout_s=limits.request_timeout_seconds,
        hop_s=curve.hop_s,
        start_up_s=start_up_s,
    )


def _scaling(spec: Autoscaling, began: datetime | None, last_s: float) -> Scaling:
    target = spec.latency
    return Scaling(
        goal=Goal(ongoing=spec.target_ongoing_requests)
        if target is None
        else Goal(ongoing=spec.target_ongoing_requests, percentile=target.percentile, latency_s=target.target_seconds),
        pace=Pace(
            least=spec.min_replicas,
            most=spec.max_replicas,
            upscale_delay_s=spec.upscale_delay_seconds,
            downscale_delay_s=spec.downscale_delay_seconds,
            # As Serve is given it: the last replica is needed until the look-back is without a request.
            scale_to_zero_delay_s=max(FORGET_S, spec.scale_to_zero_delay_seconds - spec.look_back_seconds),
            upscale_step=spec.upscale_step,
            downscale_step=spec.downscale_step,
        ),
        look_back_s=spec.look_back_seconds,
        scheduled=scheduled(spec.schedules, began, last_s) if began is not None else unscheduled,
    )


def _table(curve: Curve, most: int) -> Callable[[int], float]:
    """The curve, looked up once for each number of rows."""
    seconds = [0.0, *(curve.seconds(rows) for rows in range(1, most + 1))]
    return seconds.__getitem__
