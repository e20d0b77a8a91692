"""What the operator writes back into `.status`. It is read again after an upgrade, so unknown fields are let pass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from rayfleet_serving.config import RolloutMark


class StatusModel(BaseModel):
    """Base of the status types."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


class Condition(StatusModel):
    """One observation, in the form of Kubernetes' metav1.Condition."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """Name in CamelCase, like Ready."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Why, as one CamelCase word."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, for people."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation that was looked at."""
    last_transition_time: Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
    """When `status` last changed."""


Conditions = Annotated[
    list[Condition],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class VersionStatus(StatusModel):
    """One live version of the model."""

    name: Annotated[str, Field(max_length=64)]
    """What people call the version: a registry version, a logged model's id, or the start of a digest."""
    model_id: Annotated[str, Field(max_length=128)] = ""
    """Immutable id of the model's bytes."""
    app: Annotated[str, Field(max_length=63)]
    """Serve application that runs it."""
    traffic: Annotated[str, Field(max_length=63)] = ""
    """Its name in `spec.traffic`; empty for the model's own."""
    weight: Annotated[int, Field(ge=0, le=100)] = 0
    """Percent of the model's requests it gets."""
    mirror: Annotated[int, Field(ge=0, le=100)] = 0
    """Percent of the others' requests of which it gets a copy."""
    state: Literal["Starting", "Ready", "Unhealthy", "Draining", "Failed"] = "Starting"
    """Starting until its replicas answer; Unhealthy when some no longer do; Draining while its last requests end;
    Failed when it could not load."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why it is in this state, for people."""


class ResolvedModel(StatusModel):
    """What the URI meant when the registry was asked last."""

    uri: Annotated[str, Field(max_length=1024)]
    """The spec's URI."""
    tracking_uri: Annotated[str, Field(max_length=1024)] = ""
    """The server that was asked; empty where none is."""
    version: Annotated[str, Field(max_length=64)]
    """What people call the version."""
    model_id: Annotated[str, Field(max_length=128)]
    """Immutable id of the model's bytes."""
    artifact_uri: Annotated[str, Field(max_length=2048)]
    """Where the bytes are."""
    digest: Annotated[str, Field(max_length=128)] = ""
    """Digest of the bytes, where it is known before they are downloaded."""


class NamedModel(ResolvedModel):
    """What the URI of a version that `spec.traffic` names meant when the registry was asked last."""

    name: Annotated[str, Field(max_length=63)]
    """The version's name."""


class CheckStatus(StatusModel):
    """One thing that must hold of a candidate."""

    name: Annotated[str, Field(max_length=64)]
    """As in the spec: errorRate, latency.max, latency.maxRatioToStable, predictions; of a query its own."""
    outcome: Literal["Pass", "Fail", "Inconclusive"]
    """Whether it holds."""
    message: Annotated[str, Field(max_length=512)] = ""
    """What was counted and what may be, for people."""


class RolloutStatus(StatusModel):
    """A rollout by stages, under way or given up."""

    stable: Annotated[str, Field(max_length=63)]
    """Serve application that requests go back to."""
    candidate: Annotated[str, Field(max_length=63)]
    """Serve application that is to take over."""
    began: Annotated[str, Field(max_length=64)]
    """When the candidate was first wanted."""
    stage: Annotated[int, Field(ge=-1, le=100)] = -1
    """Stage that the candidate is in, from 0; -1 until it is ready."""
    weight: Annotated[int, Field(ge=0, le=100)] = 0
    """Percent of the requests that the candidate has."""
    since: Annotated[str, Field(max_length=64)] = ""
    """When every router held the stage's weights, or the candidate was given up; empty until then."""
    ended: Annotated[str, Field(max_length=64)] = ""
    """Why the candidate was given up, in one word; empty while it was not."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """What it waits for, or why it was given up."""
    analysis: Annotated[str, Field(max_length=16)] = ""
    """Pass, Fail or Inconclusive; empty where nothing is analysed. Of a candidate that was given up: what was said
    last."""
    checks: Annotated[list[CheckStatus], Field(max_length=16)] = Field(default_factory=list)
    """What must hold, each with the numbers of `counted`."""
    counted: Annotated[str, Field(max_length=64)] = ""
    """When the numbers in `checks` were counted: while no outcome changes, they are told anew every ten seconds."""
    rules: Annotated[str, Field(max_length=64)] = ""
    """Digest of what the candidate was given up by; it is tried again under others."""

    @property
    def mark(self) -> RolloutMark:
        """As it stands in the traffic table."""
        why = self.message if self.ended else ""
        return RolloutMark(
            stable=self.stable,
            candidate=self.candidate,
            began=self.began,
            stage=self.stage,
            since=self.since,
            ended=self.ended,
            why=why,
            rules=self.rules,
        )


class VersionOutcome(StatusModel):
    """What became of a version that was to have the requests."""

    version: Annotated[str, Field(max_length=64)]
    """What people call it."""
    model_id: Annotated[str, Field(max_length=128)] = ""
    """Immutable id of the model's bytes."""
    artifact_uri: Annotated[str, Field(max_length=2048)] = ""
    """Where the bytes are; empty where it did not get every request, or that is not known."""
    digest: Annotated[str, Field(max_length=128)] = ""
    """Digest of the bytes, where it is known before they are downloaded."""
    uri: Annotated[str, Field(max_length=1024)] = ""
    """The spec's URI, which meant this version; empty where that is not known."""
    outcome: Literal["Succeeded", "WentBack", "RolledBack", "Superseded"]
    """Succeeded: it got every request. WentBack: it did because somebody went back to it. RolledBack: it was given up.
    Superseded: another one was wanted before it had come to an end."""
    ended: Annotated[str, Field(max_length=64)]
    """When."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why, for people."""


class WrittenBack(StatusModel):
    """What was written into the registry about the version that has every request."""

    tracking_uri: Annotated[str, Field(max_length=1024)]
    """The server."""
    model: Annotated[str, Field(max_length=1024)]
    """The registered model's name."""
    version: Annotated[str, Field(max_length=64)]
    """Its version."""
    model_id: Annotated[str, Field(max_length=128)]
    """Immutable id of the model's bytes."""
    alias: Annotated[str, Field(max_length=255)] = ""
    """The alias that it was given; empty for none."""
    tag: Annotated[str, Field(max_length=250)] = ""
    """The tag that it was given; empty for none."""


class ScalingStatus(StatusModel):
    """The replicas of the version that has the requests, where their number follows the load."""

    wanted: Annotated[int, Field(ge=0)]
    """Replicas that there are to be: what was needed for as long as the delays say, within the bounds."""
    running: Annotated[int, Field(ge=0)]
    """Replicas that run."""
    reason: Annotated[str, Field(max_length=256)] = ""
    """Why so many are wanted, for people, as it was when their number changed last."""


class ModelDeploymentStatus(StatusModel):
    """What the operator saw last."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation that the rest speaks of."""
    conditions: Conditions = Field(default_factory=list)
    """Observations by type; Ready sums them up."""
    url: Annotated[str, Field(max_length=1024)] = ""
    """Where the model answers."""
    resolved: ResolvedModel | None = None
    """What the URI means. When the registry is out of reach, this still holds."""
    replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that run, over all versions."""
    scaling: ScalingStatus | None = None
    """With `autoscaling`: how many replicas are wanted, and why."""
    versions: Annotated[
        list[VersionStatus],
        Field(
            max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["app"]}
        ),
    ] = Field(default_factory=list)
    """Live versions: the model's own, and then those that `spec.traffic` names, the highest weight first."""
    traffic: Annotated[
        list[NamedModel],
        Field(
            max_length=8, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        ),
    ] = Field(default_factory=list)
    """What the URIs in `spec.traffic` mean."""
    rollout: RolloutStatus | None = None
    """How the newest version takes over, where that goes by stages."""
    history: Annotated[list[VersionOutcome], Field(max_length=10)] = Field(default_factory=list)
    """What became of the last ten versions that were to have the requests, the newest first."""
    written_back: WrittenBack | None = None
    """What `spec.model.registry.writeBack` has written; it is not written again."""


class GroupCapacity(StatusModel):
    """What is asked of one worker group, and what is free, with as many workers as it may have."""

    name: Annotated[str, Field(max_length=63)]
    """The worker group."""
    accelerator: Annotated[str, Field(max_length=63)] = ""
    """What kind its GPUs are; empty where it does not say."""
    workers: Annotated[int, Field(ge=0)]
    """Workers that there may be."""
    cpus_asked: Annotated[str, Field(max_length=32)]
    """CPUs that replicas and routers ask for."""
    cpus_free: Annotated[str, Field(max_length=32)]
    """CPUs that nobody asks for."""
    memory_asked: Annotated[str, Field(max_length=32)]
    """Memory that replicas reserve."""
    memory_free: Annotated[str, Field(max_length=32)]
    """Memory that none reserves."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs that there may be."""
    gpus_asked: Annotated[str, Field(max_length=32)] = ""
    """GPUs that replicas ask for, as a sum of shares; empty where there is no GPU."""
    gpus_free: Annotated[str, Field(max_length=32)] = ""
    """GPUs that none asks for, as a sum of shares."""
    gpu_largest_free: Annotated[str, Field(max_length=32)] = ""
    """The largest share that is free on one GPU: no replica finds room for more."""
    gpu_memory_asked: Annotated[str, Field(max_length=32)] = ""
    """GPU memory that replicas ask for; empty where the group does not say how much its GPUs have."""
    gpu_memory_free: Annotated[str, Field(max_length=32)] = ""
    """GPU memory that none asks for."""


class WaitingModel(StatusModel):
    """A model with replicas for which there is no room."""

    name: Annotated[str, Field(max_length=63)]
    """The ModelDeployment, or routers."""
    version: Annotated[str, Field(max_length=64)] = ""
    """Which version of it."""
    replicas: Annotated[int, Field(ge=0)]
    """Replicas that wait."""
    refused: bool = False
    """Not one of its replicas has room, so nothing of it is given to Ray."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What it needs and what is free."""


class ModelFleetStatus(StatusModel):
    """What the operator saw last."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation that the rest speaks of."""
    conditions: Conditions = Field(default_factory=list)
    """Observations by type; Ready sums them up."""
    url: Annotated[str, Field(max_length=1024)] = ""
    """Where the fleet's models answer."""
    cluster: Annotated[str, Field(max_length=63)] = ""
    """The RayCluster that requests go to."""
    upgrade_cluster: Annotated[str, Field(max_length=63)] = ""
    """The RayCluster that is to take over; empty when none is."""
    models: Annotated[int, Field(ge=0)] = 0
    """ModelDeployments that run on this fleet."""
    capacity: Annotated[
        list[GroupCapacity],
        Field(
            max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        ),
    ] = Field(default_factory=list)
    """What is asked of each worker group, and what is free."""
    waiting: Annotated[list[WaitingModel], Field(max_length=64)] = Field(default_factory=list)
    """Models that wait for room, and why."""
