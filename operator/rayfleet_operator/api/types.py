"""ModelDeployment and ModelFleet, group `rayfleet.io`, version `v1alpha1`.

A field's docstring is its description in the CRD and in docs/api.md. A default that the API server writes into the
object stands on the field; one that it must not write (so that rules can tell "given" from "left out") is a
`default_factory`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rayfleet_operator.api import forms, quantity
from rayfleet_operator.api.base import ApiModel, Rule, failure
from rayfleet_operator.api.status import ModelDeploymentStatus, ModelFleetStatus

__all__ = ["API_VERSION", "GROUP", "VERSION", "ApiModel", "ModelDeployment", "ModelFleet"]

GROUP = "rayfleet.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""RFC 1123 label."""
NAME_LENGTH = 40
"""Serve application, RayService and pod names are made of a name and a suffix, and must fit Kubernetes' 63."""


CONTROL = r"\x00-\x1f\x7f-\x9f"
"""Python and Go disagree on which of them \\s means, so no field takes any."""


def _path(excluded: str = "") -> str:
    """A relative path in which no part is empty, ".", "..", or begins or ends with a blank."""
    never = rf"/{CONTROL}{excluded}"
    part = rf"\.{{0,2}}[^. {never}]([^{never}]*[^ {never}])?"
    return rf"{part}(/{part})*"


MODEL_URI = "|".join(
    (
        r"models:/m-[0-9a-f]{32}",
        rf"models:/[^/: {CONTROL}]([^/:{CONTROL}]*[^/: {CONTROL}])?"
        r"(/([0-9]{1,10}|Production|Staging|Archived|latest)|@[\w-]{1,255})",
        rf"runs:/[0-9a-f]{{32}}/{_path()}/?",
        rf"(s3|gs|az|abfss?)://[\w.$@-]+/{_path('?#')}/?",
        rf"file:///{_path('?#')}/?",
        rf"/{_path()}/?",
    )
)
"""Every form that the registry clients can read; whether the model is there is told when the URI is resolved."""

Name = Annotated[
    str,
    forms.text(
        NAME, what="a name of lower-case letters, digits and inner hyphens", example="vision-1", max_length=NAME_LENGTH
    ),
]
Namespace = Annotated[
    str,
    forms.text(
        NAME, what="a namespace of lower-case letters, digits and inner hyphens", example="vision", max_length=63
    ),
]
Cpus = Annotated[str, forms.cpus()]
Memory = Annotated[str, forms.memory()]


class Metadata(BaseModel):
    """The part of Kubernetes' ObjectMeta that rayfleet reads; other keys are accepted and kept."""

    model_config = ConfigDict(populate_by_name=True, extra="allow", frozen=True, strict=True)

    name: Name
    namespace: Namespace = "default"
    generation: int = 1


class Registry(ApiModel):
    """Where and how often a registry URI is looked up."""

    tracking_uri: Annotated[
        str | None,
        forms.text(
            rf"https?://[^ {CONTROL}@/?#]+(/[^ {CONTROL}@?#]*)?",
            what="an http:// or https:// address without user, password or query",
            example="http://mlflow.ml:5000",
            max_length=1024,
        ),
    ] = None
    """Address of the MLflow server. Left out: the server named by MLFLOW_TRACKING_URI. Credentials come from the
    environment, never from here."""
    poll_interval: Annotated[str, forms.duration("1s", "24h", example="30s")] = "30s"
    """How often the registry is asked what the URI points at now."""

    @property
    def poll_interval_seconds(self) -> float:
        return quantity.parse_duration(self.poll_interval)


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
            cel="!self.uri.startsWith('file:') || !self.uri.contains('%00')",
            check=lambda model: not model.uri.startswith("file:") or "%00" not in model.uri,
            message="%00 stands for a character that no path holds",
            right="leave it out",
            field="uri",
        ),
    )

    uri: Annotated[
        str,
        forms.text(
            MODEL_URI,
            what="a model URI",
            example="models:/NAME/3, models:/NAME@ALIAS, models:/NAME/Production (Staging, Archived, latest),"
            " models:/m-ID, runs:/ID/PATH, s3://BUCKET/PATH (gs, az, abfs, abfss), file:///PATH or /PATH",
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
    )

    cpu: Cpus = "1"
    """CPUs of each replica."""
    memory: Memory | None = None
    """Memory reserved for each replica. Left out: none is reserved."""
    gpu: Annotated[str | None, forms.gpus()] = None
    """GPUs of each replica. Left out: none."""
    gpu_memory: Memory | None = None
    """GPU memory that a replica can take at most; only with `gpu`. Left out: no cap. Enforced for pytorch, onnx and
    torch-based pyfunc and transformers models; xgboost has no such cap."""

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


Side = Annotated[int, Field(ge=1, le=8192)]
Shift = Annotated[float, Field(ge=-1_000_000, le=1_000_000, allow_inf_nan=False)]
Spread = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]


