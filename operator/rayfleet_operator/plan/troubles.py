"""What replicas say of themselves, in the words that were told before.

A replica may word the same trouble anew each second, by its numbers or by how it met it; told so, a status would be
written in each pass, and events with it.
"""

from __future__ import annotations

import re

from rayfleet_operator.plan import conditions
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.facts import ModelFacts

Faults = list[tuple[str, str]]

NEW = -1
"""In place of the line in which a trouble was told before."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def told(facts: ModelFacts, app: str, label: str = "") -> Faults:
    """(reason, message) of what ails the application's replicas, of each reason one. What the model's status tells
    already keeps its first words, and its place; before it comes what is new, the newest first.

    Args:
        label: before each message.
    """
    found = [(each.reason, f"{label}{each.message}") for each in facts.routers.troubles(app)]
    reason, lines = _before(facts)
    subject = f"{label}model {facts.name}, version {facts.live[app].version}, " if app in facts.live else ""
    kept: list[tuple[int, str, str]] = []
    for each, text in found:
        place = next((place for place, line in enumerate(lines) if _alike(line, text, subject)), None)
        if place is None and each == reason and subject and lines[0].startswith(subject):
            place = 0
        kept.append((NEW, each, text) if place is None else (place, each, lines[place]))
    return [(each, text) for _, each, text in sorted(kept, key=lambda item: item[0])]


def _before(facts: ModelFacts) -> tuple[str, list[str]]:
    """Degraded's reason, and what the status says, a line for each."""
    said = facts.model.status.conditions if facts.model is not None else []
    degraded = conditions.find(said, ConditionType.DEGRADED)
    if degraded is None or degraded.status != "True":
        return "", []
    return degraded.reason, degraded.message.splitlines() or [""]


def _alike(line: str, text: str, subject: str) -> bool:
    """Whether they say the same of one version, but for numbers."""
    if not subject or not line.startswith(subject) or not text.startswith(subject):
        return line == text
    return _NUMBER.sub("0", line.removeprefix(subject)) == _NUMBER.sub("0", text.removeprefix(subject))
