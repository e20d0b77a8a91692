"""Pod templates that people lay over the operator's own.

Only what the operator needs to know is checked: where fields stand, and the names by which lists are merged. The rest
of a pod's spec is what the cluster's version of Kubernetes takes, and is checked when the pods are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer

from rayfleet_operator.api import forms
from rayfleet_operator.api.base import BY_NAME, ApiModel, Rule, add_rules, each_once, failure
from rayfleet_operator.api.patterns import LABEL

HEAD = "ray-head"
WORKER = "ray-worker"

OWNED = ("rayfleet.io/", "ray.io/")
"""Beginnings of labels by which the operator and KubeRay find pods."""


def _keep(schema: dict[str, Any], api_type: type[BaseModel]) -> None:
    add_rules(schema, api_type)
    schema["x-kubernetes-preserve-unknown-fields"] = True


class Open(ApiModel):
    """Base of types that take fields that they do not know."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_keep)


Label = Annotated[
    str,
    forms.text(LABEL, what="a name of lower-case letters, digits and inner hyphens", example="cache", max_length=63),
]


class Volume(Open):
    """Any volume of a pod."""

    name: Label
    """Unique in the pod; the volume of the operator's that has this name is changed."""


class Container(Open):
    """Any container of a pod."""

    name: Label
    """Unique in the pod; the container of the operator's that has this name is changed."""
    image: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    """Its image."""


class Anything(Open):
    """An object of Kubernetes' own, as it knows it."""


class PodSpec(Open):
    """Fields of a pod's spec."""

    containers: Annotated[
        list[Container], Field(max_length=16, json_schema_extra=BY_NAME), AfterValidator(each_once)
    ] = Field(default_factory=list)
    """Containers, the one that Ray runs in among them."""
    init_containers: Annotated[
        list[Container], Field(max_length=16, json_schema_extra=BY_NAME), AfterValidator(each_once)
    ] = Field(default_factory=list)
    """Containers that run before."""
    volumes: Annotated[list[Volume], Field(max_length=64, json_schema_extra=BY_NAME), AfterValidator(each_once)] = (
        Field(default_factory=list)
    )
    """Volumes."""
    node_selector: Anything | None = None
    """Labels that nodes must have."""
    tolerations: Annotated[list[Anything], Field(max_length=64)] | None = None
    """Taints of nodes that do not keep the pods away."""


class PodMetadata(ApiModel):
    """What pods carry beside what the operator and KubeRay write there."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.labels) || !self.labels.exists(key, key == 'app.kubernetes.io/managed-by'"
            + "".join(f" || key.startsWith('{prefix}')" for prefix in OWNED)
            + ")",
            check=lambda metadata: (
                not any(key == "app.kubernetes.io/managed-by" or key.startswith(OWNED) for key in metadata.labels)
            ),
            message="the operator and KubeRay set the labels of rayfleet.io/, ray.io/ and app.kubernetes.io/managed-by",
            right="leave them out",
            field="labels",
        ),
    )

    labels: Annotated[
        dict[
            str,
            Annotated[
                str,
                forms.text(
                    r"([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?",
                    what="the value of a label",
                    example="vision",
                    max_length=63,
                ),
            ],
        ],
        Field(max_length=64),
    ] = Field(default_factory=dict)
    """Labels."""
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=16384)]], Field(max_length=64)] = Field(
        default_factory=dict
    )
    """Annotations."""


class Template(ApiModel):
    """A pod template, as in a Deployment."""

    metadata: PodMetadata = Field(default_factory=PodMetadata)
    """Labels and annotations."""
    spec: PodSpec = Field(default_factory=PodSpec)
    """Any fields of a pod's spec."""


DEEPEST = 64
"""Levels of a template; Kubernetes' own fields have less than twenty. The API server takes thousands, and no rule can
count them, but whoever merges templates does so level by level."""


def _as_written(template: Template) -> dict[str, Any]:
    written = template.model_dump(by_alias=True, exclude_unset=True)
    level: list[Any] = [written]
    for _ in range(DEEPEST):
        parts = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for part in parts for each in part]
    if level:
        raise failure(f"it is nested more than {DEEPEST} levels deep", "what Kubernetes has a use for")
    return written


if TYPE_CHECKING:
    PodTemplate = dict[str, Any]
else:
    PodTemplate = Annotated[Template, AfterValidator(_as_written), PlainSerializer(lambda template: template)]
"""A pod template as plain values, exactly as it was written."""


def own_container(name: str) -> Rule:
    """The rule of an object with a `template` for pods in which Ray runs in the container `name`."""
    inside = "self.template.spec.containers"
    given = " || ".join(f"!has({path})" for path in ("self.template", "self.template.spec", inside))
    return Rule(
        cel=f"{given} || {inside}.all(each, each.name == '{name}' || has(each.image))",
        check=lambda pod: all(
            each["name"] == name or "image" in each for each in _spec(pod.template).get("containers", [])
        ),
        message=f"a container beside {name} has no image",
        right=f"name it {name} to change Ray's own container, or give it an image",
        field="template.spec.containers",
    )


def _spec(template: Mapping[str, Any]) -> Mapping[str, Any]:
    spec: Mapping[str, Any] = template.get("spec", {})
    return spec
