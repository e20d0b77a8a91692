"""Prometheus metrics, for each model version.

A router records what a request went through; a model replica records its batches. Any router's `/metrics` answers
for all of them: it collects the exposition of every router and every model replica, and `replica` tells them apart.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


def geometric_buckets(first: float, last: float, ratio: float) -> tuple[float, ...]:
    """Bucket bounds from `first` to at least `last`, each `ratio` times the one before.

    A percentile read from them is off by at most `ratio - 1`.
    """
    bounds = [first]
    while bounds[-1] < last:
        bounds.append(float(f"{bounds[-1] * ratio:.3g}"))
    return tuple(bounds)


LATENCY_BUCKETS = geometric_buckets(0.0005, 60, 1.25)
"""0.5 ms to 60 s: a p99 is known to 25 % at 5 ms and at 5 s alike."""

BATCH_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096)

Outcome = Literal["compared", "incomparable", "failed", "dropped"]
"""What becomes of the copy of a request."""


class VersionMetrics:
    """The metrics of one version in one router, labels bound once."""

    def __init__(self, metrics: RouterMetrics, model: str, version: str) -> None:
        labels = (model, version, metrics.replica)
        self._families = metrics
        self._requests = metrics.requests
        self._errors = metrics.errors
        self._labels = labels
        self._codes: dict[tuple[str, int], Counter] = {}
        self.total = metrics.total.labels(*labels)
        self.queue = metrics.queue.labels(*labels)
        self.batch_wait = metrics.batch_wait.labels(*labels)
        self.compute = metrics.compute.labels(*labels)
        self.in_flight = metrics.in_flight.labels(*labels)
        self.admitted = metrics.admitted.labels(*labels)

    def answered(self, protocol: str, status: int) -> None:
        """Count one answer."""
        counter = self._codes.get((protocol, status))
        if counter is None:
            counter = self._codes[protocol, status] = self._requests.labels(*self._labels, protocol, str(status))
        counter.inc()

    def failed(self, cause: str) -> None:
        """Count one error by its cause."""
        self._errors.labels(*self._labels, cause).inc()

    def yielded(self, protocol: str) -> None:
        """Count one request that was not let in. No version has had it, so it counts for the model alone."""
        model, _, replica = self._labels
        self._requests.labels(model, "", replica, protocol, "429").inc()
        self._errors.labels(model, "", replica, "yielded").inc()

    def replicas(self, running: int, wanted: int | None) -> None:
        """Replicas that this router reaches, and those that there must be by the load; None where nobody says."""
        family = self._families.replicas
        family.labels(*self._labels, "running").set(running)
        if wanted is not None:
            family.labels(*self._labels, "wanted").set(wanted)
        else:
            with contextlib.suppress(KeyError):
                family.remove(*self._labels, "wanted")

    @cached_property
    def mirror(self) -> MirrorMetrics:
        """Of the copies that it gets; not there before the first, as most versions get none."""
        return MirrorMetrics(self._families, self._labels)


class MirrorMetrics:
    """What came of the copies of requests that one version got in one router."""

    def __init__(self, metrics: RouterMetrics, labels: tuple[str, str, str]) -> None:
        outcomes: tuple[Outcome, ...] = get_args(Outcome)
        self._requests = {outcome: metrics.mirror_requests.labels(*labels, outcome) for outcome in outcomes}
        self._rows = metrics.mirror_rows.labels(*labels)
        self._differing = metrics.mirror_differing.labels(*labels)
        self._distance = metrics.mirror_distance.labels(*labels)
        self.duration = metrics.mirror_duration.labels(*labels)

    def ended(self, outcome: Outcome) -> None:
        """Count one copy."""
        self._requests[outcome].inc()

    def compared(self, rows: int, differing: int, distance: float) -> None:
        """Count the rows of two answers; `distance` is their mean."""
        self._rows.inc(rows)
        self._differing.inc(differing)
        self._distance.inc(distance * rows)


class RouterMetrics:
    """The metric families of one router replica."""

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self.registry = CollectorRegistry()
        labels = ("model", "version", "replica")
        self.requests = Counter(
            "rayfleet_requests", "Requests answered.", (*labels, "protocol", "code"), registry=self.registry
        )
        self.errors = Counter(
            "rayfleet_request_errors",
            "Requests answered with an error, by its cause.",
            (*labels, "cause"),
            registry=self.registry,
        )
        self.total = self._histogram(
            "rayfleet_request_duration_seconds", "From the arrival of a request to its answer."
        )
        self.queue = self._histogram(
            "rayfleet_queue_duration_seconds", "Waiting in the router and for the model's device."
        )
        self.batch_wait = self._histogram(
            "rayfleet_batch_wait_duration_seconds", "Waiting on an idle device for a fuller batch."
        )
        self.compute = self._histogram("rayfleet_compute_duration_seconds", "In the model, with the whole batch.")
        self.in_flight = Gauge(
            "rayfleet_requests_in_flight", "Requests being worked on.", labels, registry=self.registry
        )
        self.replicas = Gauge(
            "rayfleet_replicas",
            "Replicas: running, those that the router reaches; wanted, those that the load needs, before bounds.",
            (*labels, "state"),
            registry=self.registry,
        )
        self.admitted = Gauge(
            "rayfleet_admitted_ratio",
            "Of the requests that were answered before, the share that is let in: below 1, it yields to another model.",
            labels,
            registry=self.registry,
        )
        self.busy = Gauge(
            "rayfleet_router_busy_ratio",
            "Share of the time for which the router's event loop works.",
            ("replica",),
            registry=self.registry,
        ).labels(replica)
        self.routers = Gauge(
            "rayfleet_routers", "Routers that this one sees, itself among them.", ("replica",), registry=self.registry
        ).labels(replica)
        self.mirror_requests = Counter(
            "rayfleet_mirror_requests",
            "Copies of requests that other versions answered, by what became of them.",
            (*labels, "outcome"),
            registry=self.registry,
        )
        self.mirror_rows = Counter(
            "rayfleet_mirror_rows", "Rows compared with the live answer.", labels, registry=self.registry
        )
        self.mirror_differing = Counter(
            "rayfleet_mirror_differing_rows", "Compared rows that differ.", labels, registry=self.registry
        )
        self.mirror_distance = Counter(
            "rayfleet_mirror_distance",
            "Sum over compared rows of the mean absolute difference.",
            labels,
            registry=self.registry,
        )
        self.mirror_duration = self._histogram(
            "rayfleet_mirror_request_duration_seconds", "From sending a copy to its answer."
        )

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ("model", "version", "replica"), buckets=LATENCY_BUCKETS, registry=self.registry)

    def of(self, model: str, version: str) -> VersionMetrics:
        """The metrics of one version."""
        return VersionMetrics(self, model, version)

    def forget(self, model: str, version: str) -> None:
        """Drop a version's latency series once it is no longer served; its counters stay."""
        latencies = (self.total, self.queue, self.batch_wait, self.compute, self.mirror_duration)
        for family in (*latencies, self.in_flight, self.admitted):
            with contextlib.suppress(KeyError):
                family.remove(model, version, self.replica)
        for state in ("running", "wanted"):
            with contextlib.suppress(KeyError):
                self.replicas.remove(model, version, self.replica, state)

    def exposition(self) -> str:
        """Prometheus text of this replica."""
        return generate_latest(self.registry).decode()


