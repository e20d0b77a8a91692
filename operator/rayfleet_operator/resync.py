"""Every fleet again and again, as found by listing: whatever was not heard of is healed by then."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence

from rayfleet_operator.kube import kinds, places
from rayfleet_operator.kube.client import Json, KubeClient
from rayfleet_operator.kube.errors import Forbidden, KubeError, NotFound
from rayfleet_operator.kube.keys import CHILDREN, FleetKey, Fleets
from rayfleet_operator.kube.places import Place
from rayfleet_operator.settings import Settings
from rayfleet_operator.workqueue import WorkQueue

JITTER = 0.1
"""Of the time between resyncs, at most; several operators need not list at the same time."""
RELIST_S = 5.0
"""After a place could not be listed."""
KINDS = (
    kinds.MODEL_DEPLOYMENT,
    kinds.MODEL_FLEET,
    # Finds the fleets of which nothing but what was made for them is left.
    kinds.RAY_SERVICE,
)

logger = logging.getLogger(__name__)


class Resync:
    """Each place by itself: one that cannot be listed, like a namespace that was deleted, holds up no other."""

    def __init__(self, settings: Settings, fleets: Fleets, queue: WorkQueue[FleetKey]) -> None:
        self._every = settings.resync_s
        self._fleets = fleets
        self._queue = queue
        self._places = [Place(kind, namespace) for namespace in settings.namespaces or (None,) for kind in KINDS]
        self._listed: dict[Place, set[FleetKey]] = {}
        self._problems: dict[Place, KubeError] = {}

    async def run(self, client: KubeClient) -> None:
        """Queue every fleet again and again, until cancelled."""
        while True:
            left = self._every * random.uniform(1 - JITTER, 1)  # noqa: S311 - evens out the load
            failed = await self._list(client, self._places)
            while failed and left > RELIST_S:
                await asyncio.sleep(RELIST_S)
                left -= RELIST_S
                failed = await self._list(client, failed)
            await asyncio.sleep(left)

    def rests(self, key: FleetKey) -> None:
        """Have a fleet that is at rest looked at within the time between resyncs: its turn may just have gone by."""
        if any(key in found for found in self._listed.values()):
            self._queue.add_after(key, self._every)

    def waits_for(self) -> str | None:
        """What stands between now and having queued all fleets once."""
        refused = {place for place, problem in self._problems.items() if isinstance(problem, Forbidden)}
        waiting = places.needed(set(self._places), set(self._places) - self._listed.keys(), refused)
        if not waiting:
            return None
        why = [str(problem) for place, problem in self._problems.items() if place in waiting]
        return "; ".join(["they have not been listed yet", *why])

    def passes_over(self) -> str | None:
        """What could not be listed the last time, and why."""
        return "; ".join(str(problem) for problem in self._problems.values()) or None

    async def _list(self, client: KubeClient, at: Iterable[Place]) -> list[Place]:
        """Queue the fleets that are found, and return the places that could not be listed."""
        failed = []
        for place in at:
            try:
                found = await _objects(client, place)
            except KubeError as error:
                self._failed(place, error)
                failed.append(place)
            else:
                self._found(place, found)
        return failed

    def _failed(self, place: Place, error: KubeError) -> None:
        """Say it once. What is known of the place stays as it is."""
        if str(error) != str(self._problems.get(place)):
            logger.warning("Not every fleet can be listed, which is tried again and again: %s", error)
        self._problems[place] = error

    def _found(self, place: Place, objects: Sequence[Json]) -> None:
        if self._problems.pop(place, None) is not None:
            logger.info("%s can be listed again", place.path)
        keys, before = self._fleets.listed(place, objects), self._listed.get(place, set())
        for key in keys:
            # What is new at once, the first time everything: nobody may have looked at it yet. What is not, at a time
            # of its own, so that few fleets stand in the queue before one of which an event tells.
            self._queue.add_after(key, self._every * _share(key) if key in before else 0.0)
        self._listed[place] = keys


def _share(key: FleetKey) -> float:
    """Of the time between resyncs, after which a fleet comes round.

    Always the same, so it comes at even times; never at once; and before the next resync, which adds nothing to what
    waits already.
    """
    return (1 - JITTER) * (hash(key) % 1000 + 1) / 1001


async def _objects(client: KubeClient, place: Place) -> Sequence[Json]:
    """What is at the place; of kinds whose names say it all, nothing but the metadata."""
    if place.kind == kinds.MODEL_DEPLOYMENT:
        return await client.list(place.kind, place.namespace)
    if place.kind == kinds.MODEL_FLEET:
        return await client.list_metadata(place.kind, place.namespace)
    try:
        return await client.list_metadata(place.kind, place.namespace, labels=CHILDREN)
    except NotFound:
        # KubeRay is not installed; the models can still be told so.
        return []
