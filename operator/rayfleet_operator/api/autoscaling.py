"""How many replicas a model has, where that follows its load."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from rayfleet_operator.api import cron, forms, quantity
from rayfleet_operator.api.base import BY_NAME, ApiModel, Rule, each_once
from rayfleet_operator.api.patterns import LABEL

UPSCALE_DELAY, DOWNSCALE_DELAY = "30s", "300s"
"""Where nothing is said."""


class LatencyTarget(ApiModel):
    """How long requests may take: waiting, batching and computing together, as their callers see it."""

    percentile: Annotated[int, Field(ge=50, le=99)] = 99
    """Percent of the requests that must be answered within the target."""
    target: Annotated[str, forms.duration("1ms", "1h", example="200ms")]
    """Longest time at this percentile. Shorter than `limits.requestTimeout`."""

    @property
    def target_seconds(self) -> float:
        return quantity.parse_duration(self.target)


class Schedule(ApiModel):
    """A known time of more load: replicas are there before it."""

    name: Annotated[
        str,
        forms.text(
            LABEL, what="a name of lower-case letters, digits and inner hyphens", example="mornings", max_length=40
        ),
    ]
    """Unique in the list."""
    start: Annotated[
        str,
        forms.text(
            cron.EXPRESSION,
            what="a cron expression of five fields",
            example="30 8 * * MON-FRI",
            max_length=cron.LONGEST,
        ),
        AfterValidator(cron.valid_cron),
    ]
    """When it begins: minute, hour, day of month, month, day of week."""
    time_zone: Annotated[
        str,
        forms.text(cron.ZONE, what="the name of a time zone", example="Europe/Berlin", max_length=64),
        AfterValidator(cron.valid_zone),
    ] = "UTC"
    """Where that is the time, as in the IANA database."""
    duration: Annotated[str, forms.duration("1m", "168h", example="2h")]
    """How long it lasts."""
    min_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Replicas that there are at least, meanwhile. More than `minReplicas` of the model."""

    @property
    def length(self) -> timedelta:
        return timedelta(seconds=quantity.parse_duration(self.duration))


def _moves(field: str, *, default: str | None = None) -> Rule:
    """A field that says how a number of replicas moves, where it never does. Schedules ask for more than `minReplicas`
    and no more than `maxReplicas`, so there is none either."""
    name = re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", field)
    left_out = f"!has(self.{field})" if default is None else f"self.{field} == '{default}'"
    return Rule(
        cel=f"{left_out} || self.minReplicas != self.maxReplicas",
        check=lambda scaling: getattr(scaling, name) == default or scaling.min_replicas != scaling.max_replicas,
        message=f"{field} has no effect where minReplicas and maxReplicas are one number",
        right="leave it out, or raise maxReplicas",
        field=field,
    )


class Autoscaling(ApiModel):
    """How the number of replicas follows the load. Of what the requests and what their latency ask for, the larger."""

    rules: ClassVar = (
        Rule(
            # What is out of its own bounds is refused for that alone.
            cel="self.minReplicas > 1000 || self.maxReplicas < 1 || self.maxReplicas >= self.minReplicas",
            check=lambda scaling: scaling.max_replicas >= scaling.min_replicas,
            message="maxReplicas is less than minReplicas",
            right="at least minReplicas",
            field="maxReplicas",
        ),
        Rule(
            cel="!has(self.scaleToZeroDelay) || self.minReplicas == 0",
            check=lambda scaling: scaling.scale_to_zero_delay is None or scaling.min_replicas == 0,
            message="scaleToZeroDelay has no effect where minReplicas is not 0",
            right="write minReplicas: 0, or leave scaleToZeroDelay out",
            field="scaleToZeroDelay",
        ),
        Rule(
            cel="!has(self.schedules)"
            " || self.schedules.all(i, i.minReplicas > 1000 || i.minReplicas <= self.maxReplicas)",
            check=lambda scaling: all(each.min_replicas <= scaling.max_replicas for each in scaling.schedules),
            message="a schedule asks for more than maxReplicas",
            right="raise maxReplicas, or lower the schedule's minReplicas",
            field="schedules",
        ),
        Rule(
            cel="!has(self.schedules) || self.schedules.all(i, i.minReplicas < 1 || i.minReplicas > self.minReplicas)",
            check=lambda scaling: all(each.min_replicas > scaling.min_replicas for each in scaling.schedules),
            message="a schedule asks for no more than minReplicas and has no effect",
            right="raise the schedule's minReplicas, or lower minReplicas",
            field="schedules",
        ),
        # `latency` has an effect: by it a model of higher priority is held to be too slow.
        _moves("upscaleStep"),
        _moves("downscaleStep"),
        _moves("upscaleDelay", default=UPSCALE_DELAY),
        _moves("downscaleDelay", default=DOWNSCALE_DELAY),
    )

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Replicas that there always are. 0: without requests the last one goes, too, and the first request wakes the model
    and waits for it."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Most replicas of each live version."""
    target_ongoing_requests: Annotated[int, Field(ge=1, le=100_000)] = 50
    """Requests of each replica that wait or are under way."""
    latency: LatencyTarget | None = None
    """How long requests may take. Models of a lower `priority` on the same GPU yield while they take longer. Left out:
    latency asks for no replicas."""
    look_back_period: Annotated[str, forms.duration("1s", "10m", example="30s")] = "30s"
    """How long the time is over which requests and latencies are counted."""
    upscale_delay: Annotated[str, forms.duration("0s", "1h", example="30s")] = UPSCALE_DELAY
    """How long more replicas must be needed before they are started."""
    downscale_delay: Annotated[str, forms.duration("0s", "24h", example="300s")] = DOWNSCALE_DELAY
    """How long fewer replicas must be needed before the others are stopped."""
    scale_to_zero_delay: Annotated[str | None, forms.duration("0s", "24h", example="10m")] = None
    """How long there must be no request before the last replica is stopped; only with `minReplicas` 0. Left out:
    `downscaleDelay`."""
    upscale_step: Annotated[int | None, Field(ge=1, le=1000)] = None
    """Most replicas started at a time, each step after an `upscaleDelay` of its own. Left out: as many as are
    needed."""
    downscale_step: Annotated[int | None, Field(ge=1, le=1000)] = None
    """Most replicas stopped at a time, each step after a `downscaleDelay` of its own. Left out: all that are too
    many."""
    schedules: Annotated[list[Schedule], Field(max_length=16, json_schema_extra=BY_NAME), AfterValidator(each_once)] = (
        Field(default_factory=list)
    )
    """Known times of more load. Where several are on, the one that asks for most counts."""

    @property
    def look_back_seconds(self) -> float:
        return quantity.parse_duration(self.look_back_period)

    @property
    def upscale_delay_seconds(self) -> float:
        return quantity.parse_duration(self.upscale_delay)

    @property
    def downscale_delay_seconds(self) -> float:
        return quantity.parse_duration(self.downscale_delay)

    @property
    def scale_to_zero_delay_seconds(self) -> float:
        """`downscaleDelay` where none is given."""
        return quantity.parse_duration(self.scale_to_zero_delay or self.downscale_delay)
