"""How many replicas are asked for: by a model's spec, and by a deployment in a Serve config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rayfleet_operator.api.traffic import NamedVersion
from rayfleet_operator.api.types import ModelDeployment, ModelDeploymentSpec


@dataclass(frozen=True)
class Size:
    """Replicas of one version."""

    least: int
    """That there always are; 0 where it may be scaled away."""
    most: int
    """That there may be."""

    def at_least(self, replicas: int) -> Size:
        """With a lower bound of so many, as far as the upper one goes."""
        return replace(self, least=max(self.least, min(self.most, replicas)))

    def at_most(self, replicas: int) -> Size:
        """With an upper bound of so many."""
        return Size(min(self.least, replicas), min(self.most, replicas))


def of_spec(spec: ModelDeploymentSpec) -> Size:
    """Of the model's own version, at any time."""
    scaling = spec.autoscaling
    return Size(spec.replicas, spec.replicas) if scaling is None else Size(scaling.min_replicas, scaling.max_replicas)


def of_model(model: ModelDeployment, version: NamedVersion | None = None) -> Size:
    """The same, or of a version that its traffic names."""
    if version is not None and version.replicas is not None:
        return Size(version.replicas, version.replicas)
    return of_spec(model.spec)


def of_deployment(deployment: Mapping[str, Any]) -> Size:
    """Of one in a Serve config. Serve's own defaults hold where it says nothing: one replica, and with an
    `autoscaling_config` from 1 to 1."""
    scaling = deployment.get("autoscaling_config")
    if isinstance(scaling, Mapping):
        least = _count(scaling.get("min_replicas"), 1)
        return Size(least, max(least, _count(scaling.get("max_replicas"), 1)))
    replicas = _count(deployment.get("num_replicas"), 1)
    return Size(replicas, replicas)


def given(entry: Mapping[str, Any]) -> Size:
    """The bounds in an application's entry."""
    (deployment,) = entry["deployments"]
    return of_deployment(deployment)


def _count(value: object, default: int) -> int:
    return max(0, value) if isinstance(value, int) else default