class ImageTransform(ApiModel):
    """How an uploaded image becomes the model's input: resize, then pixel * scale, then (x - mean) / std."""

    rules: ClassVar = (
        Rule(
            cel="(has(self.mean) ? size(self.mean) : 0) == (has(self.std) ? size(self.std) : 0)",
            check=lambda image: len(image.mean) == len(image.std),
            message="mean and std have different lengths",
            right="give one number of each per channel, or leave both out",
            field="std",
        ),
        Rule(
            cel="!has(self.mean) || size(self.mean) == 0"
            " || size(self.mean) == (has(self.mode) && self.mode == 'L' ? 1 : 3)",
            check=lambda image: len(image.mean) in (0, 1 if image.mode == "L" else 3),
            message="mean does not have one number per channel",
            right="3 numbers for mode RGB, 1 for mode L",
            field="mean",
        ),
    )

    resize: Annotated[list[Side], Field(min_length=2, max_length=2)]
    """Height and width in pixels, in this order."""
    mode: Literal["RGB", "L"] = "RGB"
    """Colour (RGB, 3 channels) or grey (L, 1 channel)."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """Order of the model's axes: batch, channel, height, width."""
    scale: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1 / 255
    """Each pixel, 0 to 255, is multiplied by this first."""
    mean: Annotated[list[Shift], Field(max_length=3)] = Field(default_factory=list)
    """Subtracted from each channel after `scale`."""
    std: Annotated[list[Spread], Field(max_length=3)] = Field(default_factory=list)
    """Each channel is divided by this after `mean`; more than 0."""


class InputTransform(ApiModel):
    """What is done to a request of `/predict` before the model."""

    image: ImageTransform | None = None
    """Take an uploaded image as the model's one input."""


Label = Annotated[
    str,
    forms.text(
        rf"[^{CONTROL}]*[^ {CONTROL}][^{CONTROL}]*",
        what="a label that is not blank, on one line",
        example="tabby cat",
        max_length=256,
    ),
]


def _unique(labels: list[str]) -> list[str]:
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise failure(f"{twice!r} is there twice", "each label once")
    return labels


class ClassificationTransform(ApiModel):
    """How a vector of scores becomes labels with a confidence."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.labelsFile) || !has(self.labels) || size(self.labels) == 0",
            check=lambda classes: classes.labels_file is None or not classes.labels,
            message="labels and labelsFile exclude each other",
            right="keep one of them",
            field="labelsFile",
        ),
    )

    labels: Annotated[
        list[Label],
        Field(max_length=1000, json_schema_extra={"x-kubernetes-list-type": "set"}),
        AfterValidator(_unique),
    ] = Field(default_factory=list)
    """The classes' names in the order of the scores; no name twice. More than 1000: use `labelsFile`."""
    labels_file: Annotated[
        str | None,
        forms.text(
            _path(),
            what="a relative path without . or .. parts",
            example="labels.txt",
            max_length=256,
        ),
    ] = None
    """A text file inside the model's artifacts, one name a line."""
    activation: Literal["Softmax", "Sigmoid", "None"] = "Softmax"
    """How scores become confidences; None when they already are."""
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    """How many of the best labels are answered."""


class OutputTransform(ApiModel):
    """What is done to the model's output before the answer of `/predict`."""

    classification: ClassificationTransform | None = None
    """Answer with labels and confidences."""


class Transform(ApiModel):
    """Work on the CPU around the model, for `/predict` only."""

    input: InputTransform = Field(default_factory=InputTransform)
    """Before the model."""
    output: OutputTransform = Field(default_factory=OutputTransform)
    """After the model."""


class ModelDeploymentSpec(ApiModel):
    """What a person asks for."""

    fleet: Name | None = None
    """ModelFleet in the same namespace to run on. Left out: a fleet of its own."""
    model: Model
    """Which model to serve."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Replicas of each live version."""
    resources: Resources = Resources()
    """What one replica gets."""
    batching: Batching = Batching()
    """How requests are put together into one call of the model."""
    limits: Limits = Limits()
    """What the model accepts."""
    transform: Transform = Field(default_factory=Transform)
    """Work on the CPU around the model, for `/predict` only."""


class ModelDeployment(ApiModel):
    """One model, whatever version of it is live."""

    api_version: Literal["rayfleet.io/v1alpha1"] = "rayfleet.io/v1alpha1"
    kind: Literal["ModelDeployment"] = "ModelDeployment"
    metadata: Metadata
    spec: ModelDeploymentSpec
    """What a person asks for."""
    status: ModelDeploymentStatus = Field(default_factory=ModelDeploymentStatus)
    """What the operator saw last."""


class Routers(ApiModel):
    """The processes that take requests and send them on to models."""

    replicas: Annotated[int, Field(ge=2, le=100)] = 2
    """At least two, so that one can be lost."""
    cpu: Cpus = "1"
    """CPUs of each router."""

    @property
    def cpu_count(self) -> float:
        return quantity.parse_count(self.cpu)


class ModelFleetSpec(ApiModel):
    """What a person asks for."""

    routers: Routers = Routers()
    """The processes that take requests and send them on to models."""


class ModelFleet(ApiModel):
    """What several models share."""

    api_version: Literal["rayfleet.io/v1alpha1"] = "rayfleet.io/v1alpha1"
    kind: Literal["ModelFleet"] = "ModelFleet"
    metadata: Metadata
    spec: ModelFleetSpec = ModelFleetSpec()
    """What a person asks for."""
    status: ModelFleetStatus = Field(default_factory=ModelFleetStatus)
    """What the operator saw last."""
