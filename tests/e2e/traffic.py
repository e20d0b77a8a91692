"""Requests from inside the cluster, at a steady rate, each answer counted: a pod that sends until it is asked to stop.

Half of the requests use connections that are kept, as clients with a pool do, and half open their own, as a client that
starts does: a Service that has no endpoint for a moment shows in the second half only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.deadline import until
from cluster.kubectl import Kubectl

SCRIPT = """
import asyncio, contextlib, json, os, sys, time
import httpx

POOLS = 6  # Each has a connection of its own, so that they lead to every worker.

url, rate = sys.argv[1], float(sys.argv[2])
body = json.loads(sys.argv[3])
began = time.time()
report = {"sent": 0, "answered": 0, "failed": [], "versions": {}, "answers": {}, "longest_s": 0.0, "last_ok": 0.0,
          "longest_gap_s": 0.0}
under_way = {}  # When each request began that has not ended, by its number.

async def send(kept):
    report["sent"] += 1
    number, start = report["sent"], time.time()
    under_way[number] = start
    try:
        if kept is not None:
            response = await kept.post(url, json=body)
        else:
            async with httpx.AsyncClient(timeout=30, trust_env=False, verify=False) as own:
                response = await own.post(url, json=body)
        status, detail = response.status_code, response.text[:200]
    except Exception as error:
        status, detail = 0, f"{type(error).__name__}: {error}"
    now = time.time()
    del under_way[number]
    report["longest_s"] = max(report["longest_s"], now - start)
    if status == 200:
        report["answered"] += 1
        version = response.headers.get("x-rayfleet-model-version", "")
        report["versions"][version] = report["versions"].get(version, 0) + 1
        report["answers"][detail] = report["answers"].get(detail, 0) + 1
        if report["last_ok"]:
            report["longest_gap_s"] = max(report["longest_gap_s"], now - report["last_ok"])
        report["last_ok"] = now
    elif len(report["failed"]) < 1000:
        report["failed"].append({"at": round(start - began, 2), "took": round(now - start, 2), "status": status,
                                 "kept": kept is not None, "detail": detail})

async def main():
    tasks = set()
    async with contextlib.AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(httpx.AsyncClient(timeout=30, trust_env=False)) for _ in range(POOLS)]
        number, due = 0, time.monotonic()
        while not os.path.exists("/tmp/stop"):
            task = asyncio.ensure_future(send(pools[number // 2 % POOLS] if number % 2 else None))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            due += 1 / rate
            if number % max(1, int(rate / 2)) == 0:
                save(False)
            await asyncio.sleep(max(0, due - time.monotonic()))
        await asyncio.gather(*tasks)
    save(True)

def save(ended):
    now = time.time()
    oldest = min(under_way.values(), default=now)
    with open("/tmp/report.new", "w") as file:
        json.dump({**report, "ended": ended, "seconds": now - began, "complete_until": oldest - began}, file)
    os.rename("/tmp/report.new", "/tmp/report.json")

asyncio.run(main())
while True:
    time.sleep(60)
"""
GIVEN_UP_S = 90.0
"""A request may wait 30 s for its connection and then as long for its answer; the rest is room."""


@dataclass(frozen=True)
class Report:
    """What the pod has counted."""

    raw: Mapping[str, Any]

    @property
    def sent(self) -> int:
        return int(self.raw["sent"])

    @property
    def failed(self) -> list[dict[str, Any]]:
        """When (seconds since the start), how long it took, the status (0: no answer) and what was said."""
        return list(self.raw["failed"])

    @property
    def versions(self) -> dict[str, int]:
        """Answers by model version."""
        return dict(self.raw["versions"])

    @property
    def answers(self) -> dict[str, int]:
        """Answers by their text."""
        return dict(self.raw["answers"])

    def __str__(self) -> str:
        statuses: dict[str, int] = {}
        for each in self.failed:
            what = f"{each['status']} {each['detail'][:80]}"
            statuses[what] = statuses.get(what, 0) + 1
        return (
            f"{self.sent} requests in {self.raw['seconds']:.0f} s, {len(self.failed)} failed {statuses or ''}, "
            f"versions {self.versions}, longest {self.raw['longest_s'] * 1e3:.0f} ms, "
            f"longest time without an answer {self.raw['longest_gap_s'] * 1e3:.0f} ms"
        )


@dataclass(frozen=True)
class Traffic:
    kubectl: Kubectl
    namespace: str
    pod: str

    def report(self) -> Report:
        """What was counted until half a second ago."""
        return Report(json.loads(self.kubectl("exec", "-n", self.namespace, self.pod, "--", "cat", "/tmp/report.json")))

    def caught_up(self) -> Report:
        """What was counted once every request sent before this call has ended, with an answer or without. Raises
        TimeoutError."""
        earlier = self._seconds()
        # The report can be older than the call; the one after it is not.
        until("the pod reports", lambda: self._seconds() > earlier, 30, every=0.2)
        called = self._seconds()
        until(
            "every request sent until now has ended",
            lambda: float(self.report().raw["complete_until"]) >= called,
            GIVEN_UP_S,
            every=0.5,
        )
        return self.report()

    def _seconds(self) -> float:
        """When the latest report was written, in seconds since the pod began."""
        return float(self.report().raw["seconds"])

    def stop(self) -> Report:
        """Send no more, wait for every answer, and tell."""
        self.kubectl("exec", "-n", self.namespace, self.pod, "--", "touch", "/tmp/stop")
        until("the last request is answered", lambda: bool(self.report().raw["ended"]), 60, every=0.5)
        return self.report()


@contextmanager
def traffic(
    kubectl: Kubectl, namespace: str, image: str, url: str, body: Any, *, rate: float = 20.0
) -> Iterator[Traffic]:
    """`rate` requests a second to `url` for as long as the block runs; they have begun when it is entered."""
    name = f"traffic-{abs(hash((url, rate))) % 100_000}"
    kubectl.apply(
        [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, "labels": {"app": "traffic"}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 1000,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": "traffic",
                            "image": image,
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["python", "-c", SCRIPT, url, str(rate), json.dumps(body)],
                            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]},
                            },
                        }
                    ],
                },
            }
        ]
    )
    running = Traffic(kubectl, namespace, name)
    try:
        kubectl("wait", "-n", namespace, "--for=condition=Ready", f"pod/{name}", "--timeout=60s")

        def begun() -> bool:
            answer = kubectl("exec", "-n", namespace, name, "--", "sh", "-c", "cat /tmp/report.json || true")
            return bool(answer) and Report(json.loads(answer)).sent > rate

        until("requests are sent", begun, 30, every=0.5)
        yield running
    finally:
        kubectl("delete", "pod", "-n", namespace, name, "--ignore-not-found", "--wait=false")
