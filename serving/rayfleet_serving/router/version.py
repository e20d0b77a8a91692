"""One live version as a router sees it: the handle to its replicas, its metadata, and its queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from rayfleet_serving.config import (
    MODEL_DEPLOYMENT,
    Limits,
    ModelRoute,
    RouterVersionState,
    VersionRoute,
    VersionTrouble,
    Wanted,
)
from rayfleet_serving.metrics import RouterMetrics
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.router import mirror
from rayfleet_serving.router.coalescer import Coalescer
from rayfleet_serving.router.load import Load
from rayfleet_serving.router.pressure import Pressure
from rayfleet_serving.router.replicas import Replicas, running_replicas
from rayfleet_serving.router.restraint import Restraint
from rayfleet_serving.router.window import Window
from rayfleet_serving.signature import ModelMetadata

logger = logging.getLogger(__name__)

PEER_TIMEOUT_S = 1.0
"""How long one replica may take to say what it counts or holds; the others' answers do not wait longer for it."""
METADATA_RETRY_S = 0.2
METADATA_TIMEOUT_S = 5.0
METADATA_WAIT_S = 3.0
"""How long a request waits for a version's metadata: a router that has just started has it within a second, and a
version that is still loading is better answered 503 than kept waiting. One that sleeps is waited for as long as the
request has."""
PEERS_S = 2.0
MOST_PEERS_S = 60.0
"""Between questions to the other routers what a version takes that has no replica to say so: at first, and at most, as
they ask each other about each model that sleeps."""
TELL_S = 1.0
"""How often replicas are told the load."""
LOOK_S = 0.1
"""How often a version that is to wake is looked at."""

Peers = Callable[[str, str | None], Awaitable[ModelMetadata | None]]
"""What another router knows of an application, with this labels file; None where none does."""


async def nobody(app: str, labels_file: str | None) -> ModelMetadata | None:
    """The peers of a router that has none."""
    return None


def deployment_handle(deployment: str, app: str) -> DeploymentHandle[Any]:
    """A handle that does not need the application to be there yet."""
    handle = serve.get_deployment_handle(deployment, app_name=app, _check_exists=False)
    return handle.options(_by_reference=False, request_serialization="pickle", response_serialization="pickle")


async def ask_all(handle: DeploymentHandle[Any], method: str, *args: Any) -> list[Any]:
    """What every replica that answers within `PEER_TIMEOUT_S` answers. Raises where Serve cannot be asked at all.

    Serve's `results_async` gives nothing at all once a single replica is silent.
    """
    async with asyncio.timeout(PEER_TIMEOUT_S):
        asked = await handle.broadcast(method, *args)._fetch_replica_results_async()
    waiting = (asyncio.wait_for(each.get_async(), PEER_TIMEOUT_S) for each in asked)  # type: ignore[no-untyped-call]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    return [answer for answer in answers if not isinstance(answer, BaseException)]


