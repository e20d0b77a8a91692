"""Prometheus metrics of the operator, under the names that client-go and controller-runtime gave them.

So dashboards and alerts that people have for their other operators fit this one. What those do not have is named
`rayfleet_…`. Families that somebody registers with
prometheus_client's own registry are shown too, as are those of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

CONTROLLER = "fleet"
"""Value of the label `controller`, and the queue's `name`."""

QUEUE_BUCKETS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100, 1000)
REQUEST_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)
RECONCILE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)

Outcome = Literal["success", "error", "requeue_after"]


class Queue(Protocol):
    """What is asked of the queue whenever Prometheus asks."""

    def __len__(self) -> int: ...
    def unfinished_work(self) -> float: ...
    def longest_work(self) -> float: ...


class QueueMetrics:
    """What a work queue reports; names and meanings are client-go's."""

    def __init__(self, registry: CollectorRegistry, name: str) -> None:
        self._registry = registry
        self._name = name
        self._adds = Counter(
            "workqueue_adds", "Keys added, those that were there already not counted.", ("name",), registry=registry
        ).labels(name)
        self._retries = Counter(
            "workqueue_retries", "Keys added again after a failure.", ("name",), registry=registry
        ).labels(name)
        self._waits = Histogram(
            "workqueue_queue_duration_seconds",
            "How long a key was ready before a worker took it.",
            ("name",),
            buckets=QUEUE_BUCKETS,
            registry=registry,
        ).labels(name)
        self._works = Histogram(
            "workqueue_work_duration_seconds",
            "How long a worker had a key.",
            ("name",),
            buckets=QUEUE_BUCKETS,
            registry=registry,
        ).labels(name)

    def watch(self, queue: Queue) -> None:
        """Show the present state of `queue` too."""

        def gauge(metric: str, text: str, value: Callable[[], float]) -> None:
            Gauge(metric, text, ("name",), registry=self._registry).labels(self._name).set_function(value)

        gauge("workqueue_depth", "Keys that are ready for a worker.", lambda: float(len(queue)))
        gauge(
            "workqueue_unfinished_work_seconds",
            "Seconds of work in progress, summed; growing steadily, it tells of stuck workers.",
            queue.unfinished_work,
        )
        gauge(
            "workqueue_longest_running_processor_seconds",
            "Seconds for which the longest-running worker has been at its key.",
            queue.longest_work,
        )

    def added(self) -> None:
        self._adds.inc()

    def retried(self) -> None:
        self._retries.inc()

    def taken(self, waited_s: float) -> None:
        self._waits.observe(waited_s)

    def finished(self, worked_s: float) -> None:
        self._works.observe(worked_s)


class RequestMetrics:
    """Requests to the API server; names and meanings are client-go's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "rest_client_requests",
            "Requests to the API server, by status code; <error> when there was no answer.",
            ("code", "method", "host"),
            registry=registry,
        )
        self._seconds = Histogram(
            "rest_client_request_duration_seconds",
            "From sending a request to the head of its answer.",
            ("verb", "host"),
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )

    def answered(self, *, method: str, host: str, code: int | None, seconds: float) -> None:
        """Count one request; `code` is None when nothing came back."""
        self._requests.labels("<error>" if code is None else str(code), method, host).inc()
        self._seconds.labels(method, host).observe(seconds)


WEBHOOK_RESULTS = (
    "accepted",
    "signature",
    "stale",
    "replayed",
    "malformed",
    "too_large",
    "slow",
    "no_key",
    "standby",
)
"""What becomes of a delivery: taken, or why not."""


class WebhookMetrics:
    """What the registry's webhooks deliver."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._deliveries = Counter(
            "rayfleet_registry_webhook_deliveries",
            "Deliveries of the registry's webhooks, by what became of them.",
            ("result",),
            registry=registry,
        )
        for result in WEBHOOK_RESULTS:
            self._deliveries.labels(result)

    def delivered(self, result: str) -> None:
        """Count one delivery; `result` is one of `WEBHOOK_RESULTS`."""
        self._deliveries.labels(result).inc()


class Metrics:
    """All of one operator process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.queue = QueueMetrics(self.registry, CONTROLLER)
        self.requests = RequestMetrics(self.registry)
        self.webhook = WebhookMetrics(self.registry)
        self._reconciles = Counter(
            "controller_runtime_reconcile",
            "Reconciles, by how they ended.",
            ("controller", "result"),
            registry=self.registry,
        )
        self._errors = Counter(
            "controller_runtime_reconcile_errors", "Reconciles that failed.", ("controller",), registry=self.registry
        ).labels(CONTROLLER)
        self._seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "How long a reconcile took.",
            ("controller",),
            buckets=RECONCILE_BUCKETS,
            registry=self.registry,
        ).labels(CONTROLLER)
        self.active_workers = Gauge(
            "controller_runtime_active_workers", "Workers with a key.", ("controller",), registry=self.registry
        ).labels(CONTROLLER)
        self.max_concurrent = Gauge(
            "controller_runtime_max_concurrent_reconciles", "All workers.", ("controller",), registry=self.registry
        ).labels(CONTROLLER)
        self._leader = Gauge(
            "leader_election_master_status", "1 while this process holds the Lease.", ("name",), registry=self.registry
        )
        for result in ("success", "error", "requeue_after"):
            self._reconciles.labels(CONTROLLER, result)  # so that a rate can be taken from the first one on

    def leads(self, lease: str, holds: bool) -> None:
        """Whether this process holds the Lease."""
        self._leader.labels(lease).set(1 if holds else 0)

    def reconciled(self, outcome: Outcome, seconds: float) -> None:
        """Count one reconcile."""
        self._reconciles.labels(CONTROLLER, outcome).inc()
        self._seconds.observe(seconds)
        if outcome == "error":
            self._errors.inc()

    @contextmanager
    def working(self) -> Iterator[None]:
        """One worker has a key."""
        self.active_workers.inc()
        try:
            yield
        finally:
            self.active_workers.dec()

    def exposition(self) -> bytes:
        """Prometheus text."""
        return prometheus_client.generate_latest(self.registry) + prometheus_client.generate_latest()
