"""The Kubernetes events that a change of a status is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rayfleet_operator.api.status import Condition as StatusCondition
from rayfleet_operator.plan.conditions import ConditionType, Reason
from rayfleet_operator.plan.fleet_conditions import FleetReason

STAGES = (Reason.HOLDING, Reason.INCONCLUSIVE, Reason.PAUSED)
"""A candidate has arrived at a stage, or waits there."""


@dataclass(frozen=True)
class EventNote:
    """One Kubernetes event."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def events(before: Sequence[StatusCondition], after: Sequence[StatusCondition]) -> list[EventNote]:
    """What changed in a way that a person would want to be told: it answers or no longer does; something is wrong,
    something else, or nothing any more; a rollout has come a stage further; a new Ray cluster is to be built; a change
    has come to its end."""
    was = {each.type: each for each in before}
    notes = []
    for now in after:
        old = was.get(now.type)
        changed = old is None or old.status != now.status
        match now.type:
            case ConditionType.READY if changed and now.status == "True":
                notes.append(EventNote("Normal", now.reason, now.message))
            case ConditionType.READY if changed and old is not None and old.status == "True":
                notes.append(EventNote("Warning", now.reason, now.message))
            case ConditionType.DEGRADED if now.status == "True" and (
                changed or old is None or old.reason != now.reason
            ):
                notes.append(EventNote("Warning", now.reason, now.message))
            case ConditionType.DEGRADED if now.status == "False" and old is not None and changed:
                notes.append(EventNote("Normal", "Recovered", f"{old.reason} is over"))
            case ConditionType.PROGRESSING if now.reason in STAGES and (old is None or old.reason != now.reason):
                notes.append(EventNote("Normal", now.reason, now.message))
            case ConditionType.PROGRESSING if now.reason == FleetReason.NEW_CLUSTER and (
                old is None or (old.reason, old.message) != (now.reason, now.message)
            ):
                notes.append(EventNote("Normal", now.reason, now.message))
            case ConditionType.PROGRESSING if now.reason == Reason.SETTLED and old is not None and changed:
                notes.append(EventNote("Normal", now.reason, now.message))
            case _:
                continue
    return notes
