"""Which schedules are on, by an injected clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rayfleet_operator.api.autoscaling import Schedule
from rayfleet_operator.plan import schedules


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def schedule(name: str = "mornings", **fields: Any) -> Schedule:
    given = {"name": name, "start": "30 8 * * MON-FRI", "duration": "2h", "minReplicas": 4}
    return Schedule.model_validate({**given, **fields})


@pytest.mark.parametrize(
    ("now", "least", "changes"),
    [
        ("2026-06-01T08:29:59", 0, "2026-06-01T08:30"),
        ("2026-06-01T08:30", 4, "2026-06-01T10:30"),
        ("2026-06-01T10:29:59.9", 4, "2026-06-01T10:30"),
        ("2026-06-01T10:30", 0, "2026-06-02T08:30"),
        ("2026-06-06T09:00", 0, "2026-06-08T08:30"),
    ],
)
def test_a_schedule_is_on_from_its_start_for_its_duration(now: str, least: int, changes: str) -> None:
    on = schedules.on([schedule()], at(now))
    assert (on.least, on.name, on.changes) == (least, "mornings" if least else "", at(changes))


def test_of_several_that_are_on_the_one_that_asks_for_most_counts() -> None:
    both = [schedule(), schedule("all-day", start="0 0 * * *", duration="24h", minReplicas=2)]
    assert schedules.on(both, at("2026-06-01T09:00")) == schedules.On(4, "mornings", at("2026-06-01T10:30"))
    assert schedules.on(both, at("2026-06-01T11:00")) == schedules.On(2, "all-day", at("2026-06-02T00:00"))


def test_one_that_begins_again_before_it_ends_stays_on() -> None:
    often = schedule(start="*/30 * * * *", duration="1h")
    for minute in range(120):
        now = at(f"2026-06-01T{minute // 60:02}:{minute % 60:02}")
        on = schedules.on([often], now)
        assert on.least == 4
        assert on.changes is not None
        assert on.changes > now


@pytest.mark.parametrize(
    ("now", "least"),
    [("2026-03-28T07:00", 0), ("2026-03-28T08:00", 4), ("2026-03-29T07:00", 4), ("2026-10-25T07:30", 0)],
)
def test_it_follows_the_clock_of_its_zone(now: str, least: int) -> None:
    nine = schedule(start="0 9 * * *", timeZone="Europe/Berlin", duration="30m")
    assert schedules.on([nine], at(now)).least == least


def test_none_is_on_where_there_is_none() -> None:
    assert schedules.on([], at("2026-06-01T00:00")) == schedules.On(0, "", None)
