"""Pods that end as by a power failure: nothing in them hears of it first."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cluster.kubectl import KubectlError
from cluster.providers import Cluster, NodeCluster
from cluster.sandbox import SandboxError

from e2e.conftest import NAMESPACE
from e2e.scene import Scene

OPERATOR = "app.kubernetes.io/name=rayfleet,app.kubernetes.io/component=operator"


def operators(scene: Scene) -> list[str]:
    """Names of their pods that are to stay."""
    pods = scene.kubectl.json("get", "pods", "-n", NAMESPACE, "-l", OPERATOR)["items"]
    return [pod["metadata"]["name"] for pod in pods if pod["metadata"].get("deletionTimestamp") is None]


def kill(scene: Scene, cluster: Cluster, namespace: str, pod: str) -> bool:
    """End it at once, so that another takes its place; returns whether anything ran in it.

    Kubernetes gives even a pod that is deleted by force a second after SIGTERM, which is enough for an operator to hand
    its Lease over. So on the node that is made here its processes get SIGKILL first.
    """
    found = scene.kubectl.json("get", "pod", pod, "-n", namespace)["status"].get("containerStatuses", [])
    running = [each["containerID"].removeprefix("containerd://") for each in found if "running" in each["state"]]
    if isinstance(cluster, NodeCluster):
        for container in running:
            cluster.node.kill_container(container)
    scene.kubectl("delete", "pod", pod, "-n", namespace, "--grace-period=0", "--force", "--wait=false")
    return bool(running)


@contextmanager
def killing(scene: Scene, cluster: Cluster, times: int) -> Iterator[list[str]]:
    """Kill one of the operators again and again, at random moments, until the block ends; lists those killed."""
    killed: list[str] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set() and len(killed) < times:
            # The API server may be away as well, and an operator ends by itself when it cannot renew its Lease.
            with suppress(KubectlError, SandboxError):
                if pods := operators(scene):
                    victim = random.choice(pods)
                    if kill(scene, cluster, NAMESPACE, victim):
                        killed.append(victim)
            stop.wait(random.uniform(1, 6))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()
