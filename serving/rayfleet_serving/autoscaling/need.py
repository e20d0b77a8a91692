"""How many replicas one version needs by its load: the larger of what its requests and what its latency ask for.

Pure: no clock, no Ray. The replicas, the simulator and the control path ask the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rayfleet_serving.config import WINDOW_BUCKETS, latency_bound

REFUSED = WINDOW_BUCKETS - 1
"""The bucket of requests that were refused, or came too late: above every target."""

MOST_GROWTH = 2.0
"""A latency above its target asks for this multiple of the replicas at most: what a queue makes of a latency says
that there are too few replicas, and not how many are missing."""

IDLE_SHARE = 0.5
"""Replicas that use less than this share of what they have been seen to do in time are not what a request waits for.
More of them would take as long, so latency alone asks for no more; nor does the latency of a queue that is gone."""

FULL_SHARE = 0.8
"""How much of the time replicas may compute once there are fewer. Above it, queues grow faster than they should: in an
M/D/1 queue the mean wait is two services at 0.8, and 4.5 at 0.9 (Pollaczek-Khinchine)."""

SPARE = 0.8
"""The part of a latency target that fewer replicas may need, as far as can be said beforehand: what they would take is
known to a fifth at best, and a replica that is given back to be missed has to start again."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What the replicas are to keep to."""

    ongoing: float
    """Requests of each replica, waiting and under way. Above 0."""
    percentile: int = 99
    """Percent of the requests that must be answered within `latency_s`."""
    latency_s: float | None = None
    """Longest time at this percentile, in seconds. None: latency asks for nothing."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One version's load over the look-back period, by all routers and replicas."""

    ongoing: float
    """Mean number of requests that waited or were under way."""
    latency: Mapping[int, int] = field(default_factory=dict)
    """Answered requests by the index of their bucket, see `config.latency_bucket`."""
    busy: float = 0.0
    """Mean share of the time for which a replica computed, from 0 to 1."""
    used: float | None = None
    """Mean share of what a replica could compute in time if its batches were fuller, from 0 to 1. None: as `busy`."""
    proven: float | None = None
    """The same by batches as full as requests lately made them: some can share none. None: as `busy`."""


@dataclass(frozen=True)
class Need:
    """How many replicas, and why."""

    replicas: int
    """Before any bound; 0 where nothing is asked."""
    reason: str
    """For people, like "p99 312 ms > 200 ms"."""
    stays: bool = False
    """What there is does not keep to its goal, or has all it can do: those that are still to come are needed, too."""


def percentile(latency: Mapping[int, int], percent: int) -> float | None:
    """Seconds within which `percent` of the requests were answered, to the bound of a bucket; None where there are too
    few to say: of less than 100 requests the 99th percentile is the slowest one, whatever made it slow."""
    total = sum(latency.values())
    if total * (100 - percent) < 100:
        return None
    left = math.ceil(total * percent / 100)
    for bucket in sorted(latency):
        left -= latency[bucket]
        if left <= 0:
            return latency_bound(bucket)
    return None


def need(load: Load, goal: Goal, replicas: int) -> Need:
    """What `replicas` replicas under this load should be.

    By requests, `ceil(ongoing / target)` (Little's law gives the mean number of requests). By latency, more replicas in
    the ratio of latency to target while replicas are what requests wait for. And never so few that those which stay
    would compute for more than `FULL_SHARE` of the time, in batches as full as a latency target lets them be, or would
    be late: few requests wait where there are enough replicas, and were some taken away for that, they would be missed
    at once.
    """
    # A hair above a whole number is no further replica: means of floats. A hair above nothing is a request.
    by_requests = max(math.ceil(round(load.ongoing / goal.ongoing, 6)), int(load.ongoing > 0))
    most = Need(by_requests, f"{load.ongoing:.3g} requests, {goal.ongoing:g} for each replica")
    if replicas == 0 or by_requests == 0:
        return most
    measured = percentile(load.latency, goal.percentile)
    if goal.latency_s is not None and measured is not None and measured > goal.latency_s:
        most = replace(most, stays=True)
        name = f"p{goal.percentile}"
        text = f"{name} {_shown(measured)} > {_shown(goal.latency_s)}"
        if measured >= latency_bound(REFUSED):
            text = f"{name} > {_shown(goal.latency_s)}: requests were refused, or came too late"
        share, work = _share(load.busy, load.proven)
        if share < IDLE_SHARE:
            idle = Need(replicas, f"{text}, though {work}: more would be no faster", stays=True)
            return max(idle, most, key=_size)
        growth = min(measured / goal.latency_s, MOST_GROWTH)
        return max(Need(math.ceil(replicas * growth), text, stays=True), most, key=_size)
    share, work = _share(load.busy, load.used)
    # It only keeps replicas that there are, and asks for no further ones.
    kept = Need(min(replicas, math.ceil(round(replicas * share / FULL_SHARE, 6))), work)
    if goal.latency_s is not None and measured is not None:
        needed = _in_time(share, measured / (SPARE * goal.latency_s), replicas, kept.replicas)
        if needed > kept.replicas:
            text = f"p{goal.percentile} {_shown(measured)}: with fewer replicas it would come near"
            kept = Need(needed, f"{text} {_shown(goal.latency_s)}")
    found = max(most, kept, key=_size)
    return replace(found, stays=True) if share > FULL_SHARE else found


def _in_time(share: float, latency: float, replicas: int, least: int) -> int:
    """How few of `replicas`, `least` of them or more, would keep to what `latency` is a part of.

    Of fewer, each does more: waits grow like 1 / (1 - share), as in an M/M/1 queue. Below `IDLE_SHARE` it is not for
    them that requests wait, and no more would be asked for.
    """
    for fewer in range(max(1, least), replicas):
        more = share * replicas / fewer
        if more < IDLE_SHARE or latency * (1 - share) / (1 - more) <= 1:
            return fewer
    return replicas


def held(wanted: int, target: int, *, stays: bool) -> int:
    """`wanted`, of which `Need.stays` is known, where there are to be `target` replicas: some may be on their way, or
    on a machine that was lost, and only those that there are say what they need."""
    return max(wanted, target) if stays else wanted


def _share(busy: float, used: float | None) -> tuple[float, str]:
    """How much of what they can do replicas do, and that in words."""
    if used is None:
        return busy, f"replicas compute for {busy:.0%} of the time"
    return used, f"replicas use {used:.0%} of what they can do"


def _size(need: Need) -> int:
    return need.replicas


def _shown(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
