"""Operators that end as by a power failure."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cluster.kubectl import KubectlError

from e2e.conftest import NAMESPACE
from e2e.scene import Scene

OPERATOR = "app.kubernetes.io/name=rayfleet,app.kubernetes.io/component=operator"


def operators(scene: Scene) -> list[str]:
    """Names of their pods that are to stay."""
    pods = scene.kubectl.json("get", "pods", "-n", NAMESPACE, "-l", OPERATOR)["items"]
    return [pod["metadata"]["name"] for pod in pods if pod["metadata"].get("deletionTimestamp") is None]


def kill(scene: Scene, namespace: str, pod: str) -> None:
    """End it as a power failure would."""
    scene.kubectl("delete", "pod", pod, "-n", namespace, "--grace-period=0", "--force", "--wait=false")


@contextmanager
def killing(scene: Scene, times: int) -> Iterator[list[str]]:
    """Kill one of the operators again and again, at random moments, until the block ends; lists those killed."""
    killed: list[str] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set() and len(killed) < times:
            # The API server may be away as well.
            with suppress(KubectlError):
                if pods := operators(scene):
                    victim = random.choice(pods)
                    kill(scene, NAMESPACE, victim)
                    killed.append(victim)
            stop.wait(random.uniform(1, 6))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()
