"""A model's row of the traffic table, from its spec."""

from __future__ import annotations

from collections.abc import Iterable

from rayfleet_operator.api import types as api
from rayfleet_operator.api.rollout import Sticky
from rayfleet_serving import config
from rayfleet_serving.config import Classification, ImageInput, Limits, ModelRoute, RolloutMark, Transform, VersionRoute


def route(
    spec: api.ModelDeploymentSpec, versions: Iterable[VersionRoute], rollout: RolloutMark | None = None
) -> ModelRoute:
    """Versions sorted by application name. Raises ValueError unless their weights sum to 100."""
    ordered = sorted(versions, key=lambda version: version.app)
    total = sum(version.weight for version in ordered)
    if total != 100:
        raise ValueError(f"weights sum to {total}, not 100: {ordered}")
    under_way = rollout is not None and not rollout.ended
    return ModelRoute(
        versions=ordered,
        limits=limits(spec.limits),
        rollout=rollout,
        sticky=_sticky(spec.rollout.sticky) if under_way else None,
    )


def _sticky(spec: Sticky | None) -> config.Sticky | None:
    if spec is None:
        return None
    return config.Sticky(header=spec.header.lower() if spec.header is not None else None, cookie=spec.cookie)


def waiting(spec: api.ModelDeploymentSpec) -> ModelRoute:
    """The row of a model without a version: routers know its name, and answer that it is not ready."""
    return ModelRoute(versions=[], limits=limits(spec.limits))


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
