"""One model with versions beside it, on a fleet that does what it is told."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import named
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.observed import Resolution
from rayfleet_operator.plan.status import model_status
from rayfleet_serving.config import VersionRoute

from .scenes import NOW, OPTIONS, applications, condition, identity, model, table_of
from .world import World

CANARY = {"strategy": "Canary", "steps": [{"weight": 10, "hold": "3s"}, {"weight": 50}], "scaleDownDelay": "2s"}
BLUE_GREEN = {"strategy": "BlueGreen", "previewHold": "2s", "scaleDownDelay": "2s", "progressDeadline": "10s"}
AB = {"versions": [{"name": "b", "uri": "models:/digits@b", "weight": 30}]}
MIRROR = {"versions": [{"name": "shadow", "uri": "models:/digits/9", "mirror": 25}]}
TEST = {"versions": [{"name": "test", "uri": "models:/digits/9"}]}


class Play:
    """One model on a fleet that does what it is told."""

    def __init__(self, traffic: dict[str, Any] | None = None, **spec: Any) -> None:
        self.world = World()
        self.now: datetime = NOW
        self.resolutions: dict[str, Resolution] = {"digits": identity(1)}
        self.status = ModelDeploymentStatus()
        self.annotations: dict[str, str] = {}
        self.edit(traffic, **spec)
        self.planned: FleetPlan | None = None

    def edit(self, traffic: dict[str, Any] | None = None, **spec: Any) -> None:
        self.model: ModelDeployment = model(**spec, **({"traffic": traffic} if traffic else {}))

    def say(self, **annotations: str) -> None:
        self.annotations = annotations

    def mean(self, version: int, name: str = "") -> None:
        """A URI means this version from now on."""
        self.resolutions[f"digits/{name}" if name else "digits"] = identity(version)

    def look(self) -> FleetPlan:
        self.now += timedelta(seconds=1)
        metadata = self.model.metadata.model_copy(update={"annotations": self.annotations})
        of = self.model.model_copy(update={"status": self.status, "metadata": metadata})
        self.planned = planned = plan(
            fleet=None,
            models=[of],
            resolutions=self.resolutions,
            observed=self.world.observe(self.now),
            serve_options=OPTIONS,
            now=self.now,
        )
        self.status = model_status(
            of,
            planned.models[0],
            url="",
            resolution=self.resolutions.get("digits"),
            troubles=(),
            shortage=None,
            quiet=False,
            now=self.now,
            named=named.known(of, self.resolutions),
        )
        if planned.changed:
            for router in self.world.routers:
                for app, row in router.rows().items():
                    busy = (row.weight and app in router.knows) or router.ongoing[app]
                    kept = app in applications(planned) or self.world.apps[app].status == "DEPLOY_FAILED"
                    assert kept or not busy, "what has weight or requests in some router goes on"
            self.world.put(planned.config)
        return planned

    def advance(self) -> None:
        for name in sorted(self.world.apps):
            self.world.advance_app(name)
        for router in self.world.routers:
            self.world.advance_router(router)

    def settle(self) -> Play:
        """Until nothing changes any more."""
        for _ in range(30):
            before = self.look().config
            self.advance()
        assert self.look().config == before
        return self

    def rows(self) -> dict[int, VersionRoute]:
        """By version number, of the table that was written last."""
        assert self.planned is not None
        every = table_of(self.planned.config).models["digits"].versions
        found = {int(row.version): row for row in every}
        assert len(found) == len(every), "one version is one row here"
        return found

    def shares(self) -> dict[int, tuple[str, int, int]]:
        """Name, weight and mirror of those that stay."""
        return {number: (row.name, row.weight, row.mirror) for number, row in self.rows().items() if not row.leaving}

    def told(self, kind: ConditionType) -> tuple[str, str, str]:
        assert self.planned is not None
        return condition(self.planned, kind)


def ab(**spec: Any) -> Play:
    """Version 1 with 70 %, and version 2, named b, with 30 %."""
    play = Play(AB, **spec)
    play.mean(2, "b")
    play.settle()
    assert play.shares() == {1: ("", 70, 0), 2: ("b", 30, 0)}
    return play
