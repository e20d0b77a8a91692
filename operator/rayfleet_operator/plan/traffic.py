"""A model's row of the traffic table, from its spec."""

from __future__ import annotations

from collections.abc import Iterable

from rayfleet_operator.api import types as api
from rayfleet_serving.config import (
    Classification,
    ImageInput,
    Limits,
    ModelRoute,
    RolloutMark,
    Sticky,
    Target,
    Transform,
    VersionRoute,
)


def route(
    spec: api.ModelDeploymentSpec, versions: Iterable[VersionRoute], rollout: RolloutMark | None = None
) -> ModelRoute:
    """Versions sorted by application name. Raises ValueError unless their weights sum to 100."""
    ordered = sorted(versions, key=lambda version: version.app)
    total = sum(version.weight for version in ordered)
    if total != 100:
        raise ValueError(f"weights sum to {total}, not 100: {ordered}")
    analysis = spec.rollout.analysis
    return ModelRoute(
        versions=ordered,
        limits=limits(spec.limits),
        rollout=rollout,
        sticky=_sticky(spec, rollout),
        predictions=_under_way(rollout) and analysis is not None and analysis.predictions is not None,
        look_back_s=spec.autoscaling.look_back_seconds if spec.autoscaling is not None else None,
        priority=spec.priority,
        target=_target(spec),
    )


def as_given(
    given: ModelRoute,
    spec: api.ModelDeploymentSpec,
    versions: Iterable[VersionRoute],
    rollout: RolloutMark | None,
    *,
    readable: bool = True,
) -> ModelRoute:
    """The row that routers have, with these versions, whatever the spec says now, but for its priority, which is about
    other models. A rollout that is over leaves nothing of it behind.

    Args:
        readable: whether the spec is what somebody wrote.
    """
    update: dict[str, object] = {"versions": list(versions)}
    if readable:
        update["priority"] = spec.priority
    if rollout is not None:
        update["rollout"] = rollout
        if rollout.ended:
            update |= {"predictions": False, "sticky": _sticky(spec, rollout)}
    return given.model_copy(update=update)


def _under_way(rollout: RolloutMark | None) -> bool:
    return rollout is not None and not rollout.ended


def _sticky(spec: api.ModelDeploymentSpec, rollout: RolloutMark | None) -> Sticky | None:
    """How callers are told apart while their version is chosen for them: by the rollout, or by `spec.traffic`."""
    traffic = spec.traffic.sticky if spec.traffic is not None else None
    given = spec.rollout.sticky if _under_way(rollout) else traffic
    if given is None:
        return None
    return Sticky(header=given.header.lower() if given.header is not None else None, cookie=given.cookie)


def _target(spec: api.ModelDeploymentSpec) -> Target | None:
    latency = spec.autoscaling.latency if spec.autoscaling is not None else None
    return Target(percentile=latency.percentile, seconds=latency.target_seconds) if latency is not None else None


def waiting(spec: api.ModelDeploymentSpec, versions: Iterable[VersionRoute] = ()) -> ModelRoute:
    """The row of a model without a version: routers know its name, and answer that it is not ready. `versions` are
    those on their way out, or that are only asked for by name."""
    return ModelRoute(versions=sorted(versions, key=lambda version: version.app), limits=limits(spec.limits))


def limits(spec: api.Limits) -> Limits:
    return Limits(
        max_ongoing_requests=spec.max_ongoing_requests,
        max_queued_requests=spec.max_queued_requests,
        request_timeout_s=spec.request_timeout_seconds,
        max_request_bytes=spec.max_request_size,
    )


def transform(spec: api.Transform) -> Transform:
    image, classification = spec.input.image, spec.output.classification
    return Transform(
        image=None
        if image is None
        else ImageInput(
            height=image.resize[0],
            width=image.resize[1],
            mode=image.mode,
            layout=image.layout,
            scale=image.scale,
            mean=image.mean,
            std=image.std,
        ),
        classification=None
        if classification is None
        else Classification(
            labels=classification.labels,
            labels_file=classification.labels_file,
            activation=classification.activation,
            top_k=classification.top_k,
        ),
    )
