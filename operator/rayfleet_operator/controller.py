"""From changes to reconciles: which fleet a change concerns, who works on it, and what happens when that fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rayfleet_operator import logs
from rayfleet_operator.kube.client import Json, KubeClient
from rayfleet_operator.kube.errors import KubeError
from rayfleet_operator.kube.keys import FleetKey, Fleets
from rayfleet_operator.kube.kinds import Kind
from rayfleet_operator.kube.references import References
from rayfleet_operator.metrics import Metrics, Outcome
from rayfleet_operator.resync import Resync
from rayfleet_operator.settings import Settings
from rayfleet_operator.workqueue import ShutDown, WorkQueue

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """How a reconcile went that did not fail."""

    requeue_after: float | None = None
    """Seconds until the fleet must be looked at again even if nothing happens; None: it need not."""


class Reconciler(Protocol):
    """Brings one fleet to what is wanted. Never called twice at a time for one key."""

    async def reconcile(self, key: FleetKey) -> Result:
        """Raises whatever went wrong; it is then called again, the later the more often it failed."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A reconciler that has something to close at the end."""

    async def close(self) -> None: ...


@runtime_checkable
class Waking(Protocol):
    """A reconciler that asks a registry by itself, and can be told when to."""

    def wake(self, registered_model: str) -> None:
        """A model of the registry may have changed, says somebody who should know."""
        ...


Build = Callable[[Settings, KubeClient, References[FleetKey], Callable[[FleetKey], None]], Reconciler]
"""Makes the reconciler; the last argument queues a fleet."""


class Controller:
    """The queue of fleets and the workers on it."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._fleets = Fleets()
        self.queue: WorkQueue[FleetKey] = WorkQueue(metrics=metrics.queue)
        self.resync = Resync(settings, self._fleets, self.queue)
        metrics.queue.watch(self.queue)
        metrics.max_concurrent.set(settings.concurrency)

    def observe(self, kind: Kind, obj: Json, deleted: bool) -> None:
        """Queue the fleets that a change concerns."""
        for key in self._fleets.seen(kind, obj, deleted=deleted):
            self.queue.add(key)

    async def work(self, reconciler: Reconciler) -> None:
        """One worker, until the queue is shut down."""
        while True:
            try:
                key = await self.queue.get()
            except ShutDown:
                return
            try:
                with self._metrics.working(), logs.reconciling(str(key)):
                    await self._reconcile(reconciler, key)
            finally:
                self.queue.done(key)

    async def _reconcile(self, reconciler: Reconciler, key: FleetKey) -> None:
        began = time.perf_counter()
        outcome: Outcome = "success"
        try:
            result = await self._bounded(reconciler, key)
        except Exception as error:
            outcome = "error"
            delay = self.queue.add_rate_limited(key)
            logger.error("The reconcile failed; again in %.1f s: %s", delay, _said(error))
            logger.debug("Where it failed", exc_info=error)
        else:
            self.queue.forget(key)
            if result.requeue_after is not None:
                outcome = "requeue_after"
                self.queue.add_after(key, result.requeue_after)
            else:
                self.resync.rests(key)
        took = time.perf_counter() - began
        self._metrics.reconciled(outcome, took)
        logger.debug("Reconciled in %.2f s: %s", took, outcome)

    async def _bounded(self, reconciler: Reconciler, key: FleetKey) -> Result:
        seconds = self._settings.reconcile_deadline_s
        try:
            async with asyncio.timeout(seconds) as deadline:
                return await reconciler.reconcile(key)
        except TimeoutError as error:
            if deadline.expired():
                raise TimeoutError(f"it took longer than {seconds:g} s") from error
            raise


def _said(error: BaseException) -> str:
    """What happened; of errors that come in a group, what happened in each."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(_said(each) for each in error.exceptions))
    # These say it all in words.
    plain = isinstance(error, KubeError | TimeoutError) and str(error)
    return str(error) if plain else f"{type(error).__name__}: {error}"
