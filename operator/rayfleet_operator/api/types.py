"""ModelDeployment, group `rayfleet.io`, version `v1alpha1`, and what it has in common with ModelFleet.

A field's docstring is its description in the CRD and in docs/api.md. A default that the API server writes into the
object stands on the field; one that it must not write (so that rules can tell "given" from "left out") is a
`default_factory`.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rayfleet_operator.api import forms, quantity
from rayfleet_operator.api.autoscaling import Autoscaling
from rayfleet_operator.api.base import ApiModel, Rule, failure
from rayfleet_operator.api.patterns import KIND, KUBERAYS, LABEL, MODEL_URI, NAME, NAME_LENGTH
from rayfleet_operator.api.registry import Registry
from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.api.traffic import NO_NUL, URI_EXAMPLE, Traffic
from rayfleet_operator.api.transform import Transform

__all__ = ["API_VERSION", "GROUP", "KUBERAYS_NAME", "NAMED", "VERSION", "ModelDeployment", "Registry", "Transform"]

GROUP = "rayfleet.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

NAMED = "a name of lower-case letters, digits and inner hyphens that begins with a letter"
"""What `Name` is, in words."""

KUBERAYS_NAME = f"names that end with {' or '.join(KUBERAYS)} are for KubeRay's own Services"


def _not_kuberays(name: str) -> str:
    if name.endswith(KUBERAYS):
        raise failure(KUBERAYS_NAME, "choose another name")
    return name


Name = Annotated[str, forms.text(NAME, what=NAMED, example="vision-1", max_length=NAME_LENGTH)]
Namespace = Annotated[
    str,
    forms.text(
        LABEL, what="a namespace of lower-case letters, digits and inner hyphens", example="vision", max_length=63
    ),
]
Cpus = Annotated[str, forms.cpus()]
Memory = Annotated[str, forms.memory()]
Accelerator = Annotated[
    str,
    forms.text(
        KIND,
        what="a kind of GPU: letters, digits, and inner hyphens, dots and underscores",
        example="A100-80GB",
        max_length=63,
    ),
]


class Metadata(BaseModel):
    """The part of Kubernetes' ObjectMeta that rayfleet reads; other keys are accepted and kept."""

    model_config = ConfigDict(populate_by_name=True, extra="allow", frozen=True, strict=True)

    name: Annotated[Name, AfterValidator(_not_kuberays)]
    namespace: Namespace = "default"
    generation: int = 1
    annotations: dict[str, str] = Field(default_factory=dict)


class Model(ApiModel):
    """Which model to serve."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.registry) || self.uri.startsWith('models:/') || self.uri.startsWith('runs:/')",
            check=lambda model: (
                "registry" not in model.model_fields_set or model.uri.startswith(("models:/", "runs:/"))
            ),
            message="registry has no effect on a URI that is a path",
            right="leave registry out, or use a models:/ or runs:/ URI",
            field="registry",
        ),
        Rule(
            cel="!has(self.registry) || !has(self.registry.writeBack)"
            " || !(self.uri.startsWith('runs:/') || self.uri.matches('^models:/m-[0-9a-f]{32}$'))",
            check=lambda model: (
                model.registry.write_back is None
                or not (model.uri.startswith("runs:/") or re.fullmatch(r"models:/m-[0-9a-f]{32}", model.uri))
            ),
            message="writeBack has no effect on a URI that is about no registered model",
            right="leave writeBack out, or use a models:/NAME URI",
            field="registry.writeBack",
        ),
        Rule(
            cel="!has(self.registry) || !has(self.registry.writeBack) || !has(self.registry.writeBack.alias)"
            " || !self.uri.startsWith('models:/') || !self.uri.endsWith('@' + self.registry.writeBack.alias)",
            check=lambda model: (
                model.registry.write_back is None
                or model.registry.write_back.alias is None
                or not model.uri.startswith("models:/")
                or not model.uri.endswith(f"@{model.registry.write_back.alias}")
            ),
            message="writeBack would move the alias that the URI follows",
            right="write another alias",
            field="registry.writeBack.alias",
        ),
        NO_NUL,
    )

    uri: Annotated[
        str,
        forms.text(
            MODEL_URI,
            what="a model URI",
            example=URI_EXAMPLE,
            max_length=1024,
        ),
    ]
    """Which model, and which version of it. An alias, a stage and `latest` are followed when they move."""
    registry: Registry = Field(default_factory=Registry)
    """The model registry; only with a `models:/` or `runs:/` URI."""
    allow_code_execution: bool = False
    """Whether the model may run code of its own when it loads: pickle, code paths, models from code. scikit-learn's
    forests and gradient boosting need it, because skops does not trust their trees by itself. Say yes only to models
    from people you trust."""


class Resources(ApiModel):
    """What one replica of the model gets."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.gpuMemory) || has(self.gpu)",
            check=lambda resources: resources.gpu_memory is None or resources.gpu is not None,
            message="gpuMemory has no effect without gpu",
            right="give gpu too, or leave gpuMemory out",
            field="gpuMemory",
        ),
        Rule(
            cel="!has(self.accelerator) || has(self.gpu)",
            check=lambda resources: resources.accelerator is None or resources.gpu is not None,
            message="accelerator has no effect without gpu",
            right="give gpu too, or leave accelerator out",
            field="accelerator",
        ),
    )

    cpu: Cpus = "1"
    """CPUs of each replica."""
    memory: Memory | None = None
    """Memory of each replica: reserved for it, and the most that its process can take, Python, Ray and the model's
    libraries included. Left out: none is reserved, and there is no cap."""
    gpu: Annotated[str | None, forms.gpus()] = None
    """GPUs of each replica. Left out: none."""
    accelerator: Accelerator | None = None
    """What kind of GPU: replicas run on worker groups that name the same `accelerator`; only with `gpu`. Left out: any.
    With `rayfleet up` the kind has no effect: there is one machine."""
    gpu_memory: Memory | None = None
    """GPU memory that a replica can take at most, of each of its GPUs; only with `gpu`. PyTorch and onnxruntime keep to
    it by themselves; a replica that takes more otherwise is replaced. Where Ray hands out GPUs that are none, it is a
    part of the process. Left out: no cap."""

    @property
    def cpu_count(self) -> float:
        return quantity.parse_count(self.cpu)

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory is None else quantity.parse_bytes(self.memory)

    @property
    def gpu_count(self) -> float:
        """0.0 without a GPU."""
        return 0.0 if self.gpu is None else quantity.parse_count(self.gpu)

    @property
    def gpu_memory_bytes(self) -> int | None:
        return None if self.gpu_memory is None else quantity.parse_bytes(self.gpu_memory)


