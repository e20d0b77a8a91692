"""A model's rollout in words: from what is known, and the time, to lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rayfleet_operator.api.status import RolloutStatus, VersionStatus
from rayfleet_operator.api.timestamp import moment
from rayfleet_operator.cli.rollouts import Model
from rayfleet_operator.plan.conditions import Reason
from rayfleet_operator.plan.strategy import Stage

WIDTH = 11
"""Of the names of facts."""


@dataclass(frozen=True)
class Signs:
    """What steps are marked with."""

    done: str
    current: str
    to_come: str
    given_up: str
    between: str

    @classmethod
    def of(cls, encoding: str | None) -> Signs:
        """The ones that this encoding can write."""
        try:
            "".join(vars(SYMBOLS).values()).encode(encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return ASCII
        return SYMBOLS


SYMBOLS = Signs("✔", "●", "○", "✖", " → ")
ASCII = Signs("[x]", "[>]", "[ ]", "[!]", " -> ")


def block(found: Model, now: datetime, signs: Signs) -> list[str]:
    """All of it, with the seconds that are left of the step."""
    told = found.rollout
    facts = [(_role(version, told), _version(version)) for version in _by_role(found.versions, told)]
    if told is not None:
        facts += _stands(found, told, now, signs)
    if found.degraded is not None and (told is None or not told.ended):
        facts.append(("degraded", f"{found.degraded.reason}: {' '.join(found.degraded.message.splitlines())}"))
    return [f"{found.name}: {found.under_way}", *(f"  {name:{WIDTH}}{text}" for name, text in facts)]


def line(found: Model, signs: Signs) -> str:
    """What a change of is worth a line where lines stay: no clock, and no numbers that every request changes."""
    told = found.rollout
    parts = [found.under_way, ", ".join(f"version {each.name} {each.weight} %" for each in found.versions)]
    if told is not None:
        parts += [steps(found.stages, told, signs), _verdict(told)]
        parts.append(f"given up, {told.ended}: {told.message}" if told.ended and _unsaid(found, told) else "")
    if found.degraded is not None and (told is None or not told.ended):
        parts.append(f"{found.degraded.reason}: {found.degraded.message}")
    return " ".join(f"{found.name}: {'; '.join(filter(None, parts))}".split())


def steps(stages: Sequence[Stage], told: RolloutStatus, signs: Signs) -> str:
    """As `10% ✔ → 50% ● → 100% ○`; empty where the stages are not known."""

    def sign(at: int) -> str:
        if at != told.stage:
            return signs.done if at < told.stage else signs.to_come
        return signs.given_up if told.ended else signs.current

    return signs.between.join(f"{stage.weight}% {sign(at)}" for at, stage in enumerate(stages))


def left(found: Model, now: datetime) -> timedelta | None:
    """Until the step's hold is over; None where it is not the clock that it waits for."""
    told = found.rollout
    if told is None or found.progress is None or found.progress.reason != Reason.HOLDING or not told.since:
        return None
    hold = found.stages[told.stage].hold if 0 <= told.stage < len(found.stages) else None
    return None if hold is None else moment(told.since) + timedelta(seconds=hold) - now


def duration(time: timedelta) -> str:
    """As `9 min 12 s`; whole seconds, rounded up."""
    minutes, seconds = divmod(max(0, math.ceil(time.total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _stands(found: Model, told: RolloutStatus, now: datetime, signs: Signs) -> Iterator[tuple[str, str]]:
    if row := steps(found.stages, told, signs):
        yield "steps", row
    waiting = found.progress is not None and found.progress.reason == Reason.WAITING_FOR_ROUTERS
    if told.stage >= 0 and not told.ended:
        held = (
            f"held by every router since {told.since}" if told.since and not waiting else "not yet held by every router"
        )
        yield "weights", held
    if (rest := left(found, now)) is not None:
        yield "hold", f"over in {duration(rest)}"
    if _unsaid(found, told):
        yield ("given up", f"{told.ended}: {told.message}") if told.ended else ("waits", told.message)
    if told.analysis:
        yield "analysis", f"{told.analysis}, counted until {told.counted}" if told.checks else told.analysis
    names = max((len(check.name) for check in told.checks), default=0)
    for check in told.checks:
        yield "", f"{check.name:{names}}  {check.outcome:12}  {check.message}"


def _unsaid(found: Model, told: RolloutStatus) -> bool:
    """Mostly the first line has it already."""
    return bool(told.message) and told.message not in found.under_way


def _version(version: VersionStatus) -> str:
    why = f": {version.message}" if version.message and version.state == "Failed" else ""
    name = f"version {version.name}" + (f" ({version.traffic})" if version.traffic else "")
    copies = f" and a copy of {version.mirror} %" if version.mirror else ""
    return f"{name}, {version.weight} % of the requests{copies}, {version.state}{why}"


def _role(version: VersionStatus, told: RolloutStatus | None) -> str:
    if told is not None and version.app in (told.stable, told.candidate):
        return "stable" if version.app == told.stable else "candidate"
    if version.traffic and version.state != "Draining":
        return "beside"
    if version.weight:
        return "serves"
    return "leaves" if version.state == "Draining" else "comes"


def _by_role(versions: Sequence[VersionStatus], told: RolloutStatus | None) -> list[VersionStatus]:
    """While weights move, each stays in its place."""
    order = [told.stable, told.candidate] if told is not None else []
    return sorted(versions, key=lambda each: order.index(each.app) if each.app in order else len(order))


def _verdict(told: RolloutStatus) -> str:
    checks = ", ".join(f"{check.name} {check.outcome}" for check in told.checks)
    return f"analysis {told.analysis}" + (f" ({checks})" if checks else "") if told.analysis else ""
