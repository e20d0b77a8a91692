"""Where objects are listed and watched, and which of these places can be done without."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from rayfleet_operator.kube.kinds import Kind


class Place(NamedTuple):
    """All objects of one kind in one namespace."""

    kind: Kind
    namespace: str | None
    """None: in every namespace."""

    @property
    def path(self) -> str:
        return self.kind.path(self.namespace)


def needed(places: Set[Place], waiting: Set[Place], refused: Set[Place]) -> set[Place]:
    """Those of the `waiting` places without which the operator is not ready.

    A namespace, or the right to look into it, may go at any time and for ever. So what is `refused` is done without,
    for as long as there is a namespace in which nothing is waited for.
    """
    works = {place.namespace for place in places} - {place.namespace for place in waiting}
    return set(waiting - refused) if works else set(waiting)
