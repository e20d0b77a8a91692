"""Versions that answer beside the one that the model's URI means, or that only get copies of its requests."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from rayfleet_operator.api import forms
from rayfleet_operator.api.base import ApiModel, Rule
from rayfleet_operator.api.patterns import LABEL, MODEL_URI
from rayfleet_operator.api.rollout import Sticky

URI_EXAMPLE = (
    "models:/NAME/3, models:/NAME@ALIAS, models:/NAME/Production (Staging, Archived, latest),"
    " models:/m-ID, runs:/ID/PATH, s3://BUCKET/PATH (gs, az, abfs, abfss), file:///PATH or /PATH"
)

NO_NUL = Rule(
    cel="!self.uri.startsWith('file:') || !self.uri.contains('%00')",
    check=lambda model: not model.uri.startswith("file:") or "%00" not in model.uri,
    message="%00 stands for a character that no path holds",
    right="leave it out",
    field="uri",
)


class NamedVersion(ApiModel):
    """A version that answers beside the model's own, under a name."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.mirror) || !has(self.weight) || self.weight == 0",
            check=lambda version: version.mirror is None or not version.weight,
            message="a version that gets requests of its own gets no copies of others",
            right="give weight or mirror, one of them",
            field="mirror",
        ),
        Rule(
            cel="!self.name.matches('^([0-9]+|m-[0-9a-f]{32})$')",
            check=lambda version: not re.fullmatch(r"[0-9]+|m-[0-9a-f]{32}", version.name, re.ASCII),
            message="in the header x-rayfleet-model-version this stands for a version of the registry",
            right="choose a name that is neither a number nor m- with a model id",
            field="name",
        ),
        NO_NUL,
    )

    name: Annotated[
        str,
        forms.text(LABEL, what="a name of lower-case letters, digits and inner hyphens", example="blue", max_length=40),
    ]
    """What requests ask for it by, in the header x-rayfleet-model-version."""
    uri: Annotated[str, forms.text(MODEL_URI, what="a model URI", example=URI_EXAMPLE, max_length=1024)]
    """Which model, and which version of it, from the registry of `spec.model`. An alias, a stage and `latest` are
    followed when they move."""
    weight: Annotated[int, Field(ge=0, le=99)] = Field(default_factory=int)
    """Percent of the model's requests that it answers, once every router reaches it; what all named versions leave is
    the model's own version's. Left out: 0, so that only those who ask for it by name get it."""
    mirror: Annotated[int | None, Field(ge=1, le=100)] = None
    """Percent of the requests that other versions answer of which it gets a copy. What it answers is thrown away, and
    compared: see the metrics whose names begin with rayfleet_mirror."""
    replicas: Annotated[int | None, Field(ge=1, le=1000)] = None
    """Its replicas. Left out: as many as the model's own version has; with `spec.autoscaling`, as many as its own load
    needs."""


class Traffic(ApiModel):
    """How requests are divided among versions for as long as it stands here."""

    rules: ClassVar = (
        Rule(
            cel="self.versions.all(i, self.versions.exists_one(j, j.name == i.name))",
            check=lambda traffic: len({each.name for each in traffic.versions}) == len(traffic.versions),
            message="two versions have one name",
            right="give each version a name of its own",
            field="versions",
        ),
        # A single one that is too large is refused itself.
        Rule(
            cel="self.versions.map(i, has(i.weight) && i.weight <= 99 ? i.weight : 0).sum() <= 99",
            check=lambda traffic: sum(each.weight for each in traffic.versions) <= 99,
            message="nothing is left for the model's own version",
            right="let the weights sum to 99 at most",
            field="versions",
        ),
        Rule(
            cel="!has(self.sticky) || self.versions.exists(i, has(i.weight) && i.weight > 0)",
            check=lambda traffic: traffic.sticky is None or any(each.weight for each in traffic.versions),
            message="sticky has no effect where no named version has a weight",
            right="give one a weight, or leave sticky out",
            field="sticky",
        ),
    )

    versions: Annotated[list[NamedVersion], Field(min_length=1, max_length=8)]
    """Versions beside the one that `spec.model.uri` means."""
    sticky: Sticky | None = None
    """The same caller stays with the same version. With one or two named versions, callers only ever move between the
    model's own and the one whose weight changes; with more, those of others may move, too. Left out: each request is
    a matter of chance, like those that do not name their caller."""
