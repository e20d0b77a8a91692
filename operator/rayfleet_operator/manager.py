"""The operator process: leads or stands by, watches, and has each fleet reconciled.

In order: the health and metrics servers and the one for webhooks, the Lease, then the watches and the workers;
backwards at the end, so that whoever takes the Lease next finds nobody at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, NoReturn

from rayfleet_operator import health
from rayfleet_operator.controller import Build, Closing, Controller, Reconciler, Result, Waking
from rayfleet_operator.handlers import Watches
from rayfleet_operator.health import Health
from rayfleet_operator.kube import config
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.config import Connection
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.kube.lease import ATTEMPT_S, Lease, LeaseLost
from rayfleet_operator.kube.references import References
from rayfleet_operator.metrics import Metrics
from rayfleet_operator.settings import Settings
from rayfleet_operator.webhook import Webhook

__all__ = ["Manager", "Ports", "Result", "run"]

END_S = 25.0
"""For giving up the Lease once the process is asked to end, and for all before that; a pod has 30 s altogether."""
FINISH_S = 10.0
"""For reconciles that are running when the process is asked to end."""
CANCEL_S = 5.0
"""For reconciles to end once they are cancelled."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ports:
    """Where the process answers."""

    metrics: int
    health: int
    webhook: int | None
    """None where nothing listens for webhooks."""


async def run(
    settings: Settings,
    build: Build,
    *,
    stop: asyncio.Event | None = None,
    started: Callable[[Ports], None] = lambda ports: None,
) -> None:
    """Run until `stop` is set; left out, until SIGTERM or SIGINT. `started` is called once the servers answer.

    Raises:
        RuntimeError: a part of the process ended that should not; the message names it.
        LeaseLost: another process may lead by now; every reconcile was cancelled.
        ConfigError: the API server's configuration cannot be used.
        OSError: a port is taken.
    """
    manager = Manager(settings, build, config.load(settings.kubeconfig))
    async with AsyncExitStack() as stack:
        if stop is None:
            stop = stack.enter_context(_signals())
        metrics = await stack.enter_async_context(
            health.serve_metrics(manager.metrics.exposition, settings.metrics_port)
        )
        checks = await stack.enter_async_context(health.serve_health(manager.health, settings.health_port))
        webhook = None
        if manager.webhook is not None:
            webhook = await stack.enter_async_context(manager.webhook.serve(settings.registry_webhook_port))
        started(Ports(metrics=metrics, health=checks, webhook=webhook))
        await manager.run(stop)
    logger.info("Ended")


