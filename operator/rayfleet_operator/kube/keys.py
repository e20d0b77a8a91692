"""Which fleet an object belongs to.

A reconcile is for one fleet, so everything that happens to a model, to its fleet or to what the operator made for the
fleet comes down to one key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from rayfleet_operator.kube.kinds import MODEL_DEPLOYMENT, MODEL_FLEET, RAY_SERVICE, Kind
from rayfleet_operator.kube.places import Place
from rayfleet_operator.render.names import FLEET_LABEL, MANAGED_BY, MANAGED_BY_LABEL

CHILDREN = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
"""Label selector of everything that the operator made."""


class FleetKey(NamedTuple):
    """One fleet."""

    namespace: str
    fleet: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.fleet}"


def fleet_of(kind: Kind, obj: dict[str, Any]) -> FleetKey | None:
    """The fleet that the object belongs to now; None for an object that names none."""
    metadata = obj["metadata"]
    fleet: str | None
    match kind:
        case _ if kind == MODEL_DEPLOYMENT:
            fleet = model_fleet(obj)
        case _ if kind in (MODEL_FLEET, RAY_SERVICE):
            # A RayService has its fleet's name, whatever somebody made of its label.
            fleet = metadata["name"]
        case _:
            fleet = (metadata.get("labels") or {}).get(FLEET_LABEL)
    return FleetKey(metadata["namespace"], fleet) if fleet else None


def model_fleet(model: dict[str, Any]) -> str:
    """Name of a ModelDeployment's fleet; one that names none has one of its own."""
    return str((model.get("spec") or {}).get("fleet") or model["metadata"]["name"])


class Fleets:
    """Which fleets are there, and where each model was last seen, so that the fleet it left is looked at too.

    What is remembered is bounded by what exists: `listed` drops what a lost event would have left behind.
    """

    def __init__(self) -> None:
        self._fleet_of_model: dict[tuple[str, str], FleetKey] = {}

    def seen(self, kind: Kind, obj: dict[str, Any], *, deleted: bool = False) -> set[FleetKey]:
        """The fleets that a change of the object concerns."""
        found = fleet_of(kind, obj)
        keys = {found} if found is not None else set()
        if kind == MODEL_DEPLOYMENT and found is not None:
            model = (obj["metadata"]["namespace"], obj["metadata"]["name"])
            before = self._fleet_of_model.pop(model, None)
            if not deleted:
                self._fleet_of_model[model] = found
            if before is not None:
                keys.add(before)
        return keys

    def listed(self, place: Place, objects: Iterable[dict[str, Any]]) -> set[FleetKey]:
        """All that is at the place. Returns every fleet it belongs to, and those that models left unnoticed."""
        keys: set[FleetKey] = set()
        if place.kind == MODEL_DEPLOYMENT:
            before = [model for model in self._fleet_of_model if place.namespace in (None, model[0])]
            keys |= {self._fleet_of_model.pop(model) for model in before}
        for obj in objects:
            keys |= self.seen(place.kind, obj)
        return keys
