"""What a node needs of the machine, what it changes there, and putting that back."""

from __future__ import annotations

import ipaddress
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from cluster.layout import CGROUP, HOST_ADDRESS, LINK, NODE_ADDRESS, PODS, SERVICES, Layout
from cluster.locks import say
from cluster.sandbox import Sandbox

PACKAGES = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "nft": "nftables",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "nsenter": "util-linux",
}
"""Debian's package for each program."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""What a kubelet sets for the whole machine."""

CGROUPS = Path("/sys/fs/cgroup")


class MachineError(RuntimeError):
    """The machine cannot carry a node; the message says what would help."""


def require() -> None:
    """Install what is missing. Raises MachineError where that cannot be done."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        raise MachineError(
            "the test cluster's own node needs Linux and root. Without them, use a cluster that is there "
            "(RAYFLEET_E2E_CONTEXT) or kind (RAYFLEET_E2E_CLUSTER=kind); see tests/cluster/README.md"
        )
    missing = sorted({package for program, package in PACKAGES.items() if not _present(program)})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise MachineError(f"install what Debian calls {', '.join(missing)}; there is no apt-get here to do it")
    say(f"installing {', '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", *missing]):
        ran = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise MachineError(f"apt-get {' '.join(arguments)} failed:\n{(ran.stderr or ran.stdout).strip()[-2000:]}")


def _present(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else shutil.which(program, path=PATH) is not None


def check_alone(layout: Layout, running: Iterable[Path]) -> None:
    """Raises MachineError when a cluster with another state folder runs: the wire and the groups are the machine's."""
    names = [name for name in running if name.name == layout.cluster.name and name != layout.cluster]
    if names:
        others = [str(name.parent) for name in names]
        raise MachineError(
            f"a machine carries one test cluster, and that of {' and '.join(others)} runs. "
            f"End it first: RAYFLEET_CLUSTER_STATE={others[0]} make cluster-down"
        )


def connect(sandbox: Sandbox) -> None:
    """A wire between the machine and the sandbox, over which pods and services are reached from here.

    The sandbox has no other way out, so no packet of a pod leaves the machine. The wire ends with the sandbox.
    """
    _check_free()
    pid = sandbox.pid()
    _ip("link", "add", LINK, "type", "veth", "peer", "name", "uplink", "netns", str(pid))
    _ip("address", "add", f"{HOST_ADDRESS}/30", "dev", LINK)
    _ip("link", "set", LINK, "up")
    sandbox.run("ip", "address", "add", f"{NODE_ADDRESS}/30", "dev", "uplink")
    sandbox.run("ip", "link", "set", "uplink", "up")
    # Addresses that no pod has any more are refused, instead of going back over the wire.
    sandbox.run("ip", "route", "add", "unreachable", PODS)
    sandbox.run("ip", "route", "add", "unreachable", SERVICES, "metric", "4096")
    sandbox.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    for range_ in (PODS, SERVICES):
        _ip("route", "replace", range_, "via", NODE_ADDRESS, "dev", LINK)


def disconnect() -> None:
    """Take the wire down at once: the kernel would do so with the sandbox's network, but in its own time."""
    if Path("/sys/class/net", LINK).exists():
        try:
            _ip("link", "delete", LINK)
        except MachineError:
            if Path("/sys/class/net", LINK).exists():
                raise


def _check_free() -> None:
    """Raises MachineError when another cluster, or anything else, uses our addresses."""
    ours = [ipaddress.ip_network(text, strict=False) for text in (PODS, SERVICES, f"{NODE_ADDRESS}/30")]
    for route in json.loads(_ip("-json", "-4", "route", "show", "table", "all") or "[]"):
        if route["dst"] == "default" or route.get("type") == "broadcast":
            continue
        if any(ipaddress.ip_network(route["dst"]).overlaps(own) for own in ours):
            raise MachineError(
                f"{route['dst']} is already routed through {route.get('dev')}, and the test cluster would use it. "
                "Another test cluster with a state folder of its own? Stop that one first"
            )


def _ip(*arguments: str) -> str:
    ran = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise MachineError(f"ip {' '.join(arguments)} failed: {ran.stderr.strip()}")
    return ran.stdout


def remember_sysctls(layout: Layout) -> None:
    """Keep what the machine had before the first kubelet changed it."""
    if not (file := layout.sysctls).exists():
        found = {name: Path("/proc/sys", name).read_text().strip() for name in SYSCTLS}
        file.write_text(json.dumps(found))


def restore_sysctls(layout: Layout) -> None:
    """Set what was remembered, and forget it."""
    file = layout.sysctls
    try:
        remembered = json.loads(file.read_text())
    except (OSError, ValueError):
        return
    for name, value in remembered.items():
        Path("/proc/sys", name).write_text(value)
    file.unlink()


def make_cgroups() -> None:
    """The group below which all pods are, in every hierarchy."""
    for hierarchy in _hierarchies():
        group = hierarchy / CGROUP
        group.mkdir(exist_ok=True)
        # The first version's cpuset lets nobody in before it has processors and memory.
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (group / name).exists() and not (CGROUPS / "cgroup.controllers").exists():
                (group / name).write_text((hierarchy / name).read_text())
        # All pods together are one group beside every single process of the machine; on a node they are most of it.
        for name, most in (("cpu.shares", "8192"), ("cpu.weight", "400")):
            if (group / name).exists():
                (group / name).write_text(most)


def remove_cgroups() -> None:
    """Remove our groups once their processes have ended."""
    end = time.monotonic() + 10
    for hierarchy in _hierarchies():
        group = hierarchy / CGROUP
        while group.exists():
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.05)


def _hierarchies() -> list[Path]:
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in sorted(CGROUPS.iterdir()) if path.is_dir() and not path.is_symlink()]
