"""What one pass over a fleet goes from: what is there, what was meant, and what was decided of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rayfleet_operator.api.fleet import GpuSharing, ModelFleet, ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan.deployment import Deployment
from rayfleet_operator.plan.measured import Answer, Question
from rayfleet_operator.plan.observed import ObservedFleet, Resolution
from rayfleet_operator.plan.switch import Clusters
from rayfleet_operator.reconcile import observe, wanted
from rayfleet_operator.reconcile.known import Known
from rayfleet_operator.reconcile.observe import Children
from rayfleet_operator.render import revision, standing
from rayfleet_operator.render.names import ENVIRONMENT_ANNOTATION, annotation

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The world at one moment."""

    found: Children
    clusters: Clusters
    given: ObservedFleet
    """What KubeRay was given last, as if a cluster had just taken it."""
    measured: Mapping[Question, Answer]
    """What Prometheus says of the candidates."""
    unheard: timedelta | None
    """How long no router that serves has answered, as far as was looked; None while some do."""
    token: str
    made_with: str
    """Fingerprint of the key that the token was derived from."""
    digest: Callable[[Mapping[str, str]], str]
    """Of a Secret's data."""
    now: datetime

    @property
    def environment(self) -> str | None:
        """What the pods that serve read when their cluster was made; None where that is not known."""
        serving = self.clusters.serving
        if serving is None:
            return None
        return annotation(self.found.ray_clusters[serving.name], ENVIRONMENT_ANNOTATION)


@dataclass(frozen=True, kw_only=True)
class Meant:
    """The fleet as it was asked for, together with the administrator's defaults."""

    fleet: ModelFleet
    spec: ModelFleetSpec
    inputs: str
    """Digest of what its Ray cluster is rendered from."""
    kept: Json | None
    """The cluster that was rendered for these inputs before."""
    gpu_sharing: GpuSharing
    """What holds where the fleet does not say: the administrator's of the day when it was rendered."""

    @classmethod
    def of(cls, asked: wanted.Wanted, found: Children, defaults: Mapping[str, Any]) -> Meant:
        """
        Raises:
            ValidationError: what was written is no fleet.
        """
        written = wanted.known_fields(asked.written)
        spec = wanted.fleet_spec(written, defaults)
        inputs = revision.inputs_digest(written, asked.restart)
        fleet = wanted.as_fleet(asked.name, asked.fleet)
        kept = revision.rendered(found.revisions, found.taken, inputs)
        if kept is not None:
            spec = standing.meant(spec, kept, wanted.said(written))
        sharing = wanted.fleet_spec({}, defaults).gpu_sharing
        if kept is not None:
            sharing = revision.sharing(found.revisions, inputs) or observe.sharing(found.taken) or sharing
        if "gpuSharing" not in wanted.said(written):
            spec = spec.model_copy(update={"gpu_sharing": sharing})
        return cls(
            fleet=fleet.model_copy(update={"spec": spec}), spec=spec, inputs=inputs, kept=kept, gpu_sharing=sharing
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the fleet should be."""

    models: Sequence[ModelDeployment]
    leaving: Sequence[ModelDeployment]
    """Models that moved to another fleet and do not answer there yet."""
    moving: Mapping[str, Json]
    """The same, as they were read, by name."""
    resolutions: Mapping[str, Resolution]
    known: Known
    held: bool
    """A change of the pods waits until KubeRay has made the first Ray cluster its own."""
    planned: Deployment

    @property
    def longest_request_s(self) -> float:
        longest = (model.spec.limits.request_timeout_seconds for model in [*self.models, *self.leaving])
        return max(longest, default=0.0)
