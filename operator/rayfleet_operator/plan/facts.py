"""Everything that one model's decision rests on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from rayfleet_operator.api.fleet import GpuSharing
from rayfleet_operator.api.status import VersionStatus
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan.live import DEPLOY_FAILED, RUNNING, UNHEALTHY, LiveApp, RouterView
from rayfleet_operator.plan.measured import Answer, Question
from rayfleet_operator.plan.observed import Resolution, ResolutionProblem
from rayfleet_operator.plan.size import Size
from rayfleet_operator.plan.versions import FAILED
from rayfleet_serving.config import ModelRoute, RolloutMark, VersionRoute


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    name: str
    model: ModelDeployment | None
    """None once it is deleted."""
    resolution: Resolution | None
    """None until the registry was asked."""
    live: Mapping[str, LiveApp]
    """Its applications, by name."""
    route: ModelRoute | None
    """Its row in the table last given to the routers."""
    routers: RouterView
    now: datetime
    given: ModelRoute | None = None
    """Its row in the table that was written last, where that may not have reached these routers: on Kubernetes another
    Ray cluster may be the one that gets it. None: it is `route`."""
    frozen: bool = False
    """Another Ray cluster is to take over first, and what is written reaches that one alone."""
    named: Mapping[str, Resolution] = field(default_factory=dict)
    """What the URIs of the versions that `spec.traffic` names mean, by their names."""
    measured: Mapping[Question, Answer] = field(default_factory=dict)
    """What was answered to queries, of this model's rollout or another's."""

    gpu_sharing: GpuSharing = "TimeSlicing"
    """The fleet's."""
    refused: ResolutionProblem | None = None
    """Why the wanted version has no room; None where it has, or nobody knows."""
    places: Mapping[str, int] = field(default_factory=dict)
    """Replicas that have a place, by application, of those that ask for more than have one."""

    def without(self, apps: Collection[str]) -> ModelFacts:
        """The same, but that these applications are not the model's."""
        return replace(self, live={app: found for app, found in self.live.items() if app not in apps})

    @property
    def written(self) -> ModelRoute | None:
        """Its row in the table that was written last."""
        return self.given if self.given is not None else self.route

    @property
    def written_rows(self) -> Sequence[VersionRoute]:
        """The versions in it; none where there is no row."""
        return self.written.versions if self.written is not None else ()

    def share(self, app: str) -> int:
        """Percent in the table that was written last, of what the versions that `spec.traffic` names leave; 0 for an
        application that is not in it, or is one of those."""
        return _share(self.written, app)

    def weight(self, app: str) -> int:
        """The same in the table last given to the routers."""
        return _share(self.route, app)

    def row(self, app: str) -> VersionRoute | None:
        return next((version for version in self.route.versions if version.app == app), None) if self.route else None

    @property
    def window(self) -> str:
        """The window in which routers count that hold the row written last; "" where they count nothing."""
        return self.written.window if self.written is not None else ""

    def mark(self) -> RolloutMark | None:
        """Where a rollout stands: in the table written last or, where that is lost, in the model's status."""
        if self.written is not None:
            return self.written.rollout
        told = self.model.status.rollout if self.model is not None else None
        return told.mark if told is not None else None

    def held(self) -> bool:
        """Whether every router that there should be holds the row written last."""
        return (
            self.written is not None
            and self.routers.complete
            and self.routers.holding(self.name, self.written) == len(self.routers.routers)
        )

    def reachable(self, app: str, instead_of: str) -> bool:
        """Whether requests can move to `app` from the application that has them.

        Every router that there should be must reach it. Where none reaches the other one any more, those that answer
        are enough, and at least one: there is nothing to lose, and a router that comes late starts with the new table.
        """
        if app not in self.live or self.live[app].status != RUNNING:
            return False
        return self.routers.all_reach(app) if self.routers.reaching(instead_of) else self.routers.answering_reach(app)

    def grown(self, app: str, instead_of: str, wanted: int) -> bool:
        """Whether `app` has `wanted` replicas. One that `spec.traffic` named may have had fewer, and Serve calls it
        RUNNING while it grows. Where nothing reaches the other one, few are better than none."""
        running = self.live[app].observed.replicas_running if app in self.live else 0
        return running is None or running >= wanted or not self.routers.reaching(instead_of)

    def told(self, app: str) -> VersionStatus | None:
        """What the model's status says of it since the observation before."""
        versions = self.model.status.versions if self.model is not None else []
        return next((each for each in versions if each.app == app), None)

    def failed(self, app: str) -> VersionStatus | None:
        """What the model's status says of an application that failed to start and is tried again; else None.

        While Serve is given it afresh, or calls it DEPLOYING because of another config, nobody else knows.
        """
        if app in self.live and self.live[app].status in (RUNNING, UNHEALTHY, DEPLOY_FAILED):
            return None
        told = self.told(app)
        return told if told is not None and told.state == FAILED else None

    def placed(self, app: str, size: Size) -> Size:
        """No more than have a place: Ray would let the others wait, and give one of them the place of a replica of
        another model that dies for a moment. The first one is asked for in any case."""
        return size.at_most(max(1, self.places[app])) if app in self.places else size

    def spent(self, app: str) -> bool:
        """Serve has given up on it, and nothing of it answers: nobody misses it."""
        found = self.live.get(app)
        if found is None or found.status != DEPLOY_FAILED or found.observed.replicas_running:
            return False
        known = bool(self.routers.routers) or found.observed.replicas_running == 0
        return known and not self.routers.reaching(app)

    def retired(self, app: str) -> bool:
        """Nothing reaches `app` any more: every router holds a table in which it takes no request, and none is left."""
        row = self.row(app)
        return (row is None or row.leaving) and self.routers.all_idle(app)

    def holder(self, wanted: str | None) -> str | None:
        """The application that has the requests now.

        Where the table is lost, or names only applications that are gone, it is one that runs, the wanted one first.
        """
        weighted = [app for app in self.live if self.weight(app) > 0]
        if weighted:
            return max(weighted, key=lambda app: (self.weight(app), app))
        running = sorted(app for app, found in self.live.items() if found.status == RUNNING)
        return wanted if wanted in running else next(iter(running), None)


def _share(route: ModelRoute | None, app: str) -> int:
    """Of a model's own versions, as if there were no others: their weights sum to 100."""
    own = {row.app: row.weight for row in route.versions if not row.name} if route is not None else {}
    total = sum(own.values())
    return round(100 * own.get(app, 0) / total) if total else 0
