"""Which schedules are on, at any second of a run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from rayfleet_operator.api import cron
from rayfleet_operator.api.autoscaling import Schedule


def scheduled(schedules: Sequence[Schedule], began: datetime, lasts_s: float) -> Callable[[float], tuple[int, str]]:
    """Replicas that schedules ask for, the most of those that are on, and the name of that schedule; 0 where none is.

    Args:
        schedules: valid ones.
        began: when second 0 was, with a time zone.
        lasts_s: the last second that is asked for.
    """
    edges: list[tuple[float, int, int, str]] = []
    """Times at which a schedule begins (replicas above 0) or is over (below)."""
    until = began + timedelta(seconds=lasts_s)
    for at, schedule in enumerate(schedules):
        # The one that has begun just before may still be on.
        start = cron.next_start(schedule.start, schedule.time_zone, began - schedule.length)
        while start is not None and start <= until:
            begin = (start - began).total_seconds()
            edges.append((begin, schedule.min_replicas, -at, schedule.name))
            edges.append((begin + schedule.length.total_seconds(), -schedule.min_replicas, -at, schedule.name))
            start = cron.next_start(schedule.start, schedule.time_zone, start)
    times, levels = [-float("inf")], [(0, "")]
    on: list[tuple[int, int, str]] = []
    for time, replicas, at, name in sorted(edges):
        if replicas > 0:
            on.append((replicas, at, name))
        else:
            on.remove((-replicas, at, name))
        most, _, first = max(on, default=(0, 0, ""))
        times.append(time)
        levels.append((most, first))
    return lambda now: levels[bisect_right(times, now) - 1]
