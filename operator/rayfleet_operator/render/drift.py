"""Whether a live object still says what we want it to say, and whether it is ours at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayfleet_operator.api import quantity
from rayfleet_operator.render.names import FLEET_LABEL

QUANTITIES = ("limits", "requests", "sizeLimit")
"""Keys below which quantities stand. KubeRay writes a whole RayService back when it adds its finalizer, and its 500m is
our 0.5."""


def covers(live: Any, wanted: Any) -> bool:
    """Whether every field of `wanted` is in `live` with the same value; what else is there belongs to others.

    Lists are compared item by item, each item in the same way, and must have the same length: none of the lists we
    write is shared with others, but for owners, labels and annotations.
    """
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(_covered(key, live, value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(one, other) for one, other in zip(live, wanted, strict=True))
        )
    return bool(live == wanted)


def _covered(key: str, live: Mapping[str, Any], wanted: Any) -> bool:
    if key not in live:
        # The API server keeps no empty map of a Secret's data.
        return key == "data" and wanted == {}
    if key == "ownerReferences":
        # Others may own it as well; none of ours may be missing, and none may be left of those that were.
        there = {_uid(each) for each in live[key]}
        return covers(written_owners(live[key]), written_owners(wanted)) and all(_uid(each) in there for each in wanted)
    if key in QUANTITIES:
        return _same_amount(live[key], wanted)
    return covers(live[key], wanted)


def written_owners(owners: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The owners of our kinds, which people write, in an order of their own."""
    return sorted((each for each in owners if str(each.get("apiVersion", "")).startswith("rayfleet.io/")), key=_uid)


def _uid(owner: Mapping[str, Any]) -> str:
    return str(owner.get("uid"))


def _same_amount(live: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            key in live and _same_amount(live[key], value) for key, value in wanted.items()
        )
    try:
        return quantity.parse_quantity(str(live)) == quantity.parse_quantity(str(wanted))
    except ValueError:
        return bool(live == wanted)


def foreign(live: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str | None:
    """Why a live object must not be written over: somebody else made it. None where it is this fleet's, or not there.

    Everything of a fleet carries its label from the first moment; an owner is enough where somebody took the label off.
    """
    if live is None:
        return None
    metadata, ours = live["metadata"], wanted["metadata"]
    owners = {each["uid"] for each in metadata.get("ownerReferences") or []}
    labels = metadata.get("labels") or {}
    if labels.get(FLEET_LABEL) == ours["labels"][FLEET_LABEL]:
        return None
    if owners & {each["uid"] for each in ours["ownerReferences"]}:
        return None
    return (
        f"{wanted['kind']} {ours['name']} in namespace {ours['namespace']} was there before, and is not this fleet's. "
        f"Delete or rename it, or give the fleet another name"
    )
