"""What is told of a version whose number of replicas follows its load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayfleet_operator.api.status import ScalingStatus
from rayfleet_operator.plan import schedules, serve_config
from rayfleet_operator.plan.facts import ModelFacts
from rayfleet_operator.plan.size import Size
from rayfleet_operator.plan.versions import VersionPlan

ASLEEP = "no request: asleep"
_SCHEDULE = "schedule "


@dataclass(frozen=True)
class Scaling:
    """Of the version that has the requests."""

    wanted: int
    """Replicas that Serve works towards, within the bounds. What the load needs may change each second; it counts once
    it lasted for the delay, and Serve says so by its target."""
    running: int
    reason: str
    """Why so many are wanted, for people, as it was when their number changed last."""


def of(facts: ModelFacts, versions: Sequence[VersionPlan], sizes: Mapping[str, Size]) -> Scaling | None:
    """
    Args:
        versions: the model's, the one with the requests first.
        sizes: bounds by application.
    """
    first = next((version for version in versions if version.weight > 0), None)
    spec = facts.model.spec if facts.model is not None else None
    if first is None or spec is None or spec.autoscaling is None or first.replicas_running is None:
        return None
    running, size = first.replicas_running, sizes.get(first.app)
    target = running if first.replicas_target is None else first.replicas_target
    found = facts.live.get(first.app)
    if found is not None and not serve_config.follows_load(found.observed.entry):
        return Scaling(target, running, "an older release deployed this version: the next one follows the load")
    if target == running == 0:
        return Scaling(0, 0, ASLEEP)
    # Serve does not know yet of bounds that are new.
    wanted = target if size is None else max(size.least, min(size.most, target))
    on = schedules.on(spec.autoscaling.schedules, facts.now)
    told = facts.routers.wanted(first.app)
    if told is None:
        reason = ""
    elif told.replicas > wanted and size is not None and wanted == size.most:
        limit = f"there is room for {wanted}" if first.app in facts.places else f"no more than {wanted} are allowed"
        reason = f"{told.reason}; {limit}"
    elif told.replicas < wanted and on.least == wanted:
        reason = f"{_SCHEDULE}{on.name}"
    elif told.replicas < wanted and size is not None and wanted == size.least:
        reason = "no fewer are allowed"
    else:
        reason = told.reason
    before = facts.model.status.scaling if facts.model is not None else None
    return Scaling(wanted, running, _kept(before, wanted, on.name) or reason[:256])


def _kept(before: ScalingStatus | None, wanted: int, schedule: str) -> str:
    """The reason that was told before of the same number: what is needed now is no news, and each would be a write. But
    for that of a schedule that is over, and of a sleep."""
    if before is None or before.wanted != wanted or before.reason == ASLEEP:
        return ""
    over = before.reason.startswith(_SCHEDULE) and before.reason != f"{_SCHEDULE}{schedule}"
    return "" if over else before.reason


def line(scaling: Scaling | None) -> str:
    """One line for people, like "3 → 5: p99 312 ms > 200 ms"; "" where there is nothing to be told."""
    if scaling is None:
        return ""
    moves = scaling.wanted != scaling.running
    number = f"{scaling.running} → {scaling.wanted}" if moves else f"{scaling.running}"
    return f"{number}: {scaling.reason}" if scaling.reason else number
