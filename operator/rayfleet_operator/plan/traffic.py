"""A model's row of the traffic table, from its spec."""

from __future__ import annotations

from collections.abc import Iterable

from rayfleet_operator.api import types as api
from rayfleet_serving.config import Classification, ImageInput, Limits, ModelRoute, Transform, VersionRoute


def route(spec: api.ModelDeploymentSpec, versions: Iterable[VersionRoute]) -> ModelRoute:
    """Versions sorted by application name. Raises ValueError unless their weights sum to 100."""
    ordered = sorted(versions, key=lambda version: version.app)
    total = sum(version.weight for version in ordered)
    if total != 100:
        raise ValueError(f"weights sum to {total}, not 100: {ordered}")
    return ModelRoute(versions=ordered, limits=limits(spec.limits))


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