class Manager:
    """One process, from standing by to its end."""

    def __init__(self, settings: Settings, build: Build, connection: Connection) -> None:
        self.metrics = Metrics()
        self.health = Health()
        key_file = settings.registry_webhook
        self.webhook = Webhook(key_file, self.metrics.webhook) if key_file is not None else None
        if self.webhook is not None:
            self.health.known["registry webhook"] = self.webhook.problem
        self._settings = settings
        self._build = build
        self._connection = connection

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Raises `LeaseLost`, or `RuntimeError` when a part ended that should not."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(self._client(qps=settings.kube_qps))
            if not settings.leader_election:
                await self._lead(client, None, stop)
                return
            # A client of its own: a renewal must not wait for its turn behind reconciles.
            unlimited = await stack.enter_async_context(self._client(qps=None))
            lease = Lease(
                unlimited,
                namespace=settings.operator_namespace,
                name=settings.lease_name,
                identity=settings.identity,
                leads=lambda holds: self.metrics.leads(settings.lease_name, holds),
            )
            self.metrics.leads(settings.lease_name, False)
            try:
                if await _unless(stop, lease.acquire()):
                    await self._lead(client, lease, stop)
            finally:
                # Whatever kept it from working; does nothing where it was given up already.
                await lease.release()

    def _client(self, *, qps: float | None) -> KubeClient:
        return KubeClient(
            self._connection,
            qps=qps,
            burst=self._settings.kube_burst,
            metrics=self.metrics.requests,
            reporter=self._settings.identity,
        )

    async def _lead(self, client: KubeClient, lease: Lease | None, stop: asyncio.Event) -> None:
        controller = Controller(self._settings, self.metrics)
        watches = Watches(
            self._connection,
            client,
            namespaces=self._settings.namespaces,
            observe=controller.observe,
            metrics=self.metrics.requests,
        )
        references: References[FleetKey] = References(client, controller.queue.add)
        reconciler = self._build(self._settings, client, references, controller.queue.add)
        self._check(controller, watches)
        if self.webhook is not None and isinstance(reconciler, Waking):
            self.webhook.leads(reconciler.wake)
        keeping = asyncio.create_task(lease.keep() if lease is not None else _for_ever(), name="the Lease")
        workers = self._workers(controller, reconciler)
        sources = [
            asyncio.create_task(watches.run(), name="the watches"),
            asyncio.create_task(controller.resync.run(client), name="the resync"),
        ]
        stopped = asyncio.create_task(stop.wait())
        clock = asyncio.get_running_loop().time
        end = clock()
        try:
            await asyncio.wait([stopped, keeping, *workers, *sources], return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                end = clock() + END_S
                logger.info("Asked to end; %d reconciles are running", controller.queue.active)
                controller.queue.shut_down()
                # The Lease is kept meanwhile: what still runs must not meet the next leader's work.
                working: list[asyncio.Future[Any]] = [keeping, asyncio.gather(*workers, return_exceptions=True)]
                await asyncio.wait(working, timeout=FINISH_S, return_when=asyncio.FIRST_COMPLETED)
            failures = [task for task in (keeping, *workers, *sources) if _failed(task, asked=stopped.done())]
        finally:
            if self.webhook is not None:
                self.webhook.leads(None)
            controller.queue.shut_down()
            await _end(*workers)
            await _end(keeping)
            if lease is not None:
                # All the time that is left: an API server that is busy must not cost the next leader a Lease's length.
                await lease.release(within_s=max(ATTEMPT_S, end - clock()))
            await _end(stopped, *sources)
            await references.close()
            if isinstance(reconciler, Closing):
                await reconciler.close()
        if failures:
            _fail(failures[0])

    def _workers(self, controller: Controller, reconciler: Reconciler) -> list[asyncio.Task[None]]:
        return [
            asyncio.create_task(controller.work(reconciler), name=f"worker {number}")
            for number in range(self._settings.concurrency)
        ]

    def _check(self, controller: Controller, watches: Watches) -> None:
        """From now on, being well means more than to answer."""
        self.health.live |= {
            "workers": health.workers(
                controller.queue,
                concurrency=self._settings.concurrency,
                deadline_s=self._settings.reconcile_deadline_s,
            ),
            "watches": watches.dead,
        }
        self.health.ready |= {
            "watches": watches.waits_for,
            "fleets": controller.resync.waits_for,
        }
        self.health.known |= {
            "watches": watches.passes_over,
            "fleets": controller.resync.passes_over,
        }


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """Set by the first SIGTERM or SIGINT; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def heard() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, heard)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether the work was done before `stop` was set; cancelled otherwise."""
    working = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        await _end(working, stopped)


async def _for_ever() -> None:
    await asyncio.Event().wait()


def _failed(task: asyncio.Task[Any], *, asked: bool) -> bool:
    """Whether the task ended as it should not; unless the process was `asked` to end, none should."""
    if not task.done():
        return False
    return not asked or (not task.cancelled() and task.exception() is not None)


def _fail(task: asyncio.Task[Any]) -> NoReturn:
    """Raise what there is to say of a task that should not have ended so."""
    name = task.get_name()
    if task.cancelled():
        raise RuntimeError(f"{name} was cancelled")
    error = task.exception()
    if isinstance(error, LeaseLost):
        raise error
    raise RuntimeError(f"{name} {'failed' if error is not None else 'ended'}") from error


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel, and wait for as long as that may take."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CANCEL_S)
