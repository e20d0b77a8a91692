"""How requests move from one version of a model to the next, and what must hold on the way."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from rayfleet_operator.api import forms, quantity
from rayfleet_operator.api.base import BY_NAME, ApiModel, Rule, each_once
from rayfleet_operator.api.patterns import LABEL

Hold = Annotated[str, forms.duration("1s", "168h", example="10m")]


class Step(ApiModel):
    """One step of a canary."""

    weight: Annotated[int, Field(ge=1, le=99)]
    """Percent of the model's requests that the candidate gets."""
    hold: Hold | None = None
    """How long it stays so, from the moment when every router does it. Left out: until somebody says `promote`."""

    @property
    def hold_seconds(self) -> float | None:
        return None if self.hold is None else quantity.parse_duration(self.hold)


class Sticky(ApiModel):
    """What tells the callers of a model apart."""

    rules: ClassVar = (
        Rule(
            cel="has(self.header) != has(self.cookie)",
            check=lambda sticky: (sticky.header is None) != (sticky.cookie is None),
            message="sticky needs header or cookie, one of them",
            right="give one",
            field="header",
        ),
    )

    header: Annotated[
        str | None,
        forms.text(r"[A-Za-z0-9-]+", what="the name of a request header", example="x-user-id", max_length=128),
    ] = None
    """A request header whose value names the caller."""
    cookie: Annotated[
        str | None, forms.text(r"[A-Za-z0-9_.-]+", what="the name of a cookie", example="session", max_length=128)
    ] = None
    """A cookie whose value names the caller."""


class ErrorRate(ApiModel):
    """How many of the candidate's requests may fail: those answered 422, 429 or 5xx."""

    max: Annotated[
        str,
        forms.text(
            r"([0-9]|[1-9][0-9])(\.[0-9]{1,3})?%|100(\.0{1,3})?%", what="a percentage", example="1%", max_length=8
        ),
    ]
    """Most of the requests that may fail."""

    @property
    def max_share(self) -> float:
        """From 0 to 1."""
        return float(self.max[:-1]) / 100


class Latency(ApiModel):
    """How long the candidate may take, from a request's arrival to its answer."""

    rules: ClassVar = (
        Rule(
            cel="has(self.max) || has(self.maxRatioToStable)",
            check=lambda latency: latency.max is not None or latency.max_ratio_to_stable is not None,
            message="latency says no bound",
            right="give max, maxRatioToStable, or both",
            field="max",
        ),
    )

    percentile: Annotated[int, Field(ge=50, le=99)] = 99
    """Percent of the requests that must be answered within the bounds."""
    max: Annotated[str | None, forms.duration("1ms", "1h", example="250ms")] = None
    """Longest time at this percentile."""
    max_ratio_to_stable: Annotated[float | None, Field(ge=1, le=100, allow_inf_nan=False)] = None
    """Longest time at this percentile, as a multiple of what the stable version takes in the same window."""

    @property
    def max_seconds(self) -> float | None:
        return None if self.max is None else quantity.parse_duration(self.max)


class Predictions(ApiModel):
    """How far what the candidate predicts may be from what the stable version predicts in the same window."""

    # Not a bound of the field: of a whole number, the API server compares a bound's whole part.
    rules: ClassVar = (
        Rule(
            cel="self.maxDistance >= 0.01 && self.maxDistance <= 0.99",
            check=lambda predictions: 0.01 <= predictions.max_distance <= 0.99,
            message="maxDistance is from 0.01 to 0.99",
            right="give such a number",
            field="maxDistance",
        ),
    )

    max_distance: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    """Total variation of the two, from 0 to 1: 0.2 means that something may be predicted 20 percentage points more
    often, or less, than by the stable version."""


