"""Who yields to whom: on a GPU, or on a machine's CPUs, a pressed model goes before those of lower priority.

Each router decides by what it sees itself. A version yields as a whole where one of its replicas is on a device of a
pressed one; copies of others' requests yield to their like as well, and are not sent at all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayfleet_serving.link.devices import describe

if TYPE_CHECKING:
    from rayfleet_serving.router.traffic import LiveModel
    from rayfleet_serving.router.version import LiveVersion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Party:
    """One version, as far as it matters here."""

    model: str
    priority: int
    devices: frozenset[str]
    """Of its replicas. Of one that tells none nobody knows, so it neither yields nor is yielded to."""
    pressed: bool = False


class Ranking:
    """The pressed one of the highest priority on each device; of two, the first by name."""

    def __init__(self, parties: Iterable[Party]) -> None:
        self._first: dict[str, Party] = {}
        for party in parties:
            for device in party.devices if party.pressed else ():
                other = self._first.get(device)
                if other is None or (-party.priority, party.model) < (-other.priority, other.model):
                    self._first[device] = party

    def above(self, party: Party, *, or_equal: bool = False) -> tuple[Party, str] | None:
        """Whom it yields to, and where; None where it need not.

        Args:
            or_equal: it yields to its like as well, and to other versions of its own model.
        """
        least = party.priority if or_equal else party.priority + 1
        found = ((self._first[device], device) for device in party.devices if device in self._first)
        return min(
            (each for each in found if each[0].priority >= least),
            key=lambda each: (-each[0].priority, each[0].model, each[1]),
            default=None,
        )


def settle(models: Iterable[LiveModel]) -> None:
    """Let each version take as many requests as it should now. To be called about once a second."""
    models = list(models)
    # Where nobody can yield, nothing is counted.
    on = len({model.route.priority for model in models}) > 1 or any(model.mirrors for model in models)
    parties: list[tuple[Party, LiveVersion]] = []
    for model in models:
        for version in model.versions:
            version.pressure.look(awake=version.awake)
            pressed = not version.route.leaving and version.pressure.pressed(version.coalescer.oldest_s)
            version.pressure.on = on
            devices = version.devices if on else frozenset()
            parties.append((Party(model.name, model.route.priority, devices, pressed), version))
    ranking = Ranking(party for party, _ in parties)
    for party, version in parties:
        _restrain(party, version, ranking)


def _restrain(party: Party, version: LiveVersion, ranking: Ranking) -> None:
    version.mirror.make_way(ranking.above(party, or_equal=True) is not None)
    why = ""
    if (above := ranking.above(party)) is not None:
        other, device = above
        why = f"Model {party.model} yields to model {other.model}, which has a higher priority on the same"
        why = f"{why} {describe(device)}."
    before = version.restraint.ratio
    refused = version.restraint.look(
        why, answered_per_s=version.pressure.answered_per_s, came_per_s=version.pressure.ended_per_s
    )
    if refused:
        version.coalescer.refuse_waiting(refused, version.restraint.error)
    after = version.restraint.ratio
    if before == 1.0 > after:
        logger.info("%s", why)
    elif before < 1.0 == after:
        logger.info("Model %s yields to nobody any more.", party.model)