class LiveVersion:
    """A version that takes requests, may soon take some, or still works some off."""

    def __init__(
        self,
        model: str,
        route: VersionRoute,
        table: ModelRoute,
        *,
        routers: int,
        metrics: RouterMetrics,
        peers: Peers = nobody,
    ):
        self.model = model
        self.route = route
        self.metadata: ModelMetadata | None = None
        self._metadata_labels: str | None = None
        """The labels file that it was read with. What is known stays in use until what an edit made of it is there."""
        self._arrived = asyncio.Event()
        self._held = 0
        self._unknowing = 0
        """Requests that wait for the metadata."""
        self.window: Window | None = None
        self.load = Load(table.look_back_s)
        self.pressure = Pressure()
        self.restraint = Restraint()
        self._peers = peers
        self._waking: asyncio.Task[None] | None = None
        self._count_in(table)
        self.metrics = metrics.of(model, route.version)
        self._handle = deployment_handle(MODEL_DEPLOYMENT, route.app)
        self._replicas = Replicas(self._handle)
        self._labels_file = _labels_file(route)
        self.coalescer = self._queue(table.limits, routers)
        self.mirror = mirror.Mirror(self._queue(mirror.limits(table.limits), routers), self.metrics, self.load)
        """Copies of what other versions answer. They wait and travel by themselves."""
        self._metadata_task = asyncio.get_running_loop().create_task(self._fetch_metadata())
        self._telling = asyncio.get_running_loop().create_task(self._tell())

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
        self.share_with(routers)
        if _labels_file(route) != self._labels_file:
            self._labels_file = _labels_file(route)
            self._metadata_task.cancel()
            self._metadata_task = asyncio.get_running_loop().create_task(self._fetch_metadata())

    def share_with(self, routers: int) -> None:
        """So many routers share what the replicas may have in hand."""
        self.coalescer.routers = self.mirror.coalescer.routers = routers

    def _count_in(self, table: ModelRoute) -> None:
        self.load.look_back_s = table.look_back_s
        self.pressure.keep_to(table.target, table.limits)
        if table.window != (self.window.name if self.window is not None else ""):
            self.window = Window(table.window, predictions=table.predictions) if table.window else None

    def is_same(self, other: LiveVersion) -> bool:
        """Whether both are the same version of the same model: an edited spec runs it as another application."""
        return (self.model, self.route.version) == (other.model, other.route.version)

    @property
    def ready(self) -> bool:
        """What its model takes is known, and it has running replicas, or may wake one."""
        return self.metadata is not None and (self.awake or self.route.sleeps)

    @property
    def open(self) -> bool:
        """Requests are answered, though the first may have to wake it, of which nothing may be known yet."""
        return self.ready or (self.route.sleeps and not self.awake)

    @property
    def running(self) -> int:
        """Replicas that it reaches."""
        return len(self._replicas)

    @property
    def wanted(self) -> Wanted | None:
        """How many replicas there must be by its load, see `Replicas.wanted`."""
        return self._replicas.wanted

    @property
    def awake(self) -> bool:
        """It has running replicas."""
        return self.running > 0

    @property
    def devices(self) -> frozenset[str]:
        """What its replicas compute on, see `link.devices`."""
        return self._replicas.devices

    @property
    def held_now(self) -> int:
        """Requests that it is held for, those whose body still arrives among them."""
        return self._held

    @property
    def idle(self) -> bool:
        """No request of this router is with it or on its way to it. Copies do not count."""
        return not (self._held or self.coalescer.ongoing)

    def state(self) -> RouterVersionState:
        """What the control path wants to know. A request whose body is still arriving counts as ongoing."""
        queued = self.coalescer.queued
        ongoing = max(self._held - queued, self.coalescer.ongoing)
        count = self.window.count() if self.window is not None else None
        return RouterVersionState(
            ready=self.ready,
            ongoing=ongoing,
            queued=queued,
            count=count,
            troubles=[VersionTrouble(reason=each.reason, message=each.message) for each in self._replicas.troubles()],
            wanted=self.wanted,
        )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the version for one request. Raises `RequestError` 429 where more are here than may wait and run."""
        most = self.coalescer.capacity
        if self.metadata is None and self.route.sleeps and not self.awake:
            # Once it is known what it takes, all of them queue, before there is a replica to run any.
            most = max(1, self.coalescer.limits.max_queued_requests)
        if self._held >= most:
            self.load.refused()
            self.pressure.ended(429, 0.0)
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
            self.wake()
            self._unknowing += 1
            try:
                async with asyncio.timeout(patience if self.route.sleeps else min(patience, METADATA_WAIT_S)):
                    await self._arrived.wait()
            except TimeoutError:
                pass
            finally:
                self._unknowing -= 1
        if self.metadata is None:
            text = f"Version {self.route.version} of {self.model} does not answer yet; the model's status says why."
            raise RequestError(503, "NotReady", text, retry_after=2.0)
        return self.metadata

    def wake(self) -> None:
        """Have a replica started for the requests that are held, where it sleeps."""
        if self.route.sleeps and not self.awake and self._waking is None:
            self._waking = asyncio.get_running_loop().create_task(self._wake())

    async def expositions(self) -> list[str]:
        """The Prometheus text of every replica that answers in time."""
        return await ask_all(self._handle, "exposition")

    async def close(self) -> None:
        """Let go of the handle, and of the copies under way."""
        self._metadata_task.cancel()
        self._telling.cancel()
        if self._waking is not None:
            self._waking.cancel()
        self.mirror.close()
        self._replicas.close()
        await self._handle.shutdown_async()  # type: ignore[no-untyped-call]

    async def _fetch_metadata(self) -> None:
        """Ask until a replica answers: the version may still be loading. Of one that sleeps, other routers may know.

        A replica is only asked where one runs: a call that waits for one would wake a version that sleeps.
        """
        peers_at, pause = 0.0, PEERS_S
        while True:
            try:
                async with asyncio.timeout(METADATA_TIMEOUT_S):
                    labels_file = self._labels_file
                    if running_replicas(self._handle):
                        self._known(await self._handle.metadata.remote(labels_file), labels_file)
                        return
                    if self.route.sleeps and time.monotonic() >= peers_at:
                        peers_at, pause = time.monotonic() + pause, min(2 * pause, MOST_PEERS_S)
                        if (told := await self._peers(self.route.app, labels_file)) is not None:
                            self._known(told, labels_file)
                            return
            except Exception as error:
                logger.debug("No metadata of %s yet: %s", self.route.app, error)
            await asyncio.sleep(METADATA_RETRY_S)

    def _known(self, metadata: ModelMetadata, labels_file: str | None) -> None:
        if self.metadata is not None and labels_file != self._labels_file:
            return  # What was asked before an edit is answered after it.
        self.metadata, self._metadata_labels = metadata, labels_file
        self._arrived.set()

    def known_to_peers(self, labels_file: str | None) -> ModelMetadata | None:
        """What another router is told that asks for it."""
        return self.metadata if labels_file == self._metadata_labels else None

    async def _wake(self) -> None:
        """Let a call wait for a replica for as long as requests do: Serve starts one for it, and for nothing else.

        Requests themselves never wait in Serve's handle, which knows neither their deadlines nor their limits.
        """
        try:
            while self._held and not self.awake:
                labels_file = self._labels_file
                call = asyncio.ensure_future(self._handle.metadata.remote(labels_file))
                try:
                    while self._held and not self.awake and not call.done():
                        await asyncio.wait((call,), timeout=LOOK_S)
                finally:
                    call.cancel()
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    self._known(await call, labels_file)
                if not self.awake:
                    await asyncio.sleep(LOOK_S)
        except Exception:
            logger.exception("%s could not be woken.", self.route.app)
        finally:
            self._waking = None

    async def _tell(self) -> None:
        """Tell the replicas the load, each second."""
        while True:
            await asyncio.sleep(TELL_S)
            try:
                if self.coalescer.queued or self._unknowing:
                    # They came when there was a replica, which went before they were sent.
                    self.wake()
                # Also while there is none: how long requests waited for the first one asks for no second one.
                if (load := self.load.seen(self.running)) is not None:
                    self._replicas.tell(load)
            except Exception:
                logger.exception("The load of %s could not be told.", self.route.app)


def _labels_file(route: VersionRoute) -> str | None:
    return route.transform.classification.labels_file if route.transform.classification else None
