"""The images of the test cluster, all made here: no registry is asked for anything.

Each carries a digest of what it was made from as a label, and is built again only when that has changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.binaries import binary, digest
from cluster.docker import Docker, DockerError
from cluster.layout import SCRATCH, Layout
from cluster.locks import exclusive, say
from cluster.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
LABEL = "io.rayfleet.tests.inputs"
BASE = "rayfleet/base:bookworm"
PAUSE = "rayfleet/pause:test"
KUBERAY = "rayfleet/kuberay-operator:test"
OPERATOR = "rayfleet/operator:test"
SERVING = "rayfleet/serving:test"
EXTENDED = "rayfleet/serving-extended:test"
MLFLOW = "rayfleet/mlflow:test"
REDIS = "rayfleet/redis:test"

EXTRAS = os.environ.get("RAYFLEET_E2E_EXTRAS", "sklearn,onnx")
"""The model libraries of the serving image: by default those that are small."""

PACKAGES = ("ca-certificates", "procps", "python3", "python3-pip", "python3-venv", "wget")
"""Of Debian, in every image but pause."""

CONTEXT = ("LICENSE", "README.md", "constraints.txt", "pyproject.toml", "operator", "serving")
"""What the Dockerfile copies."""

KUBERAY_FILE = f"""\
FROM {BASE}
COPY kuberay-operator /manager
USER 65532:65532
ENTRYPOINT ["/manager"]
"""

MLFLOW_FILE = f"""\
FROM {BASE}
ARG VERSION
COPY constraints.txt ca-certificates.crt* /tmp/build/
RUN if [ -f /tmp/build/ca-certificates.crt ]; then export PIP_CERT=/tmp/build/ca-certificates.crt; fi \\
    && python3 -m venv --without-pip /opt/mlflow \\
    && python3 -m pip --python /opt/mlflow/bin/python install --no-cache-dir --root-user-action=ignore \\
        -c /tmp/build/constraints.txt "mlflow==$VERSION" \\
    && rm -r /tmp/build && mkdir -m 0777 /var/mlflow
ENV PATH=/opt/mlflow/bin:$PATH MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
USER 1000:1000
WORKDIR /var/mlflow
EXPOSE 5000
CMD ["mlflow", "server", "--host=0.0.0.0", "--port=5000", "--workers=1", "--allowed-hosts=*", \\
     "--backend-store-uri=sqlite:///mlflow.db", "--artifacts-destination=./artifacts"]
