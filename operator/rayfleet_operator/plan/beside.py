"""The versions beside a model's own, as they are to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rayfleet_operator.plan import conditions
from rayfleet_operator.plan.conditions import Condition, Reason
from rayfleet_serving.config import VersionRoute


@dataclass
class Beside:
    """The named versions after this plan."""

    entries: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Their applications in the Serve config, by name."""
    rows: list[VersionRoute] = field(default_factory=list)
    """Those that stay, by the spec's order."""
    other_names: dict[str, list[str]] = field(default_factory=dict)
    """By application, names of versions that are the model's own, or stand under another name already."""
    leaving: list[str] = field(default_factory=list)
    """Applications that are on their way out."""
    under_way: list[str] = field(default_factory=list)
    """What is waited for, for people."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    """What needs a person, each with its reason."""
    notices: list[tuple[str, str]] = field(default_factory=list)
    """What the registry says of one that serves all the same, each with its reason."""
    again_in: float | None = None
    """Seconds until a failed one is tried again."""

    @property
    def weight(self) -> int:
        """Percent of the requests that they have together."""
        return sum(row.weight for row in self.rows)

    @property
    def apps(self) -> set[str]:
        return {row.app for row in self.rows}

    def without_shares(self) -> Beside:
        """The same, but that they can only be asked for by name."""
        return replace(self, rows=[row.model_copy(update={"weight": 0}) for row in self.rows])

    @property
    def progress(self) -> Condition | None:
        """None where nothing is under way."""
        return conditions.progressing(Reason.TRAFFIC_PENDING, "; ".join(self.under_way)) if self.under_way else None

    @property
    def look_in(self) -> float | None:
        """Seconds until something of them is due; None where nothing is."""
        return 0.0 if self.under_way else self.again_in

    def table(self, own: Iterable[VersionRoute]) -> list[VersionRoute]:
        """The model's own versions and these, each with every name that means it."""
        every = [*own, *self.rows]
        return [row.model_copy(update={"other_names": self.other_names.get(row.app, [])}) for row in every]
