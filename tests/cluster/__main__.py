"""`python -m cluster up|down|status|wipe`: the cluster that end-to-end tests run on."""

from __future__ import annotations

import argparse
import sys
import time

from cluster.binaries import BuildError
from cluster.docker import DockerError
from cluster.kubectl import KubectlError
from cluster.locks import say
from cluster.machine import MachineError
from cluster.node import NodeError
from cluster.providers import ClusterError, NodeCluster, chosen
from cluster.sandbox import SandboxError

ERRORS = (BuildError, ClusterError, DockerError, KubectlError, MachineError, NodeError, SandboxError, TimeoutError)


def main() -> int:
    """Run one command; errors become one message and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    parser.add_argument(
        "command",
        choices=["up", "down", "status", "wipe", "kubeconfig"],
        help="up prints the kubeconfig's path; wipe also removes every image",
    )
    command = parser.parse_args().command
    started = time.monotonic()
    try:
        cluster = chosen()
        match command:
            case "up":
                cluster.up()
                say(f"{cluster.kind} is up after {time.monotonic() - started:.0f} s")
                print(cluster.kubeconfig)
            case "down":
                cluster.down()
            case "status":
                print(cluster.status())
            case "kubeconfig":
                print(cluster.kubeconfig)
            case "wipe":
                if not isinstance(cluster, NodeCluster):
                    raise ClusterError(f"only a node of our own can be wiped, not {cluster.kind}; use down")
                cluster.wipe()
    except ERRORS as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