PLACEHOLDERS = ("namespace", "model", "candidate", "stable", "window")
"""What may stand in double braces in a query. PromQL itself has no double braces."""
WITH_PLACEHOLDERS = rf"([^{{]|[{{][^{{]|[{{][{{]({'|'.join(PLACEHOLDERS)})[}}][}}])*[{{]?"
"""Text in which no other is."""


class Query(ApiModel):
    """A question to Prometheus about the candidate, and what its answer must be."""

    rules: ClassVar = (
        Rule(
            cel="self.name != 'predictions'",
            check=lambda query: query.name != "predictions",
            message="analysis.predictions is told under this name",
            right="choose another one",
            field="name",
        ),
        Rule(
            cel=f"self.query.matches('^{WITH_PLACEHOLDERS}$')",
            check=lambda query: re.fullmatch(WITH_PLACEHOLDERS, query.query) is not None,
            message="query has a placeholder that there is not",
            right=f"there are {', '.join(f'{{{{{name}}}}}' for name in PLACEHOLDERS)}, without blanks",
            field="query",
        ),
        Rule(
            cel="has(self.min) || has(self.max)",
            check=lambda query: query.min is not None or query.max is not None,
            message="the query says no bound",
            right="give min, max, or both",
            field="max",
        ),
        Rule(
            cel="!has(self.min) || !has(self.max) || self.min <= self.max",
            check=lambda query: query.min is None or query.max is None or query.min <= query.max,
            message="no answer is within these bounds",
            right="give a min that is not above max",
            field="min",
        ),
    )

    name: Annotated[
        str,
        forms.text(
            LABEL, what="a name of lower-case letters, digits and inner hyphens", example="error-budget", max_length=63
        ),
    ]
    """What it is called where its answer is told."""
    query: Annotated[str, Field(min_length=1, max_length=4096)]
    """PromQL whose answer is one number. `{{namespace}}` and `{{model}}` stand for the ModelDeployment's own,
    `{{candidate}}` and `{{stable}}` for the two versions as in the label `version` of rayfleet's metrics, and
    `{{window}}` for the time that the candidate has had its present share of the requests, in whole seconds, like
    `120s`."""
    min: Annotated[float | None, Field(ge=-(10**15), le=10**15, allow_inf_nan=False)] = None
    """Least that the answer may be."""
    max: Annotated[float | None, Field(ge=-(10**15), le=10**15, allow_inf_nan=False)] = None
    """Most that the answer may be."""


class Analysis(ApiModel):
    """What must hold of a candidate while it has requests."""

    rules: ClassVar = (
        Rule(
            cel="has(self.errorRate) || has(self.latency) || has(self.predictions)"
            " || (has(self.queries) && size(self.queries) > 0)",
            check=lambda analysis: any((analysis.error_rate, analysis.latency, analysis.predictions, analysis.queries)),
            message="analysis says nothing that must hold",
            right="give errorRate, latency, predictions, or queries",
            field="errorRate",
        ),
    )

    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Requests that the candidate must have answered in a step before the step can pass. With fewer nothing is
    concluded, and the step waits."""
    error_rate: ErrorRate | None = None
    """How many may fail."""
    latency: Latency | None = None
    """How long they may take."""
    predictions: Predictions | None = None
    """How differently it may predict."""
    queries: Annotated[list[Query], Field(max_length=10, json_schema_extra=BY_NAME), AfterValidator(each_once)] = Field(
        default_factory=list
    )
    """What Prometheus must say of it, beyond what routers count. The operator's administrator names the Prometheus."""


STAGED = {"scale_down_delay", "progress_deadline", "analysis", "on_failure"}
"""Fields of a rollout that goes by stages."""