"""

REDIS_FILE = f"""\
FROM {BASE}
RUN apt-get update -qq \\
    && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends redis-server >/dev/null \\
    && rm -rf /var/lib/apt/lists/*
USER 1000:1000
EXPOSE 6379
CMD ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/tmp"]
"""

EXTENDED_FILE = f"""\
FROM {SERVING}
ENV EXTENDED=yes
"""
"""As somebody makes one who needs more in it than ours has."""


@dataclass(frozen=True)
class Image:
    name: str
    parent: str | None
    inputs: str
    """A digest of everything that goes into it, its parent's inputs among it."""
    make: Callable[[Docker, list[str]], None]
    """Builds it, with the arguments that set its label."""

    @property
    def unique(self) -> str:
        return unique(self.name, self.inputs)


def unique(name: str, inputs: str) -> str:
    """A name that no other content has, so that a Deployment that names it is rolled when the content changes."""
    return f"{name}-{inputs[:12]}"


class Images:
    """A picture of the sources at one moment, and what is built from it."""

    def __init__(self, scratch: Path) -> None:
        """`scratch` is an empty folder, on a disk with some gigabytes free."""
        self._scratch = scratch
        self._context = scratch / "context"
        self._snapshot()
        self.all: dict[str, Image] = {}
        self._add(PAUSE, None, [digest("pause")], self._pause)
        self._add(BASE, None, [*PACKAGES, _base_image() or "debootstrap"], self._base)
        self._add(KUBERAY, BASE, [KUBERAY_FILE, digest("kuberay-operator")], self._kuberay)
        dockerfile = _digest_of([ROOT / "Dockerfile"])
        both = _digest_of(self._sources(), self._context)
        self._add(
            OPERATOR, BASE, [dockerfile, both], lambda docker, label: self._target("operator", OPERATOR, docker, label)
        )
        # The control path is not in it: an edit there makes no new one.
        data_path = _digest_of(self._sources(without="operator"), self._context)
        self._add(
            SERVING,
            BASE,
            [dockerfile, data_path, EXTRAS],
            lambda docker, label: self._target("serving", SERVING, docker, label),
        )
        self._add(EXTENDED, SERVING, [EXTENDED_FILE], self._extended)
        pins = (ROOT / "constraints.txt").read_text()
        self._add(MLFLOW, BASE, [MLFLOW_FILE, pins], self._mlflow)
        self._add(REDIS, BASE, [REDIS_FILE], self._redis)

    def _add(
        self, name: str, parent: str | None, inputs: Iterable[str], make: Callable[[Docker, list[str]], None]
    ) -> None:
        chain = [self.all[parent].inputs] if parent else []
        self.all[name] = Image(name, parent, hashlib.sha256("\0".join([*chain, *inputs]).encode()).hexdigest(), make)

    def build(self, docker: Docker, names: Iterable[str]) -> None:
        """Build what is not there as it should be of the named images and those they come from."""
        for name in names:
            image = self.all[name]
            if docker.label(name, LABEL) != image.inputs:
                if image.parent:
                    self.build(docker, [image.parent])
                say(f"building the image {name}")
                image.make(docker, [LABEL, image.inputs])
            docker("tag", name, image.unique)

    def forget_others(self, docker: Docker) -> None:
        """Remove from Docker what earlier sources were built to; the builder's own steps stay, to be used again."""
        current = {name for image in self.all.values() for name in (image.name, image.unique)}
        listed = docker("image", "ls", f"--filter=label={LABEL}", "--format={{.Repository}}:{{.Tag}}").split()
        if old := sorted(name for name in listed if name not in current and "<none>" not in name):
            docker("image", "rm", *old)
        docker("image", "prune", "--force", f"--filter=label={LABEL}")

    def _snapshot(self) -> None:
        """Copy the sources: what is built is what the digest was made from, though somebody edits meanwhile."""
        self._context.mkdir(parents=True)
        unwanted = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*")
        for name in CONTEXT:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self._context / name, ignore=unwanted)
            else:
                shutil.copyfile(ROOT / name, self._context / name)
        # Packages are installed after README.md is copied; an edit of it shall not install them all again.
        (self._context / "README.md").write_text("# rayfleet\n")
        shutil.copyfile(ROOT / "Dockerfile", self._scratch / "Dockerfile")

    def _sources(self, without: str = "") -> list[Path]:
        left_out = self._context / without
        found = (path for path in self._context.rglob("*") if path.is_file())
        return sorted(path for path in found if not (without and path.is_relative_to(left_out)))

    def _pause(self, docker: Docker, label: list[str]) -> None:
        program = binary("pause")
        archive = [
            "tar",
            "--create",
            "--file=-",
            f"--directory={program.parent}",
            "--mode=0755",
            "--owner=0",
            "--group=0",
            program.name,
        ]
        _import(docker, archive, PAUSE, label, 'ENTRYPOINT ["/pause"]')

    def _base(self, docker: Docker, label: list[str]) -> None:
        if named := _base_image():
            self._build(docker, BASE, label, f"FROM {named}\n", self._empty("base"))
            return
        root = self._scratch / "root"
        # Its mounts end with the sandbox, however it ends itself.
        sandbox = Sandbox(self._scratch, network=False)
        sandbox.create()
        try:
            mirror = os.environ.get("RAYFLEET_DEBIAN_MIRROR")
            include = f"--include={','.join(PACKAGES)}"
            sandbox.run(
                "debootstrap", "--variant=minbase", include, "bookworm", str(root), *([mirror] if mirror else [])
            )
        finally:
            sandbox.destroy()
        for unneeded in ("var/cache/apt", "var/lib/apt/lists", "var/log/bootstrap.log", "debootstrap"):
            shutil.rmtree(root / unneeded, ignore_errors=True)
        _import(
            docker,
            ["tar", "--create", "--file=-", "--numeric-owner", f"--directory={root}", "."],
            BASE,
            label,
            'CMD ["bash"]',
        )
        shutil.rmtree(root)

    def _kuberay(self, docker: Docker, label: list[str]) -> None:
        context = self._empty("kuberay")
        shutil.copy(binary("kuberay-operator"), context)
        self._build(docker, KUBERAY, label, KUBERAY_FILE, context)

    def _mlflow(self, docker: Docker, label: list[str]) -> None:
        context = self._empty("mlflow")
        shutil.copyfile(self._context / "constraints.txt", context / "constraints.txt")
        self._build(docker, MLFLOW, label, MLFLOW_FILE, context, VERSION=_mlflow_version())

    def _redis(self, docker: Docker, label: list[str]) -> None:
        self._build(docker, REDIS, label, REDIS_FILE, self._empty("redis"))

    def _extended(self, docker: Docker, label: list[str]) -> None:
        self._build(docker, EXTENDED, label, EXTENDED_FILE, self._empty("extended"))

    def _target(self, target: str, name: str, docker: Docker, label: list[str]) -> None:
        text = (self._scratch / "Dockerfile").read_text()
        arguments = {"EXTRAS": EXTRAS} if target == "serving" else {}
        self._build(docker, name, label, text, self._context, target, BASE_IMAGE=BASE, **arguments)

    def _build(
        self,
        docker: Docker,
        name: str,
        label: list[str],
        dockerfile: str,
        context: Path,
        target: str | None = None,
        **arguments: str,
    ) -> None:
        if bundle := _certificates():
            shutil.copyfile(bundle, context / "ca-certificates.crt")
        file = self._scratch / "Dockerfile.now"
        file.write_text(dockerfile)
        docker(
            "build",
            "--network=host",
            f"--tag={name}",
            f"--label={'='.join(label)}",
            f"--file={file}",
            *(f"--build-arg={argument}={value}" for argument, value in arguments.items()),
            *([f"--target={target}"] if target else []),
            str(context),
        )

    def _empty(self, name: str) -> Path:
        folder = self._scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


@contextmanager
def prepared(layout: Layout) -> Iterator[Images]:
    """The images as the sources are now; one process at a time."""
    with exclusive(layout.images_lock, "it makes images for the same cluster"):
        for left in layout.scratch():  # by a process that was killed
            Sandbox(left, network=False).destroy()
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=layout.state, prefix=SCRATCH) as folder:
            yield Images(Path(folder))


def _import(docker: Docker, archive: list[str], name: str, label: list[str], change: str) -> None:
    """An image of one layer, from the output of a command."""
    changes = [f"--change=LABEL {'='.join(label)}", f"--change={change}"]
    environment = {**os.environ, **docker.environment}
    with subprocess.Popen(archive, stdout=subprocess.PIPE) as packed:
        ran = subprocess.run(
            ["docker", "import", *changes, "-", name],
            stdin=packed.stdout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if ran.returncode or packed.returncode:
        raise DockerError(f"{name} could not be made from `{' '.join(archive)}`: {ran.stderr.strip()}")


def _base_image() -> str | None:
    """An image to start from instead of what debootstrap makes; without root there is no other way."""
    named = os.environ.get("RAYFLEET_E2E_BASE_IMAGE")
    return named or (None if os.geteuid() == 0 else "python:3.11-slim-bookworm")


def _certificates() -> Path | None:
    """The bundle that this machine trusts, where it is told to trust one of its own."""
    for variable in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        if (named := os.environ.get(variable)) and Path(named).is_file():
            return Path(named)
    return None


def _mlflow_version() -> str:
    found = re.search(r"(?m)^mlflow==(\S+)$", (ROOT / "constraints.txt").read_text())
    if found is None:
        raise DockerError("constraints.txt pins no mlflow")
    return found[1]


def _digest_of(files: Iterable[Path], below: Path | None = None) -> str:
    found = hashlib.sha256()
    for file in files:
        name = file.relative_to(below) if below else file.name
        found.update(f"\0{name}\0{file.stat().st_mode & 0o111}\0".encode() + file.read_bytes())
    return found.hexdigest()
