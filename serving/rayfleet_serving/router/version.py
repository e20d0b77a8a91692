"""One live version as a router sees it: the handle to its replicas, its metadata, and its queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from rayfleet_serving.config import MODEL_DEPLOYMENT, Limits, ModelRoute, RouterVersionState, VersionRoute
from rayfleet_serving.metrics import RouterMetrics
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.router import mirror
from rayfleet_serving.router.coalescer import Coalescer
from rayfleet_serving.router.replicas import Replicas
from rayfleet_serving.router.window import Window
from rayfleet_serving.signature import ModelMetadata

logger = logging.getLogger(__name__)

PEER_TIMEOUT_S = 1.0
"""How long one replica may take to say what it counts or holds; the others' answers do not wait longer for it."""
METADATA_RETRY_S = 0.2
METADATA_TIMEOUT_S = 5.0
METADATA_WAIT_S = 3.0
"""How long a request waits for a version's metadata: a router that has just started has it within a second, and a
version that is still loading is better answered 503 than kept waiting."""


def deployment_handle(deployment: str, app: str) -> DeploymentHandle[Any]:
    """A handle that does not need the application to be there yet."""
    handle = serve.get_deployment_handle(deployment, app_name=app, _check_exists=False)
    return handle.options(_by_reference=False, request_serialization="pickle", response_serialization="pickle")


async def ask_all(handle: DeploymentHandle[Any], method: str) -> list[Any]:
    """What every replica that answers within `PEER_TIMEOUT_S` answers. Raises where Serve cannot be asked at all.

    Serve's `results_async` gives nothing at all once a single replica is silent.
    """
    async with asyncio.timeout(PEER_TIMEOUT_S):
        asked = await handle.broadcast(method)._fetch_replica_results_async()
    waiting = (asyncio.wait_for(each.get_async(), PEER_TIMEOUT_S) for each in asked)  # type: ignore[no-untyped-call]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    return [answer for answer in answers if not isinstance(answer, BaseException)]


class LiveVersion:
    """A version that takes requests, may soon take some, or still works some off."""

    def __init__(self, model: str, route: VersionRoute, table: ModelRoute, *, routers: int, metrics: RouterMetrics):
        self.model = model
        self.route = route
        self.metadata: ModelMetadata | None = None
        self._arrived = asyncio.Event()
        self._held = 0
        self.window: Window | None = None
        self._count_in(table)
        self.metrics = metrics.of(model, route.version)
        self._handle = deployment_handle(MODEL_DEPLOYMENT, route.app)
        self._replicas = Replicas(self._handle)
        self._labels_file = _labels_file(route)
        self.coalescer = self._queue(table.limits, routers)
        self.mirror = mirror.Mirror(self._queue(mirror.limits(table.limits), routers), self.metrics)
        """Copies of what other versions answer. They wait and travel by themselves."""
        self._metadata_task = asyncio.get_running_loop().create_task(self._fetch_metadata())

    def _queue(self, limits: Limits, routers: int) -> Coalescer:
        return Coalescer(
            self._replicas.infer,
            self._replicas.__len__,
            name=f"{self.model} version {self.route.version}",
            limits=limits,
            max_batch_size=self.route.max_batch_size,
            routers=routers,
        )

    def update(self, route: VersionRoute, table: ModelRoute, routers: int) -> None:
        """Take over what changes in place: weight, limits, batch size, labels."""
        self.route = route
        self._count_in(table)
        self.coalescer.limits = table.limits
        self.mirror.coalescer.limits = mirror.limits(table.limits)
        for coalescer in (self.coalescer, self.mirror.coalescer):
            coalescer.max_batch_size = route.max_batch_size
            coalescer.routers = routers
        if _labels_file(route) != self._labels_file:
            self._labels_file = _labels_file(route)
            self._metadata_task.cancel()
            self._metadata_task = asyncio.get_running_loop().create_task(self._fetch_metadata())

    def _count_in(self, table: ModelRoute) -> None:
        if table.window != (self.window.name if self.window is not None else ""):
            self.window = Window(table.window, predictions=table.predictions) if table.window else None

    def is_same(self, other: LiveVersion) -> bool:
        """Whether both are the same version of the same model: an edited spec runs it as another application."""
        return (self.model, self.route.version) == (other.model, other.route.version)

    @property
    def ready(self) -> bool:
        """It has running replicas, and what its model takes is known."""
        return self.metadata is not None and len(self._replicas) > 0

    @property
    def idle(self) -> bool:
        """No request of this router is with it or on its way to it. Copies do not count."""
        return not (self._held or self.coalescer.ongoing)

    def state(self) -> RouterVersionState:
        """What the control path wants to know. A request whose body is still arriving counts as ongoing."""
        queued = self.coalescer.queued
        ongoing = max(self._held - queued, self.coalescer.ongoing)
        count = self.window.count() if self.window is not None else None
        return RouterVersionState(ready=self.ready, ongoing=ongoing, queued=queued, count=count)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the version for one request. Raises `RequestError` 429 where more are here than may wait and run."""
        if self._held >= self.coalescer.capacity:
            raise self.coalescer.full(self._held)
        self._held += 1
        self.metrics.in_flight.inc()
        try:
            yield
        finally:
            self._held -= 1
            self.metrics.in_flight.dec()

    async def known(self, patience: float = METADATA_WAIT_S) -> ModelMetadata:
        """What the model takes. Raises `RequestError` 503 where no replica has told in `patience` seconds."""
        if self.metadata is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(patience, METADATA_WAIT_S)):
                    await self._arrived.wait()
        if self.metadata is None:
            text = f"Version {self.route.version} of {self.model} does not answer yet; the model's status says why."
            raise RequestError(503, "NotReady", text, retry_after=2.0)
        return self.metadata

    async def expositions(self) -> list[str]:
        """The Prometheus text of every replica that answers in time."""
        return await ask_all(self._handle, "exposition")

    async def close(self) -> None:
        """Let go of the handle, and of the copies under way."""
        self._metadata_task.cancel()
        self.mirror.close()
        self._replicas.close()
        await self._handle.shutdown_async()  # type: ignore[no-untyped-call]

    async def _fetch_metadata(self) -> None:
        """Ask until a replica answers: the version may still be loading."""
        while True:
            try:
                async with asyncio.timeout(METADATA_TIMEOUT_S):
                    self.metadata = await self._handle.metadata.remote(self._labels_file)
                self._arrived.set()
                return
            except Exception as error:
                logger.debug("No metadata of %s yet: %s", self.route.app, error)
                await asyncio.sleep(METADATA_RETRY_S)


def _labels_file(route: VersionRoute) -> str | None:
    return route.transform.classification.labels_file if route.transform.classification else None
