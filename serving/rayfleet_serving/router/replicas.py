"""The replicas of one version: found through Serve, reached over links.

Every replica tells Serve its endpoint when it is ready (`Model.record_replica_metadata`), and Serve pushes the list of
running replicas, with what they told, to every handle. A new one is connected to; one that Serve stops is sent nothing
more, and its link closes when its last call is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from rayfleet_serving.link.call import Call, Reply
from rayfleet_serving.link.client import Link, ReplicaLostError
from rayfleet_serving.link.server import Endpoint

logger = logging.getLogger(__name__)

LOOK_S = 0.1
"""Between looks at the handle's list of replicas; a look is a comparison of two sets."""
CONNECT_TIMEOUT_S = 2.0


class Replicas:
    """Links to every running replica."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        self._links: dict[str, Link] = {}
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._task = asyncio.get_running_loop().create_task(self._follow())

    def __len__(self) -> int:
        """Replicas that can be sent to now."""
        return len(self._links)

    async def infer(self, call: Call) -> Reply:
        """Send to the replica with the fewest calls. Raises `ReplicaLostError` or `CallError`."""
        link = min(self._links.values(), key=lambda link: link.ongoing, default=None)
        if link is None:
            raise ReplicaLostError("no replica is connected")
        return await link.infer(call)

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
        except (OSError, TimeoutError) as error:
            # A replica that died a moment ago is still listed.
            logger.info("Replica %s of %s: %s", replica, self._handle.app_name, error or "no answer")
            await asyncio.sleep(LOOK_S)
        finally:
            del self._connecting[replica]

    def _lost(self, link: Link) -> None:
        if self._links.get(link.endpoint.replica) is link:
            del self._links[link.endpoint.replica]


async def _close_when_idle(link: Link) -> None:
    while link.ongoing:  # noqa: ASYNC110 - an event would cost every call
        await asyncio.sleep(LOOK_S)
    link.close()


def running_replicas(handle: DeploymentHandle[Any]) -> Mapping[str, list[Any]]:
    """The replicas that Serve would send to now, by id, each with the endpoint it told.

    Serve has no public call for this: `running_replicas_populated` stays true after the last replica is gone.
    """
    router = getattr(handle._router, "_asyncio_router", None)
    chosen = getattr(router, "request_router", None)
    if chosen is None:
        return {}
    told = {each.replica_id.unique_id: each.replica_metadata for each in chosen.curr_replicas.values()}
    return {replica: metadata["endpoint"] for replica, metadata in told.items() if "endpoint" in metadata}
