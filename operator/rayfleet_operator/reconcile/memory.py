"""What is kept of one fleet from pass to pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from rayfleet_operator.plan.observed import ObservedFleet
from rayfleet_operator.plan.switch import Clusters
from rayfleet_operator.prometheus.measuring import Measuring
from rayfleet_operator.ray.connections import Connections
from rayfleet_operator.reconcile.announcement import Said
from rayfleet_operator.reconcile.idle import Idle

BUSY_S = 2.0
"""Between passes while something is under way: KubeRay itself looks every two seconds."""
PATIENT_S = 15.0
"""Longest time between passes over a fleet that is not at rest, but where nothing changes."""
PATIENCE = 1.3
"""By how much the time grows with each pass that saw nothing new."""


@dataclass
class Memory:
    """Nothing in it is needed: a new one makes the next passes dearer, and no other."""

    connections: Connections = field(default_factory=Connections)
    before: dict[str, ObservedFleet] = field(default_factory=dict)
    """What each cluster's Serve said last."""
    measuring: Measuring = field(default_factory=Measuring)
    """What Prometheus answered last."""
    idle: Idle = field(default_factory=Idle)
    silent: datetime | None = None
    """Since when no router that serves has answered, or none at the fleet's address; None while they do. A fleet at
    rest is looked at once a minute, so when they last did says nothing of how long they have not."""
    said: Said = field(default_factory=Said)
    """Of the last new Ray cluster."""
    saw: object = None
    """What the last pass saw."""
    wait_s: float = BUSY_S
    """How long it waited for the next one."""

    async def looked(self, clusters: Clusters, now: datetime) -> None:
        """Keep what was observed, and the connections that it took."""
        await self.connections.tidy()
        serving = clusters.serving
        answers = serving is not None and serving.observed is not None and bool(serving.observed.routers)
        self.silent = None if answers and clusters.reached else self.silent or now
        self.before = {name: each.observed for name, each in clusters.by_name.items() if each.observed is not None}

    async def close(self) -> None:
        await self.measuring.close()
        await self.connections.close()

    def rest(self) -> None:
        """Nothing is under way: what comes next is new."""
        self.wait_s, self.saw = BUSY_S, None

    def pause(self, saw: object) -> float:
        """Seconds until the next pass over a fleet that is not at rest."""
        self.wait_s = BUSY_S if saw != self.saw else min(self.wait_s * PATIENCE, PATIENT_S)
        self.saw = saw
        return self.wait_s
