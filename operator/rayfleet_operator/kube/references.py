"""Secrets and ConfigMaps that models name: each is watched by itself, for as long as anybody follows it.

As the kubelet does it for pods: a watch with the field selector `metadata.name=…`. So the operator never holds, or even
sees, the other Secrets of a namespace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from rayfleet_operator.kube import errors
from rayfleet_operator.kube.client import Json, KubeClient
from rayfleet_operator.kube.kinds import Kind
from rayfleet_operator.kube.watching import Listed

Follower = TypeVar("Follower", bound=Hashable)

RETRY_S = 30.0
"""After the API server refused a watch: somebody has to change RBAC first."""

logger = logging.getLogger(__name__)


class Reference(NamedTuple):
    """One named object."""

    kind: Kind
    namespace: str
    name: str


@dataclass(frozen=True)
class Unknown:
    """It is not known whether the object is there."""

    why: str | None = None
    """What the API server has against telling; None while it was only just asked."""


class References(Generic[Follower]):
    """`changed` is called with each follower of an object that became known, changed, or is no longer known."""

    def __init__(self, client: KubeClient, changed: Callable[[Follower], None]) -> None:
        self._client = client
        self._changed = changed
        self._wanted: dict[Follower, frozenset[Reference]] = {}
        self._followers: dict[Reference, set[Follower]] = {}
        self._known: dict[Reference, Json | Unknown | None] = {}
        self._watches: dict[Reference, asyncio.Task[None]] = {}

    def follow(self, follower: Follower, references: set[Reference] | frozenset[Reference]) -> None:
        """`follower` wants to hear of these and no others; an empty set ends it."""
        before = self._wanted.pop(follower, frozenset())
        if references:
            self._wanted[follower] = frozenset(references)
        for reference in references - before:
            self._followers.setdefault(reference, set()).add(follower)
            if reference not in self._watches:
                self._known[reference] = Unknown()
                self._watches[reference] = asyncio.create_task(self._watch(reference))
        for reference in before - references:
            followers = self._followers[reference]
            followers.discard(follower)
            if not followers:
                del self._followers[reference], self._known[reference]
                self._watches.pop(reference).cancel()

    def known(self, kind: Kind, namespace: str, name: str) -> Json | Unknown | None:
        """The object as last seen; None when it is not there; `Unknown` when that is not known or not followed."""
        return self._known.get(Reference(kind, namespace, name), Unknown())

    async def close(self) -> None:
        """End every watch."""
        watches = list(self._watches.values())
        self._wanted.clear()
        self._followers.clear()
        self._known.clear()
        self._watches.clear()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

    async def _watch(self, reference: Reference) -> None:
        kind, namespace, name = reference
        while True:
            try:
                async for event in self._client.watch(kind, namespace, fields=f"metadata.name={name}"):
                    if isinstance(event, Listed):
                        self._learn(reference, event.objects[0] if event.objects else None)
                    else:
                        self._learn(reference, None if event.deleted else event.object)
            except errors.KubeError as error:
                logger.warning("%s %s in namespace %s is not known: %s", kind, name, namespace, error)
                self._learn(reference, Unknown(str(error)))
            except Exception:
                logger.exception("Watching %s %s in namespace %s failed", kind, name, namespace)
                self._learn(reference, Unknown("the operator failed to watch it; see its log"))
            await asyncio.sleep(RETRY_S)

    def _learn(self, reference: Reference, found: Json | Unknown | None) -> None:
        if reference not in self._known:
            return
        if isinstance(found, dict):
            # Half of a small object, and of no use here.
            found["metadata"].pop("managedFields", None)
        if found == self._known[reference]:
            return
        self._known[reference] = found
        for follower in list(self._followers[reference]):
            self._changed(follower)
