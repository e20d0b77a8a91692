"""The replicas of one version: found through Serve, reached over links.

Every replica tells Serve its endpoint when it is ready (`Model.record_replica_metadata`), and Serve pushes the list of
running replicas, with what they told, to every handle. A new one is connected to; one that Serve stops is sent nothing
more, and its link closes when its last call is answered.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from rayfleet_serving.config import Wanted
from rayfleet_serving.link import devices
from rayfleet_serving.link.call import Call, Reply, RouterLoad, Trouble
from rayfleet_serving.link.client import Link, ReplicaLostError
from rayfleet_serving.link.server import Endpoint

logger = logging.getLogger(__name__)

LOOK_S = 0.1
"""Between looks at the handle's list of replicas; a look is a comparison of two sets."""
CONNECT_TIMEOUT_S = 2.0

KEPT_S = 300.0
"""How long it is told of a replica that it ended, and why: the one in its place may fare no better."""
DEATHS = 3
"""So many replicas that died within `KEPT_S` are told of where none said why. One or two may have been on a machine
that was lost."""


class Replicas:
    """Links to every running replica."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        self._links: dict[str, Link] = {}
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._ended: dict[str, tuple[float, Trouble | None]] = {}
        """When replicas were lost that Serve had not stopped, by `time.monotonic()`, and what ailed them. One that is
        connected to again has not ended."""
        self._task = asyncio.get_running_loop().create_task(self._follow())

    def __len__(self) -> int:
        """Replicas that can be sent to now."""
        return len(self._links)

    async def infer(self, call: Call) -> Reply:
        """Send to the replica with the fewest calls; of several, to the one that was sent to longest ago.

        Else the first one would do nearly all the work of a quiet version: calls of two routers would wait for each
        other there, and it would be busy enough to keep the idle ones from being stopped.

        Raises `ReplicaLostError` or `CallError`.
        """
        link = min(self._links.values(), key=lambda link: link.ongoing, default=None)
        if link is None:
            raise ReplicaLostError("no replica is connected")
        self._links[link.endpoint.replica] = self._links.pop(link.endpoint.replica)
        return await link.infer(call)

    def troubles(self) -> list[Trouble]:
        """What ails the replicas, then what ailed those that ended lately, the newest first; of each reason one."""
        self._forget()
        listed = running_replicas(self._handle)
        # Serve lists a replica until it knows that its process is gone: a connection can break for other reasons.
        silent = [when for name, (when, trouble) in self._ended.items() if trouble is None and name not in listed]
        told = [(when, trouble) for when, trouble in self._ended.values() if trouble is not None]
        if len(silent) >= DEATHS:
            text = f"at least {DEATHS} of its replicas died within {KEPT_S / 60:g} minutes; Ray's log says how"
            told.append((max(silent), Trouble("ReplicasDie", text)))
        told += [(math.inf, link.trouble) for link in self._links.values() if link.trouble is not None]
        found: dict[str, Trouble] = {}
        for _, trouble in sorted(told, reverse=True):
            found.setdefault(trouble.reason, trouble)
        return list(found.values())

    def tell(self, load: RouterLoad) -> None:
        """Tell every replica what this router has seen."""
        for link in self._links.values():
            link.tell(load)

    @property
    def wanted(self) -> Wanted | None:
        """How many there must be: the largest number that one of them told lately."""
        told = [link.wanted for link in self._links.values()]
        return max((each for each in told if each is not None), key=lambda each: each.replicas, default=None)

    @property
    def devices(self) -> frozenset[str]:
        """What those that can be sent to compute on, see `link.devices`."""
        listed = (each for each in _listed(self._handle) if each.replica_id.unique_id in self._links)
        return frozenset().union(*(devices.read(each.replica_metadata) for each in listed))

    def close(self) -> None:
        """Close every link."""
        for task in (self._task, *self._connecting.values(), *self._closing):
            task.cancel()
        for link in list(self._links.values()):
            link.close()

    async def _follow(self) -> None:
        while True:
            try:
                self._look()
            except Exception:
                logger.exception("The replicas of %s could not be read.", self._handle.app_name)
            await asyncio.sleep(LOOK_S)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        running = running_replicas(self._handle)
        for replica in self._links.keys() - running.keys():
            task = loop.create_task(_close_when_idle(self._links.pop(replica)))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for replica in running.keys() - self._links.keys() - self._connecting.keys():
            self._connecting[replica] = loop.create_task(self._connect(replica, Endpoint(*running[replica])))

    async def _connect(self, replica: str, endpoint: Endpoint) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                link = await Link.connect(endpoint, self._lost)
            if link.connected:
                self._links[replica] = link
                self._ended.pop(replica, None)
        except (OSError, TimeoutError) as error:
            # A replica that died a moment ago is still listed.
            logger.info("Replica %s of %s: %s", replica, self._handle.app_name, error or "no answer")
            await asyncio.sleep(LOOK_S)
        finally:
            del self._connecting[replica]

    def _lost(self, link: Link) -> None:
        if self._links.get(link.endpoint.replica) is link:
            del self._links[link.endpoint.replica]
            self._forget()
            self._ended[link.endpoint.replica] = time.monotonic(), link.trouble

    def _forget(self) -> None:
        begin = time.monotonic() - KEPT_S
        self._ended = {name: ended for name, ended in self._ended.items() if ended[0] > begin}


async def _close_when_idle(link: Link) -> None:
    while link.ongoing:  # noqa: ASYNC110 - an event would cost every call
        await asyncio.sleep(LOOK_S)
    link.close()


def running_replicas(handle: DeploymentHandle[Any]) -> Mapping[str, list[Any]]:
    """The replicas that Serve would send to now, by id, each with the endpoint it told."""
    told = {each.replica_id.unique_id: each.replica_metadata for each in _listed(handle)}
    return {replica: metadata["endpoint"] for replica, metadata in told.items() if "endpoint" in metadata}


def count(handle: DeploymentHandle[Any]) -> int:
    """How many replicas Serve would send to now; 0 where it has not told yet."""
    return len(_listed(handle))


def _listed(handle: DeploymentHandle[Any]) -> list[Any]:
    """Serve has no public call for this: `running_replicas_populated` stays true after the last replica is gone."""
    router = getattr(handle._router, "_asyncio_router", None)
    chosen = getattr(router, "request_router", None)
    return list(chosen.curr_replicas.values()) if chosen is not None else []
