"""A Docker daemon to build images with: the one that is there, or one of our own for as long as it is needed.

Ours keeps its images in the cluster's state folder, runs in a sandbox, and makes no network: builds use the machine's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster import machine
from cluster.deadline import until
from cluster.locks import exclusive
from cluster.sandbox import Sandbox


class DockerError(RuntimeError):
    """A command of Docker failed; the message holds the end of what it said."""


@dataclass(frozen=True)
class Docker:
    environment: dict[str, str] = field(default_factory=dict)
    """DOCKER_HOST of our own daemon, whose builder is the old one."""

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Run docker and answer its output. Raises DockerError."""
        ran = subprocess.run(
            ["docker", *arguments],
            input=stdin,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise DockerError(f"docker {' '.join(arguments)} failed:\n{(ran.stdout + ran.stderr).strip()[-4000:]}")
        return ran.stdout

    def label(self, image: str, name: str) -> str | None:
        """The value of an image's label; None when there is no such image, and "" when it has no such label."""
        try:
            return self("image", "inspect", "-f", f'{{{{index .Config.Labels "{name}"}}}}', image).strip()
        except DockerError:
            return None

    def save(self, images: Sequence[str]) -> subprocess.Popen[bytes]:
        """A running `docker save`, whose output is an archive of the images."""
        command = ["docker", "save", *images]
        return subprocess.Popen(command, env={**os.environ, **self.environment}, stdout=subprocess.PIPE)


def answers(docker: Docker) -> bool:
    """Whether there is a docker with a daemon."""
    if shutil.which("docker") is None:
        return False
    try:
        docker("version")
    except DockerError:
        return False
    return True


@contextmanager
def daemon(state: Path) -> Iterator[Docker]:
    """A working Docker: the machine's own where one answers, else one started here and ended afterwards."""
    own = Docker()
    if answers(own):
        yield own
        return
    state.mkdir(parents=True, exist_ok=True)
    with exclusive(state / "lock", "it builds images"):
        sandbox = Sandbox(state, network=False)
        sandbox.destroy()
        started = Docker({"DOCKER_HOST": f"unix://{state / 'docker.sock'}", "DOCKER_BUILDKIT": "0"})
        (state / "docker.pid").unlink(missing_ok=True)
        sandbox.create()
        try:
            sandbox.start(_dockerd(state), state / "dockerd.log")
            try:
                until("our Docker daemon answers", lambda: answers(started), 60)
            except TimeoutError as error:
                raise DockerError(f"{error}; its log ends:\n{(state / 'dockerd.log').read_text()[-3000:]}") from error
            yield started
            sandbox.signal(_dockerd(state)[0], signal.SIGTERM)  # writes what it knows about its images
            until("our Docker daemon ended", lambda: sandbox.find(_dockerd(state)[0]) is None, 60)
        finally:
            sandbox.destroy()


def _dockerd(state: Path) -> list[str]:
    found = shutil.which("dockerd", path=machine.PATH)
    if found is None:
        raise DockerError("there is no dockerd; Debian calls it docker.io")
    return [
        found,
        f"--data-root={state / 'data'}",
        f"--exec-root={state / 'run'}",
        f"--pidfile={state / 'docker.pid'}",
        f"--host=unix://{state / 'docker.sock'}",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--storage-driver=overlay2",
    ]
