"""Worker groups of a ModelFleet: pods of one kind, and where Kubernetes puts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from rayfleet_operator.api import forms, quantity
from rayfleet_operator.api.base import ApiModel, Rule
from rayfleet_operator.api.patterns import KUBERNETES_RESOURCE, LABEL, LABEL_KEY, LABEL_VALUE, NAME_LENGTH
from rayfleet_operator.api.template import WORKER, PodTemplate, own_container
from rayfleet_operator.api.types import Accelerator, Cpus, Memory

Image = Annotated[
    str,
    forms.text(
        r"[a-zA-Z0-9][-a-zA-Z0-9._/:@]*",
        what="an image reference",
        example="example.com/rayfleet-serving:0.1.0",
        max_length=512,
    ),
]

LabelKey = Annotated[
    str, forms.text(LABEL_KEY, what="the name of a label", example="cloud.google.com/gke-accelerator", max_length=317)
]
LabelValue = Annotated[str, forms.text(LABEL_VALUE, what="the value of a label", example="nvidia-l4", max_length=63)]


class Toleration(ApiModel):
    """A taint of nodes that does not keep the pods away, as in a pod's spec."""

    rules: ClassVar = (
        Rule(
            cel="has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            check=lambda each: each.key is not None or each.operator == "Exists",
            message="without a key every taint is meant",
            right="give key, or operator: Exists",
            field="key",
        ),
        Rule(
            cel="!has(self.value) || !has(self.operator) || self.operator == 'Equal'",
            check=lambda each: each.value is None or each.operator != "Exists",
            message="value has no effect with the operator Exists",
            right="leave one of them out",
            field="value",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            check=lambda each: each.toleration_seconds is None or each.effect == "NoExecute",
            message="tolerationSeconds has no effect but with NoExecute",
            right="leave it out, or write effect: NoExecute",
            field="tolerationSeconds",
        ),
    )

    key: LabelKey | None = None
    """The taint's key. Left out, with the operator Exists: every taint."""
    operator: Literal["Equal", "Exists"] | None = None
    """Left out: Equal."""
    value: LabelValue | None = None
    """The taint's value; only with Equal. Left out: empty."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Left out: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = None
    """How long a pod stays on a node that gets the taint; only with NoExecute. Left out: for ever."""


def _of_gpus(field: str, value: Callable[[Any], object]) -> Rule:
    return Rule(
        cel=f"!has(self.{field}) || has(self.gpu)",
        check=lambda group: value(group) is None or group.gpu is not None,
        message=f"{field} has no effect without gpu",
        right="give gpu too, or leave it out",
        field=field,
    )


class WorkerGroup(ApiModel):
    """Pods of one kind on which routers and models run."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.maxReplicas) || self.maxReplicas >= self.minReplicas",
            check=lambda group: group.max_replicas is None or group.max_replicas >= group.min_replicas,
            message="maxReplicas is less than minReplicas",
            right="at least minReplicas, or leave it out for a fixed number",
            field="maxReplicas",
        ),
        Rule(
            cel="self.name != 'headgroup'",
            check=lambda group: group.name != "headgroup",
            message="headgroup is what KubeRay calls the head",
            right="choose another name",
            field="name",
        ),
        _of_gpus("accelerator", lambda group: group.accelerator),
        _of_gpus("gpuResource", lambda group: group.gpu_resource),
        _of_gpus("gpuMemory", lambda group: group.gpu_memory),
        Rule(
            cel="!has(self.nodeSelector) || self.nodeSelector.size() == 0"
            " || !has(self.template) || !has(self.template.spec) || !has(self.template.spec.nodeSelector)",
            check=lambda group: not group.node_selector or _of_pod(group, "nodeSelector") is None,
            message="template has a node selector as well",
            right="give one of them",
            field="nodeSelector",
        ),
        Rule(
            cel="!has(self.tolerations) || self.tolerations.size() == 0"
            " || !has(self.template) || !has(self.template.spec) || !has(self.template.spec.tolerations)",
            check=lambda group: not group.tolerations or _of_pod(group, "tolerations") is None,
            message="template has tolerations as well",
            right="give one of them",
            field="tolerations",
        ),
        Rule(
            cel="!has(self.image) || !has(self.template) || !has(self.template.spec)"
            " || !has(self.template.spec.containers)"
            f" || !self.template.spec.containers.exists(each, each.name == '{WORKER}' && has(each.image))",
            check=lambda group: (
                group.image is None
                or not any(
                    each["name"] == WORKER and each.get("image") is not None
                    for each in _of_pod(group, "containers") or ()
                )
            ),
            message=f"template gives {WORKER} an image as well",
            right="give one of them",
            field="image",
        ),
        own_container(WORKER),
    )

    name: Annotated[
        str,
        forms.text(
            LABEL,
            what="a name of lower-case letters, digits and inner hyphens",
            example="gpu-a10",
            max_length=NAME_LENGTH,
        ),
    ]
    """Unique in the fleet."""
    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods that there always are."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Pods that Ray's autoscaler may go up to. Left out: always `minReplicas`."""
    cpu: Cpus = "2"
    """CPUs of each pod: limit and request."""
    memory: Memory = "4Gi"
    """Memory of each pod: limit and request."""
    gpu: Annotated[int, Field(ge=1, le=99)] | None = None
    """GPUs of each pod, counted in `gpuResource`. Left out: none."""
    gpu_resource: (
        Annotated[
            str,
            forms.text(
                KUBERNETES_RESOURCE,
                what="the name of a Kubernetes resource, with its domain",
                example="nvidia.com/mig-1g.10gb or nvidia.com/gpu.shared",
                max_length=317,
            ),
        ]
        | None
    ) = None
    """What Kubernetes calls them: a part of a GPU that MIG makes, a time-sliced one, another maker's. To Ray and to
    models each is one GPU. Left out: nvidia.com/gpu."""
    gpu_memory: Memory | None = None
    """Memory of each of them, for the sums: replicas that ask for more `gpuMemory` together are not put on one. Left
    out: not known, and `gpuMemory` of models is not summed."""
    accelerator: Accelerator | None = None
    """What kind of GPU they are. Models that ask for it by `resources.accelerator` run here; those that do not ask run
    on any kind. Left out: no model can ask for them by their kind."""
    spot: bool = Field(default_factory=lambda: False)
    """Whether its machines may be taken away at any moment. Routers run on others as long as the fleet has any. The
    nodes themselves are chosen by `nodeSelector` and `tolerations`."""
    image: Image | None = None
    """The image of these pods alone, with the same version of Ray. Left out: the fleet's."""
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Labels that nodes must have; not together with one in `template`."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default_factory=list)
    """Taints of nodes that do not keep the pods away; not together with those of `template`."""
    template: PodTemplate = Field(default_factory=dict)
    """A pod template that is merged over the operator's own, for requests below the limits, volumes and the like; the
    container is `ray-worker`."""

    @property
    def ceiling(self) -> int:
        """Most pods there may be."""
        return self.min_replicas if self.max_replicas is None else self.max_replicas

    @property
    def gpu_memory_bytes(self) -> int | None:
        """Of each GPU; None where it is not known."""
        return None if self.gpu_memory is None else quantity.parse_bytes(self.gpu_memory)


def _of_pod(group: WorkerGroup, field: str) -> Any:
    spec: Mapping[str, Any] = group.template.get("spec") or {}
    return spec.get(field)