class Rollout(ApiModel):
    """How a new version takes over: when the URI points at another one, or when the spec changes in a way that needs
    new replicas. Weights, sizes and other settings that change in place start none."""

    rules: ClassVar = (
        Rule(
            cel="self.strategy == 'Canary' ? has(self.steps) && size(self.steps) > 0"
            " : !has(self.steps) || size(self.steps) == 0",
            check=lambda rollout: (rollout.strategy == "Canary") == bool(rollout.steps),
            message="steps and strategy do not fit together",
            right="a Canary needs steps, and nothing else has them",
            field="steps",
        ),
        Rule(
            cel="!has(self.steps) || self.steps.all(i, self.steps.exists_one(j, j.weight == i.weight))",
            check=lambda rollout: len({step.weight for step in rollout.steps}) == len(rollout.steps),
            message="two steps have one weight",
            right="give each step a weight of its own",
            field="steps",
        ),
        Rule(
            cel="!has(self.previewHold) || self.strategy == 'BlueGreen'",
            check=lambda rollout: rollout.preview_hold is None or rollout.strategy == "BlueGreen",
            message="previewHold has no effect but with BlueGreen",
            right="leave it out, or give each step of a Canary a hold",
            field="previewHold",
        ),
        Rule(
            cel="!has(self.sticky) || self.strategy == 'Canary'",
            check=lambda rollout: rollout.sticky is None or rollout.strategy == "Canary",
            message="sticky has no effect but with Canary",
            right="leave it out",
            field="sticky",
        ),
        Rule(
            cel="self.strategy != 'Immediate' || !(has(self.scaleDownDelay) || has(self.progressDeadline)"
            " || has(self.analysis) || has(self.onFailure) || (has(self.paused) && self.paused))",
            check=lambda rollout: (
                rollout.strategy != "Immediate" or not (rollout.paused or rollout.model_fields_set & STAGED)
            ),
            message="the strategy is Immediate (as when none is written), which has no stages for the other fields to"
            " have an effect on",
            right="write Canary or BlueGreen, or leave them out",
            field="strategy",
        ),
    )

    strategy: Literal["Canary", "BlueGreen", "Immediate"] = "Immediate"
    """Canary: in steps. BlueGreen: the candidate runs at full size without requests, can be tried out by its version,
    and then gets all of them at once. Immediate: all at once as soon as it is ready."""
    steps: Annotated[list[Step], Field(max_length=20)] = Field(default_factory=list)
    """Of a Canary, taken in the order of their weights; after the last one the candidate gets every request."""
    sticky: Sticky | None = None
    """With a Canary: the same caller stays with the same version while weights grow. Left out: each request is a matter
    of chance, like those that do not name their caller."""
    preview_hold: Hold | None = None
    """With BlueGreen: how long a ready candidate runs without requests. Left out: until somebody says `promote`."""
    scale_down_delay: Annotated[str | None, forms.duration("0s", "168h", example="30s")] = None
    """How long the version before goes on running without requests once the candidate has all of them, so that going
    back takes no time. What must hold of the candidate must hold for as long. Left out: 30s."""
    progress_deadline: Annotated[str, forms.duration("10s", "24h", example="15m")] = Field(
        default_factory=lambda: "15m"
    )
    """How long a candidate may take to become ready; it is then given up. Left out: 15m."""
    analysis: Analysis | None = None
    """What must hold of a candidate while it has requests. Left out: only that routers reach it."""
    on_failure: Literal["Rollback", "Pause"] = Field(default_factory=lambda: "Rollback")
    """When it does not hold. Rollback: the stable version gets every request at once, and the candidate goes. Pause: it
    keeps the requests that it has, and somebody decides. Left out: Rollback."""
    paused: bool = Field(default_factory=bool)
    """Stay at the step where it is, whatever the clock says. What must hold must still hold."""

    @property
    def preview_hold_seconds(self) -> float | None:
        return None if self.preview_hold is None else quantity.parse_duration(self.preview_hold)

    @property
    def scale_down_delay_seconds(self) -> float:
        return 30.0 if self.scale_down_delay is None else quantity.parse_duration(self.scale_down_delay)

    @property
    def progress_deadline_seconds(self) -> float:
        return quantity.parse_duration(self.progress_deadline)
