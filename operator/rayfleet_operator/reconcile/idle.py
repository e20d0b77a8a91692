"""Ray clusters that KubeRay has dropped, and when each of them may go.

KubeRay itself would keep them for a day, for the case that no operator is there to turn the Service. While one is, they
go as soon as nobody misses them: their nodes may be what the next cluster waits for.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rayfleet_operator.plan.switch import Clusters

HOPELESS = timedelta(minutes=10)
"""How long a cluster may serve nothing before it goes although the Service leads there: no other answers yet."""


class Idle:
    """Since when nobody has missed them."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    def over(self, clusters: Clusters, follow: str | None, after: timedelta, now: datetime) -> list[str]:
        """The clusters to delete.

        Args:
            follow: where the Service is to lead.
            after: how long after the last new request.
        """
        known = {clusters.active, clusters.pending}
        # Where KubeRay calls none its own, and builds none, it has not said anything yet.
        dropped = clusters.by_name.keys() - known if known & clusters.by_name.keys() else set()
        limits = {name: after for name in dropped if name not in (follow, clusters.followed)}
        limits |= {name: HOPELESS for name in dropped - limits.keys() if clusters.by_name[name].serves is False}
        self._since = {name: self._since.get(name, now) for name in limits}
        return sorted(name for name, limit in limits.items() if now - self._since[name] > limit)
