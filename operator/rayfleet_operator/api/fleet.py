"""ModelFleet: what several models share. One fleet is one RayService on Kubernetes, or one local Ray.

On Kubernetes a field that is left out has the value that the operator's administrator chose for all fleets, and only
then the one named here. With `rayfleet up` only `routers` and `gpuSharing` have an effect: there is one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from rayfleet_operator.api import forms, quantity
from rayfleet_operator.api.base import BY_NAME, ApiModel, Rule, each_once
from rayfleet_operator.api.environment import SecretOrConfigMap, Variable
from rayfleet_operator.api.patterns import PORT
from rayfleet_operator.api.status import ModelFleetStatus
from rayfleet_operator.api.template import HEAD, PodTemplate, own_container
from rayfleet_operator.api.types import Cpus, Memory, Metadata
from rayfleet_operator.api.workers import Image, WorkerGroup

__all__ = ["GcsFaultTolerance", "Head", "ModelCache", "ModelFleet", "ModelFleetSpec", "Routers", "WorkerGroup"]

GpuSharing = Literal["TimeSlicing", "MPS"]
_TIME_SLICING: GpuSharing = "TimeSlicing"


class Routers(ApiModel):
    """The processes that take requests and send them on to models."""

    rules: ClassVar = (
        Rule(
            # What is out of its own bounds is refused for that alone.
            cel="!has(self.maxReplicas) || self.maxReplicas < 2"
            " || self.maxReplicas >= (has(self.replicas) && self.replicas <= 100 ? self.replicas : 2)",
            check=lambda routers: routers.max_replicas is None or routers.max_replicas >= routers.replicas,
            message="maxReplicas is less than replicas",
            right="at least replicas, or leave it out for a fixed number",
            field="maxReplicas",
        ),
    )

    replicas: Annotated[int, Field(ge=2, le=100)] = Field(default_factory=lambda: 2)
    """At least two, so that one can be lost. Left out: 2."""
    max_replicas: Annotated[int | None, Field(ge=2, le=100)] = None
    """Routers that there may be when they are busy. Left out: always `replicas`."""
    cpu: Cpus = Field(default_factory=lambda: "1")
    """CPUs of each router. Left out: 1."""

    @property
    def cpu_count(self) -> float:
        return quantity.parse_count(self.cpu)

    @property
    def ceiling(self) -> int:
        """Most routers there may be."""
        return self.replicas if self.max_replicas is None else self.max_replicas


class PasswordSecret(ApiModel):
    """Where a password stands."""

    name: Annotated[str, forms.object_name("redis")]
    """Secret in the same namespace."""
    key: Annotated[
        str,
        forms.text(
            r"\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*", what="a key of a Secret", example="redis-password", max_length=253
        ),
    ] = "password"
    """Its key."""


class GcsFaultTolerance(ApiModel):
    """A Redis that keeps what the head knows, so that models go on serving while the head is replaced."""

    redis_address: Annotated[
        str,
        forms.text(
            rf"(rediss?://)?[A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?:{PORT}",
            what="host:port, with redis:// or rediss:// before it if need be",
            example="redis.ray.svc:6379",
            max_length=512,
        ),
    ]
    """Where Redis answers."""
    password_secret: PasswordSecret | None = None
    """Where Redis' password stands. Left out: it asks for none."""


class Head(ApiModel):
    """The pod of Ray's head. No model and no router runs on it."""

    rules: ClassVar = (own_container(HEAD),)

    cpu: Cpus = Field(default_factory=lambda: "1")
    """CPUs of the pod. Left out: 1."""
    memory: Memory = Field(default_factory=lambda: "2Gi")
    """Memory of the pod. Left out: 2Gi."""
    gcs_fault_tolerance: GcsFaultTolerance | None = None
    """Left out: when the head is lost, the fleet starts anew."""
    template: PodTemplate = Field(default_factory=dict)
    """A pod template that is merged over the operator's own; the container is `ray-head`."""


class ModelCache(ApiModel):
    """Where pods keep the artifacts of models."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.claimName) || !has(self.sizeLimit)",
            check=lambda cache: cache.claim_name is None or cache.size_limit is None,
            message="sizeLimit has no effect on a claim",
            right="leave one of them out",
            field="sizeLimit",
        ),
    )

    claim_name: Annotated[str | None, forms.object_name("model-cache")] = None
    """PersistentVolumeClaim in the same namespace, ReadWriteMany, that all pods of the fleet share: each version is
    downloaded once. Left out: each pod has a folder of its own, which ends with it."""
    size_limit: Memory | None = None
    """Most that a pod's own folder may hold; the pod is evicted beyond it. Left out: what the node has."""


