"""What of `spec.autoscaling` no API server can tell: days that never come and time zones that there are not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from rayfleet_operator.api import cron
from rayfleet_operator.api.autoscaling import Schedule
from rayfleet_operator.api.problems import described
from rayfleet_operator.api.types import ModelDeployment

MORNING = {"name": "mornings", "start": "30 8 * * MON-FRI", "duration": "2h", "minReplicas": 4}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("start", "0 0 31 2 *", "bad day-of-month"),
        ("start", "0 0 30 FEB *", "bad day-of-month"),
        ("start", "0 18-8 * * *", "bad hour"),
        ("start", "0 0 * * FRI-MON", "bad day-of-week"),
        ("start", "0 0 * ABC *", "bad month"),
        ("timeZone", "Europe/Atlantis", "no time zone"),
        ("timeZone", "CEST5", "no time zone"),
        ("timeZone", "Europe", "no time zone"),
    ],
)
def test_what_names_no_time_is_refused_in_words(field: str, value: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Schedule.model_validate({**MORNING, field: value})
    (detail,) = caught.value.errors(include_url=False)
    assert detail["loc"] == (field,)
    assert words in detail["msg"]
    assert detail["ctx"]["right"]


def test_the_operator_says_which_field_it_is() -> None:
    """Such a ModelDeployment is one that the API server took: its condition says what `rayfleet validate` says."""
    spec = {"model": {"uri": "/a"}, "autoscaling": {"maxReplicas": 9, "schedules": [{**MORNING, "timeZone": "Mars"}]}}
    with pytest.raises(ValidationError) as caught:
        ModelDeployment.model_validate({"metadata": {"name": "a"}, "spec": spec})
    assert "spec.autoscaling.schedules[0].timeZone: 'Mars' is no time zone" in described(caught.value)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "zone", "after", "following"),
    [
        ("30 8 * * *", "UTC", "2026-06-01T08:30", "2026-06-02T08:30"),
        ("30 8 * * *", "UTC", "2026-06-01T08:29:59.999", "2026-06-01T08:30"),
        ("30 8 * * *", "UTC", "2026-06-01T08:30:00.5", "2026-06-02T08:30"),
        ("30 8 * * MON", "Europe/Berlin", "2026-06-03T00:00", "2026-06-08T06:30"),
        # The clock goes from 2 to 3 that night, and from 3 back to 2.
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00", "2026-03-29T01:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:15", "2026-10-25T00:30"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:15", "2026-10-26T01:30"),
    ],
)
def test_the_next_time_that_an_expression_names(expression: str, zone: str, after: str, following: str) -> None:
    assert cron.next_start(expression, zone, at(after)) == at(following)
