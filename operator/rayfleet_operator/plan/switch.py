"""Two Ray clusters of one fleet: which one users should reach, and what the other must run before it takes over.

KubeRay builds a second cluster when the fleet's pods change, and turns its own Services to it as soon as Serve calls
every application RUNNING. Its workers need not be ready then, and one application that cannot start blocks it for ever.
The Service that users call is therefore ours, and moves on only when the new cluster was seen to answer for everything
that the old one answers; and a model that does not run on the old cluster is not given to the new one before that.

What is not known is never taken for bad news of the old cluster, nor for good news of the new one.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rayfleet_operator.plan.live import DELETING, DEPLOY_FAILED, RUNNING, UNHEALTHY, RouterView, live_apps
from rayfleet_operator.plan.observed import ObservedFleet
from rayfleet_operator.plan.pods import Trouble
from rayfleet_serving.config import ROUTER_APP, ModelRoute


@dataclass(frozen=True, kw_only=True)
class ObservedCluster:
    """One RayCluster of a fleet."""

    name: str
    created: datetime
    observed: ObservedFleet | None = None
    """What Serve and the routers say; None where Ray's dashboard does not answer."""
    ready_workers: int = 0
    """Worker pods that get requests."""
    troubles: tuple[Trouble, ...] = ()
    """What keeps its pods from running."""

    @property
    def known(self) -> bool:
        """Whether Serve says what it runs. While its controller comes back it answers that there is nothing at all."""
        return self.observed is not None and bool(self.observed.apps)

    def answers(self, app: str) -> bool:
        """Whether requests for this application, sent to any ready worker, are surely answered."""
        return (
            self.observed is not None
            and self.ready_workers > 0
            and app in self.observed.apps
            and self.observed.apps[app].status == RUNNING
            and RouterView.of(self.observed).all_reach(app)
        )

    def runs(self, app: str) -> bool:
        """Whether requests for this application may be answered: it has started, however it fares just now."""
        found = self.observed.apps.get(app) if self.observed is not None else None
        if found is None or found.status == DELETING:
            return False
        return found.status in (RUNNING, UNHEALTHY) or bool(found.replicas_running)

    def tries(self, app: str) -> bool:
        """Whether it was given this application, and has not given it up."""
        found = self.observed.apps.get(app) if self.observed is not None else None
        return found is not None and (self.runs(app) or found.status not in (DEPLOY_FAILED, DELETING))

    @property
    def routes(self) -> bool:
        """Whether every router of it that there should be answers, and holds the table it was given."""
        return self.observed is not None and self.ready_workers > 0 and RouterView.of(self.observed).settled

    @property
    def serves(self) -> bool | None:
        """Whether it may answer for any model; None where that is not known."""
        if not self.ready_workers:
            return False
        return bool(_served(self)) if self.known else None

    @property
    def dead(self) -> bool:
        """Whether nothing answers there, and not for a moment only: no worker is ready, and Serve has no replica, or
        says nothing at all. The replicas of a worker that misses a check go on running."""
        apps = self.observed.apps.values() if self.observed is not None else ()
        return not self.ready_workers and not any(app.status == RUNNING or app.replicas_running for app in apps)


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """A fleet's clusters, as KubeRay and our Service speak of them."""

    by_name: Mapping[str, ObservedCluster]
    followed: str | None = None
    """Where our Service sends requests now."""
    active: str | None = None
    """KubeRay's active cluster: the one whose turn it is, in its eyes."""
    pending: str | None = None
    """The one KubeRay builds, and gives every new Serve config."""
    reached: bool
    """Whether routers answer at the fleet's address. Workers may be ready for seconds before a Service leads to them,
    and gone for seconds before it no longer does."""

    @property
    def serving(self) -> ObservedCluster | None:
        """The one whose state counts: the followed one, as long as it is there."""
        for name in (self.followed, self.active, self.pending):
            if name is not None and name in self.by_name:
                return self.by_name[name]
        return None

    @property
    def coming(self) -> tuple[ObservedCluster, ...]:
        """Those that may take over from `serving`, the newest first."""
        serving = self.serving
        if serving is None or serving.name == self.pending:
            # It is the newest. The active one is older, and goes when KubeRay makes this one its own.
            return ()
        found = (self.by_name.get(name) for name in (self.pending, self.active) if name is not None)
        return tuple(each for each in found if each is not None and each.name != serving.name)

    @property
    def next(self) -> ObservedCluster | None:
        """The one that is to take over from `serving`; None when there is none."""
        return next(iter(self.coming), None)

    @property
    def replaced(self) -> ObservedCluster | None:
        """The one that `serving` took over from before KubeRay calls it its own."""
        serving = self.serving
        if serving is None or self.active is None or serving.name != self.pending or self.active == self.pending:
            return None
        return self.by_name.get(self.active)

    @property
    def first(self) -> ObservedCluster | None:
        """A fleet's very first cluster, as long as KubeRay does not call it its own."""
        serving = self.serving
        own = self.active in self.by_name
        return serving if serving is not None and serving.name == self.pending and not own else None


