"""One model's rollout by stages in a world that does what it is told, and small specs and counts for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.plan.analysis import Count
from rayfleet_operator.plan.rollout import Command, RolloutDecision, RolloutFacts, attempt, decide
from rayfleet_serving.config import RolloutMark

from .scenes import NOW
from .test_analysis import counted

CANARY = {
    "strategy": "Canary",
    "steps": [{"weight": 10, "hold": "10m"}, {"weight": 50, "hold": "10m"}],
    "analysis": {"errorRate": {"max": "1%"}, "minRequests": 100},
}
MANUAL = {"strategy": "Canary", "steps": [{"weight": 10}, {"weight": 50}]}
BLUE_GREEN = {"strategy": "BlueGreen", "previewHold": "5m", "scaleDownDelay": "1m"}
GOOD, BAD, NONE = counted(500), counted(500, failed=50), Count()


def rollout(spec: dict[str, Any], **more: Any) -> Rollout:
    return Rollout.model_validate({**spec, **more})


class Model:
    """One model with a stable version and a candidate; the world does what it is told at once."""

    def __init__(self, spec: dict[str, Any], **more: Any) -> None:
        self.spec = rollout(spec, **more)
        self.mark: RolloutMark | None = None
        self.weight = 0
        self.now = NOW
        self.facts: dict[str, Any] = {}
        self.decision: RolloutDecision | None = None
        self.weights: list[int] = []

    def look(self, seconds: float = 0, **facts: Any) -> RolloutDecision:
        """Once more, so much later. `facts` hold from now on."""
        self.now += timedelta(seconds=seconds)
        self.facts |= facts
        known: dict[str, Any] = {
            "reachable": True,
            "grown": True,
            "lost": False,
            "hopeless": False,
            "held": True,
            "frozen": False,
            "counted": {"new": GOOD, "old": GOOD},
            "command": Command(),
        }
        at = RolloutFacts(
            stable="old",
            candidate="new",
            mark=self.mark,
            weight=self.weight,
            now=self.now,
            **(known | self.facts | {"command": self._about(self.facts.get("command", Command()))}),
        )
        self.decision = decide(self.spec, at)
        self.mark, self.weight = self.decision.mark, self.decision.weight
        self.weights.append(self.weight)
        return self.decision

    def _about(self, command: Command) -> Command:
        """`@` stands for the attempt of now."""
        now = attempt(self.mark) if self.mark is not None else "none"
        return replace(command, promote=command.promote.replace("@", now), abort=command.abort.replace("@", now))

    def at(self, stage: int) -> Model:
        """Fast forward to the middle of a stage."""
        self.look(reachable=True)
        while self.mark is not None and self.mark.stage < stage:
            self.look(3600, command=Command(promote=f"@/{self.mark.stage}"))
        self.look(command=Command())
        assert self.mark is not None
        assert (self.mark.stage, bool(self.mark.since)) == (stage, True)
        return self

    @property
    def reason(self) -> str:
        assert self.decision is not None
        return str(self.decision.reason)
