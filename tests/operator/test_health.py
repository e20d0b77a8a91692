"""The health and metrics servers, and what they take for ill."""

from __future__ import annotations

import socket

import httpx
import pytest
from fake_clock import Clock
from queued import taken

from rayfleet_operator import health
from rayfleet_operator.metrics import Metrics
from rayfleet_operator.workqueue import WorkQueue


async def test_each_server_answers_at_any_address_of_the_machine() -> None:
    checks = health.Health()
    async with health.serve_health(checks, 0) as port, httpx.AsyncClient(trust_env=False) as client:
        for host in ("127.0.0.1", "[::1]") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
            for path in ("healthz", "readyz"):
                answer = await client.get(f"http://{host}:{port}/{path}")
                assert (answer.status_code, answer.text) == (200, "ok\n")
        assert (await client.get(f"http://127.0.0.1:{port}/metrics")).status_code == 404


async def test_problems_are_told_one_a_line() -> None:
    checks = health.Health()
    checks.ready = {"watches": lambda: "have not begun", "good": lambda: None, "fleets": lambda: "not listed"}
    async with health.serve_health(checks, 0) as port, httpx.AsyncClient(trust_env=False) as client:
        ready = await client.get(f"http://127.0.0.1:{port}/readyz")
        live = await client.get(f"http://127.0.0.1:{port}/healthz")

    assert (ready.status_code, ready.text) == (500, "watches: have not begun\nfleets: not listed\n")
    assert live.status_code == 200


async def test_what_keeps_nobody_from_being_ready_is_told_beside() -> None:
    checks = health.Health()
    checks.known = {"fleets": lambda: "namespace b is closed", "watches": lambda: None}
    async with health.serve_health(checks, 0) as port, httpx.AsyncClient(trust_env=False) as client:
        ready = await client.get(f"http://127.0.0.1:{port}/readyz")
        live = await client.get(f"http://127.0.0.1:{port}/healthz")
        checks.ready = {"watches": lambda: "have not begun"}
        unready = await client.get(f"http://127.0.0.1:{port}/readyz")

    assert (ready.status_code, ready.text) == (200, "ok\nfleets: namespace b is closed\n")
    assert (unready.status_code, unready.text) == (500, "watches: have not begun\nfleets: namespace b is closed\n")
    assert live.text == "ok\n"


async def test_metrics_are_text_for_prometheus_and_hold_those_of_the_process() -> None:
    metrics = Metrics()
    metrics.reconciled("error", 0.1)
    async with health.serve_metrics(metrics.exposition, 0) as port, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'controller_runtime_reconcile_total{controller="fleet",result="error"} 1.0' in answer.text
    assert 'controller_runtime_reconcile_errors_total{controller="fleet"} 1.0' in answer.text
    assert "process_cpu_seconds_total" in answer.text


async def test_a_taken_port_is_named() -> None:
    async with health.serve_health(health.Health(), 0) as port:
        with pytest.raises(OSError, match=f"port {port}"):
            async with health.serve_health(health.Health(), port):
                pass


def test_workers_are_ill_when_a_ready_key_waits_while_they_are_idle() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    check = health.workers(queue, concurrency=1, deadline_s=1000)
    queue.add("a")
    clock.forward(299)
    assert check() is None
    clock.forward(2)
    assert "ready for 301 s" in str(check())

    assert taken(queue) == "a"
    queue.add("b")
    clock.forward(400)
    assert check() is None, "all workers are busy, and that is not an illness"


def test_workers_are_ill_when_a_reconcile_is_far_past_its_deadline() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    check = health.workers(queue, concurrency=1, deadline_s=60)
    queue.add("a")
    taken(queue)
    clock.forward(119)
    assert check() is None
    clock.forward(2)
    assert "running for 121 s" in str(check())