def follow(clusters: Clusters) -> str | None:
    """The cluster that our Service should send requests to; None while there is none."""
    serving, replaced = clusters.serving, clusters.replaced
    if serving is None:
        return None
    if replaced is not None and _helps_out(replaced, serving):
        return replaced.name
    return next((each.name for each in clusters.coming if _takes_over(serving, each)), serving.name)


def _takes_over(serving: ObservedCluster, following: ObservedCluster) -> bool:
    """Whether `following` answers for every model that `serving` may answer for.

    Where `serving` is dead, one model is enough. KubeRay gives a cluster that it replaces no config any more, so a head
    that lost its memory gets no model back; and to wait for all models on the other one would be to serve none for as
    long as a single one finds no GPU. Should it not be dead after all, `_helps_out` leads back to it.
    """
    observed = following.observed
    if observed is None or observed.table is None or not following.routes:
        return False
    table = observed.table.models
    # A model that its table does not name was deleted meanwhile.
    if serving.known and all(_answered(following, table[name]) for name in _served(serving) if name in table):
        return True
    given = [app for route in table.values() for app in _weighted(route) if app in observed.apps]
    if serving.dead:
        # What the other has given up is no loss.
        tried = [app for app in given if following.tries(app)]
        return not tried or any(following.answers(app) for app in tried)
    # What does not tell may answer for a lot, and where there is no model yet, nothing is won.
    return not serving.known and bool(given) and all(following.answers(app) for app in given)


def _helps_out(replaced: ObservedCluster, serving: ObservedCluster) -> bool:
    """Whether requests should go back to `replaced`, which KubeRay still has: what took over from it has died; or it
    answers for less, and for nothing that `replaced` does not answer for with the same versions."""
    if not replaced.serves or not replaced.routes:
        return False
    if serving.serves is False:
        return True
    if not serving.known:
        return False
    before, after = _rows(replaced), _rows(serving)
    answered = {
        name
        for name in before.keys() & after.keys()
        if _weighted(before[name]) == _weighted(after[name]) and _answered(replaced, before[name])
    }
    return _served(serving) < answered


def _rows(cluster: ObservedCluster) -> Mapping[str, ModelRoute]:
    """The table that its routers were given, by model."""
    table = cluster.observed.table if cluster.observed is not None else None
    return table.models if table is not None else {}


def _weighted(route: ModelRoute) -> set[str]:
    """Applications that get requests by this row."""
    return {row.app for row in route.versions if row.weight > 0}


def _answered(cluster: ObservedCluster, route: ModelRoute) -> bool:
    """Whether every version that gets requests by this row is answered, and one that is tried out without any."""
    weighted, mark = _weighted(route), route.rollout
    tried = {mark.candidate} if mark is not None and mark.stage >= 0 and not mark.ended else set()
    return bool(weighted) and all(cluster.answers(app) for app in weighted | tried)


def _served(cluster: ObservedCluster) -> set[str]:
    """Models that get requests there, and may answer."""
    if cluster.observed is None:
        return set()
    if cluster.observed.table is None:
        # Written under another contract; what runs may have requests.
        return {app.model for name, app in live_apps(cluster.observed).items() if cluster.runs(name)}
    return {
        name
        for name, route in cluster.observed.table.models.items()
        if any(row.weight > 0 and cluster.runs(row.app) for row in route.versions)
    }


def admitted(config: dict[str, Any], clusters: Clusters, given: Container[str]) -> dict[str, Any]:
    """The Serve config for the cluster that KubeRay gives it to.

    Until KubeRay has made a new cluster its own, an application that does not run on the old one is left out: nobody
    misses it there, and KubeRay would wait for it, and keep both clusters, for ever.

    Args:
        given: names of the applications that KubeRay was given last; where nothing is known of the old cluster, nothing
            is added and nothing taken away.
    """
    serving = clusters.serving
    if clusters.pending is None or serving is None or clusters.first is not None:
        return config
    target = clusters.by_name.get(clusters.pending)

    def belongs(app: str) -> bool:
        if app == ROUTER_APP or (target is not None and target.tries(app)):
            return True
        return app in given if not serving.known else serving is not target and serving.runs(app)

    return {**config, "applications": [app for app in config["applications"] if belongs(app["name"])]}


def fragile(clusters: Clusters, deadline: timedelta, now: datetime) -> bool:
    """Whether a change of the fleet's pods should wait: KubeRay would delete, a minute later, a cluster that may answer
    and that it will soon call its own.

    Not where that took longer than `deadline`: what keeps KubeRay from it may be what the change is to put right.
    """
    first = clusters.first
    return first is not None and first.serves is not False and not overdue(first, deadline, now)


def overdue(cluster: ObservedCluster, deadline: timedelta, now: datetime) -> bool:
    """Whether the cluster should have answered by now."""
    return now - cluster.created > deadline
