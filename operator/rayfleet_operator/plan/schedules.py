"""Schedules: which are on at a moment, and when that changes next. The clock is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rayfleet_operator.api import cron
from rayfleet_operator.api.autoscaling import Schedule


@dataclass(frozen=True)
class On:
    """What schedules ask for now."""

    least: int
    """The most replicas that one of those that are on asks for; 0 where none is."""
    name: str
    """Of that schedule; "" where none is on."""
    changes: datetime | None
    """When to ask again at the latest; None where nothing ever changes."""


def on(schedules: Sequence[Schedule], now: datetime) -> On:
    """
    Args:
        schedules: valid ones.
        now: with a time zone.
    """
    least, name, edges = 0, "", []
    for schedule in schedules:
        # One that began within its length before now is on; it was on already if another began before that.
        start = cron.next_start(schedule.start, schedule.time_zone, now - schedule.length)
        if start is None:
            continue
        if start > now:
            edges.append(start)
            continue
        edges.append(start + schedule.length)
        if schedule.min_replicas > least:
            least, name = schedule.min_replicas, schedule.name
    return On(least, name, min(edges, default=None))