class ModelMetrics:
    """The metrics of one model replica."""

    def __init__(self, model: str, version: str, replica: str) -> None:
        self.registry = CollectorRegistry()
        labels = ("model", "version", "replica")
        self._rows = Histogram(
            "rayfleet_batch_size", "Rows in one batch.", labels, buckets=BATCH_BUCKETS, registry=self.registry
        ).labels(model, version, replica)
        self._seconds = Histogram(
            "rayfleet_batch_duration_seconds",
            "One batch in the model.",
            labels,
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        ).labels(model, version, replica)
        self.queued = Gauge(
            "rayfleet_replica_queued_rows", "Rows that wait for the device.", labels, registry=self.registry
        ).labels(model, version, replica)
        self.loaded = Gauge(
            "rayfleet_replica_load_seconds",
            "Fetching the model, loading it and running each batch size once.",
            labels,
            registry=self.registry,
        ).labels(model, version, replica)
        self._labels = (model, version, replica)
        self._counted = {"busy": 0.0, "memory": 0.0}
        self._busy = Counter(
            "rayfleet_compute_busy_seconds",
            "Time that the model has computed: its rate is the share of the time that it keeps its device busy.",
            labels,
            registry=self.registry,
        ).labels(*self._labels)
        self._out_of_memory = Counter(
            "rayfleet_out_of_memory_batches",
            "Batches that ran out of memory; each was halved and tried again, down to single requests.",
            labels,
            registry=self.registry,
        ).labels(*self._labels)
        self._memory = {
            name: Gauge(name, text, labels, registry=self.registry)
            for name, text in (
                ("rayfleet_memory_used_bytes", "Memory of the replica's process, without pages of files."),
                ("rayfleet_memory_cap_bytes", "The model's resources.memory."),
                ("rayfleet_gpu_memory_used_bytes", "GPU memory of the replica; without a GPU, what stands in for it."),
                ("rayfleet_gpu_memory_cap_bytes", "The model's resources.gpuMemory."),
            )
        }

        self._scaling = {
            name: Gauge(f"rayfleet_scaling_{name}", text, labels, registry=self.registry)
            for name, text in (
                ("ongoing_requests", "Mean number of requests, over all routers and the look-back period."),
                ("latency_seconds", "What latency is held against its target, over the look-back period."),
                ("busy_ratio", "Share of the time for which the replica computes."),
            )
        }

    def batch(self, rows: int, seconds: float) -> None:
        """Record one batch."""
        self._rows.observe(rows)
        self._seconds.observe(seconds)

    def calls(self, busy_s: float, out_of_memory: int) -> None:
        """What the model's calls add up to since the replica began: seconds, and those that ran out of memory."""
        for name, counter, total in (("busy", self._busy, busy_s), ("memory", self._out_of_memory, out_of_memory)):
            counter.inc(max(0.0, total - self._counted[name]))
            self._counted[name] = total

    def memory(self, used: int | None, cap: int | None) -> None:
        """Bytes; None for what is not known, or not there."""
        self._gauges("rayfleet_memory", used, cap)

    def gpu_memory(self, used: int | None, cap: int | None) -> None:
        """The same of the GPU."""
        self._gauges("rayfleet_gpu_memory", used, cap)

    def _gauges(self, name: str, used: int | None, cap: int | None) -> None:
        for what, value in (("used", used), ("cap", cap)):
            if value is not None:
                self._memory[f"{name}_{what}_bytes"].labels(*self._labels).set(value)

    def scaling(self, ongoing: float | None, latency_s: float | None, busy: float | None) -> None:
        """What the number of replicas follows; None of what is not known."""
        for gauge, value in zip(self._scaling.values(), (ongoing, latency_s, busy), strict=True):
            if value is not None:
                gauge.labels(*self._labels).set(value)
            else:
                with contextlib.suppress(KeyError):
                    gauge.remove(*self._labels)

    def exposition(self) -> str:
        """Prometheus text of this replica."""
        return generate_latest(self.registry).decode()


_FAMILY = re.compile(r"(?=^# HELP )", re.MULTILINE)


def merge(expositions: Iterable[str]) -> str:
    """One exposition out of several: each family's HELP and TYPE stand once, before all its samples."""
    heads: dict[str, str] = {}
    samples: dict[str, list[str]] = {}
    for text in expositions:
        for block in _FAMILY.split(text):
            if not block:
                continue
            head, kind, body = block.split("\n", 2)
            name = head.split(" ", 3)[2]
            heads.setdefault(name, f"{head}\n{kind}\n")
            samples.setdefault(name, []).append(body)
    return "".join(head + "".join(samples[name]) for name, head in heads.items())