class ModelFleetSpec(ApiModel):
    """What a person asks for."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.rayVersion) || has(self.image)",
            check=lambda spec: spec.ray_version is None or spec.image is not None,
            message="rayVersion speaks of an image that is not given",
            right="give image too, or leave rayVersion out",
            field="rayVersion",
        ),
        Rule(
            cel="!has(self.envFrom) || self.envFrom.all(one, self.envFrom.exists_one(other, other == one))",
            check=lambda spec: len(set(spec.env_from)) == len(spec.env_from),
            message="an entry is there twice",
            right="each one once",
            field="envFrom",
        ),
        Rule(
            cel="!has(self.workerGroups) || self.workerGroups.size() == 0"
            " || self.workerGroups.exists(i, !has(i.spot) || !i.spot)",
            check=lambda spec: not spec.worker_groups or not all(group.spot for group in spec.worker_groups),
            message="spot has no effect where every group has it: routers have no others to run on",
            right="leave it out, or add a group without it",
            field="workerGroups",
        ),
        Rule(
            # A template may ask for GPUs as well.
            cel="!has(self.gpuSharing) || self.gpuSharing != 'MPS'"
            " || !has(self.workerGroups) || self.workerGroups.size() == 0"
            " || self.workerGroups.exists(i, has(i.gpu) || has(i.template))",
            check=lambda spec: (
                spec.gpu_sharing != "MPS"
                or not spec.worker_groups
                or any(group.gpu is not None or "template" in group.model_fields_set for group in spec.worker_groups)
            ),
            message="gpuSharing has no effect where no group has GPUs",
            right="leave it out, or give a group gpu",
            field="gpuSharing",
        ),
    )

    image: Image | None = None
    """The serving image of every pod. Changing it builds a new Ray cluster beside the old one, and switches when it
    answers."""
    ray_version: (
        Annotated[
            str,
            forms.text(
                r"(2\.(5[2-9]|[6-9][0-9]|[1-9][0-9]{2})|([3-9]|[1-9][0-9])\.[0-9]{1,3})\.[0-9]{1,3}",
                what="a version of Ray from 2.52.0 on",
                example="2.60.0",
                max_length=16,
            ),
        ]
        | None
    ) = None
    """The version of Ray inside `image`."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """Left out: what Kubernetes chooses by the image's tag."""
    image_pull_secrets: Annotated[
        list[Annotated[str, forms.object_name("registry")]],
        Field(max_length=8, json_schema_extra={"x-kubernetes-list-type": "set"}),
        AfterValidator(each_once),
    ] = Field(default_factory=list)
    """Secrets in the same namespace by which the image is pulled."""
    service_account_name: Annotated[str | None, forms.object_name("vision")] = None
    """ServiceAccount of every pod. Its token is not mounted unless a template says so."""
    env: Annotated[list[Variable], Field(max_length=64, json_schema_extra=BY_NAME), AfterValidator(each_once)] = Field(
        default_factory=list
    )
    """Variables of every pod."""
    env_from: Annotated[list[SecretOrConfigMap], Field(max_length=16)] = Field(default_factory=list)
    """Variables of every pod, from Secrets and ConfigMaps. Pods read them when they start."""
    gpu_sharing: GpuSharing = Field(default_factory=lambda: _TIME_SLICING)
    """How models compute on a GPU that they share. `TimeSlicing`: by turns, whatever their shares. `MPS`: at the same
    time, each with at most its `resources.gpu` of the GPU's threads; NVIDIA's MPS must run on the nodes, and a change
    of this field starts every version anew that has a part of a GPU. Left out: TimeSlicing."""
    head: Head = Field(default_factory=Head)
    """The pod of Ray's head."""
    routers: Routers = Field(default_factory=Routers)
    """The processes that take requests and send them on to models."""
    worker_groups: Annotated[
        list[WorkerGroup], Field(max_length=16, json_schema_extra=BY_NAME), AfterValidator(each_once)
    ] = Field(default_factory=list)
    """Pods on which routers and models run. Left out: those of the operator's administrator."""
    model_cache: ModelCache = Field(default_factory=ModelCache)
    """Where pods keep the artifacts of models."""
    progress_deadline: Annotated[str, forms.duration("1m", "24h", example="15m")] = Field(default_factory=lambda: "15m")
    """How long a new Ray cluster may take to answer before the fleet is reported as stuck; the old one goes on
    serving."""

    @property
    def progress_deadline_seconds(self) -> float:
        return quantity.parse_duration(self.progress_deadline)


def of_several(fields: Mapping[str, Any]) -> ModelFleetSpec:
    """The spec of fields that not one person wrote: a fleet's own with an administrator's defaults. That `gpuSharing`
    has no effect is a mistake only of who chose the worker groups as well.

    Raises:
        ValidationError: together they are no spec.
    """
    others = {name: value for name, value in fields.items() if name != "gpuSharing"}
    sharing = ModelFleetSpec.model_validate({"gpuSharing": fields["gpuSharing"]} if "gpuSharing" in fields else {})
    return ModelFleetSpec.model_validate(others).model_copy(update={"gpu_sharing": sharing.gpu_sharing})


class ModelFleet(ApiModel):
    """What several models share. On Kubernetes, a field of `spec` that is left out as a whole has the value that the
    operator's administrator chose for all fleets. With `rayfleet up`, only `spec.routers` and `spec.gpuSharing` have an
    effect."""

    api_version: Literal["rayfleet.io/v1alpha1"] = "rayfleet.io/v1alpha1"
    kind: Literal["ModelFleet"] = "ModelFleet"
    metadata: Metadata
    spec: ModelFleetSpec = ModelFleetSpec()
    """What a person asks for."""
    status: ModelFleetStatus = Field(default_factory=ModelFleetStatus)
    """What the operator saw last."""
