"""Where the single-node cluster keeps its state, and the addresses it uses."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

NODE = "rayfleet-node"
LINK = "rayfleet0"
"""The machine's end of the wire to the node."""

HOST_ADDRESS = "10.199.255.1"
NODE_ADDRESS = "10.199.255.2"
PODS = "10.199.0.0/24"
SERVICES = "10.198.0.0/16"
API_SERVICE = "10.198.0.1"
DNS = "10.198.0.10"
CGROUP = "rayfleet-cluster"
SCRATCH = "scratch-"
"""Begins the name of every folder in which images are made."""

PAUSE_IMAGE = "docker.io/rayfleet/pause:test"


@dataclass(frozen=True)
class Layout:
    """One folder. Below `cluster` is what ends with a cluster; images and the builder outlive it."""

    state: Path

    @classmethod
    def from_environment(cls) -> Layout:
        """RAYFLEET_CLUSTER_STATE, or a folder below /var/lib, or below one's own home for who is not root."""
        if named := os.environ.get("RAYFLEET_CLUSTER_STATE"):
            return cls(Path(named).absolute())
        return cls(Path("/var/lib" if os.geteuid() == 0 else Path.home() / ".local" / "state") / "rayfleet-cluster")

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def cluster(self) -> Path:
        return self.state / "cluster"

    @property
    def kubeconfig(self) -> Path:
        return self.cluster / "admin.kubeconfig"

    @property
    def certificates(self) -> Path:
        return self.cluster / "certificates"

    @property
    def config(self) -> Path:
        return self.cluster / "config"

    @property
    def logs(self) -> Path:
        return self.cluster / "logs"

    @property
    def made_from(self) -> Path:
        """A digest of what the running cluster was made from; missing while it is being made."""
        return self.cluster / "made-from"

    @property
    def containerd(self) -> Path:
        return self.state / "containerd"

    @property
    def images(self) -> Path:
        """Which images containerd holds, and what they were made from."""
        return self.state / "images.json"

    @property
    def images_lock(self) -> Path:
        """Held by who makes images."""
        return self.state / "images.lock"

    @property
    def docker(self) -> Path:
        return self.state / "docker"

    @property
    def sysctls(self) -> Path:
        """What the machine had before the first kubelet changed it."""
        return self.state / "sysctls.json"

    def scratch(self) -> list[Path]:
        """Folders in which images are made, those of processes that were killed among them."""
        return sorted(self.state.glob(f"{SCRATCH}*"))

    def remove(self) -> None:
        """Remove all that a cluster made, and the folder itself when nothing else is in it: it is named by people."""
        for folder in (self.cluster, self.containerd, self.docker, *self.scratch()):
            if folder.exists():
                shutil.rmtree(folder)
        for file in (self.images, self.sysctls, self.images_lock, self.lock):
            file.unlink(missing_ok=True)
        if not any(self.state.iterdir()):
            self.state.rmdir()