class Batching(ApiModel):
    """How requests are put together into one call of the model."""

    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Most rows in one call of the model."""
    max_wait: Annotated[str, forms.duration("0s", "1s", example="5ms")] = "5ms"
    """Longest time an idle device may wait for a fuller batch; it waits only where that is expected to pay."""

    @property
    def max_wait_seconds(self) -> float:
        return quantity.parse_duration(self.max_wait)


class Limits(ApiModel):
    """What the model accepts; more is refused with 413, 429 or 504."""

    max_ongoing_requests: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Requests handed to one replica at a time."""
    max_queued_requests: Annotated[int, Field(ge=0, le=100_000)] = 400
    """Requests that may wait in one router; one more is answered 429."""
    request_timeout: Annotated[str, forms.duration("1ms", "1h", example="30s")] = "30s"
    """Longest time from a request's arrival to its answer."""
    max_request_bytes: Annotated[str, forms.request_size()] = "16Mi"
    """Largest request body, in bytes; a larger one is answered 413."""

    @property
    def request_timeout_seconds(self) -> float:
        return quantity.parse_duration(self.request_timeout)

    @property
    def max_request_size(self) -> int:
        """Bytes."""
        return quantity.parse_bytes(self.max_request_bytes)


class ModelDeploymentSpec(ApiModel):
    """What a person asks for."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.traffic) || !has(self.rollout) || self.rollout.strategy == 'Immediate'"
            " || !self.traffic.versions.exists(i, has(i.weight) && i.weight > 0)",
            check=lambda spec: (
                spec.traffic is None
                or spec.rollout.strategy == "Immediate"
                or not any(each.weight for each in spec.traffic.versions)
            ),
            message="a rollout by stages divides the requests as well",
            right="leave the weights out, or the strategy",
            field="traffic",
        ),
        Rule(
            # 1 is what the API server writes where nothing is said. It must: /scale has no answer without a number.
            cel="!has(self.autoscaling) || self.replicas == 1",
            check=lambda spec: spec.autoscaling is None or spec.replicas == 1,
            message="replicas has no effect beside autoscaling",
            right="leave replicas out, or autoscaling",
            field="replicas",
        ),
        Rule(
            cel="!has(self.autoscaling) || !has(self.autoscaling.latency)"
            f" || ![self.autoscaling.latency.target, self.limits.requestTimeout].all(i, i.{forms.IS_DURATION})"
            " || duration(self.autoscaling.latency.target) < duration(self.limits.requestTimeout)",
            check=lambda spec: (
                spec.autoscaling is None
                or spec.autoscaling.latency is None
                or spec.autoscaling.latency.target_seconds < spec.limits.request_timeout_seconds
            ),
            message="requests are given up before they have taken as long as the latency target",
            right="a target below limits.requestTimeout",
            field="autoscaling.latency.target",
        ),
    )

    fleet: Name | None = None
    """ModelFleet in the same namespace to run on. Left out: a fleet of its own."""
    model: Model
    """Which model to serve."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Replicas of each live version; without `autoscaling` only."""
    autoscaling: Autoscaling | None = None
    """How the number of replicas follows the load. Left out: it is `replicas`."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = Field(default_factory=lambda: 0)
    """Who goes first where models share a GPU or, without one, a machine: while one is pressed, those of a lower
    priority answer fewer requests. Left out: 0."""
    resources: Resources = Resources()
    """What one replica gets."""
    batching: Batching = Batching()
    """How requests are put together into one call of the model."""
    limits: Limits = Limits()
    """What the model accepts."""
    transform: Transform = Field(default_factory=Transform)
    """Work on the CPU around the model, for `/predict` only."""
    rollout: Rollout = Field(default_factory=Rollout)
    """How a new version takes over."""
    traffic: Traffic | None = None
    """Versions beside the model's own, for A/B tests and for trying out. Left out: none."""


class ModelDeployment(ApiModel):
    """One model, whatever version of it is live."""

    api_version: Literal["rayfleet.io/v1alpha1"] = "rayfleet.io/v1alpha1"
    kind: Literal["ModelDeployment"] = "ModelDeployment"
    metadata: Metadata
    spec: ModelDeploymentSpec
    """What a person asks for."""
    status: ModelDeploymentStatus = Field(default_factory=ModelDeploymentStatus)
    """What the operator saw last."""
