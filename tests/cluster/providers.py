"""The clusters that end-to-end tests can run on; `chosen()` says which.

RAYFLEET_E2E_CONTEXT names a context of the user's kubeconfig: that cluster, as it is. RAYFLEET_E2E_CLUSTER=kind, or a
Docker that has kind's node image: a kind cluster. Otherwise, or with RAYFLEET_E2E_CLUSTER=node: a node of our own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cluster import images, kuberay
from cluster.binaries import GROUPS, binary, build
from cluster.docker import Docker, DockerError, answers, daemon
from cluster.kubectl import Kubectl, KubectlError
from cluster.layout import Layout
from cluster.locks import exclusive, say
from cluster.node import Node
from cluster.sandbox import Sandbox

NAMES = {
    "operator": images.OPERATOR,
    "serving": images.SERVING,
    "extended": images.EXTENDED,
    "mlflow": images.MLFLOW,
    "redis": images.REDIS,
}
"""What tests call the images, and their names without what makes them unique."""


class ClusterError(RuntimeError):
    """There is no such cluster, or it lacks something; the message says what would help."""


class Cluster(Protocol):
    """A Kubernetes with KubeRay and our images."""

    kind: str

    @property
    def kubeconfig(self) -> Path: ...

    @property
    def kubectl(self) -> Kubectl: ...

    @property
    def images(self) -> Mapping[str, str]:
        """The names of the images, by their keys in NAMES, where the cluster has them."""

    def up(self) -> None:
        """Make it ready; quick when it is."""

    def down(self) -> None:
        """End what `up` started."""

    def status(self) -> str:
        """One line or more for people."""


def chosen() -> Cluster:
    """The cluster that the environment asks for. Raises ClusterError."""
    layout = Layout.from_environment()
    if context := os.environ.get("RAYFLEET_E2E_CONTEXT"):
        return ExistingCluster(context, layout)
    match os.environ.get("RAYFLEET_E2E_CLUSTER", ""):
        case "kind":
            return KindCluster(layout)
        case "node":
            return NodeCluster(layout)
        case "":
            return KindCluster(layout) if _has_kind_image() else NodeCluster(layout)
        case other:
            raise ClusterError(f"RAYFLEET_E2E_CLUSTER is {other!r}; it may be kind or node")


def _has_kind_image() -> bool:
    docker = Docker()
    return answers(docker) and bool(docker("image", "ls", "--quiet", "kindest/node").strip())


class NodeCluster:
    """A node on this machine, with the images of the sources as they are now."""

    kind = "node"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.node = Node(layout)
        self.kubeconfig = layout.kubeconfig
        self.kubectl = self.node.kubectl

    @property
    def images(self) -> Mapping[str, str]:
        """Names that change with the content; the plain ones of NAMES lead to the newest."""
        record = self._record()
        return {short: images.unique(name, record[name]) for short, name in NAMES.items() if name in record}

    def up(self) -> None:
        """About 25 s when the images are made. Raises the errors of binaries, machine, node and docker."""
        self.node.up()
        self.load()
        kuberay.install(self.kubectl, images.unique(images.KUBERAY, self._record()[images.KUBERAY]))
        kuberay.wait(self.kubectl)

    def load(self) -> list[str]:
        """Build what has changed and hand it to containerd; answers the names of those images."""
        with images.prepared(self.layout) as made:
            loaded = self._loaded()
            wanted = [image for image in made.all.values() if loaded.get(image.name) != image.inputs]
            if not wanted:
                return []
            names = [image.name for image in wanted]
            with daemon(self.layout.docker) as docker:
                made.build(docker, names)
                say(f"loading {', '.join(names)}")
                self._import(docker, [*names, *(image.unique for image in wanted)])
                made.forget_others(docker)
            record = loaded | {image.name: image.inputs for image in wanted}
            self.layout.images.write_text(json.dumps(record, indent=2))
            self._forget({unique for image in made.all.values() for unique in (image.name, image.unique)})
            return names

    def _import(self, docker: Docker, names: list[str]) -> None:
        command = self.node.sandbox.command("ctr", "--namespace=k8s.io", "images", "import", "-")
        with docker.save(names) as saved:
            ran = subprocess.run(command, stdin=saved.stdout, capture_output=True, text=True, check=False)
        if ran.returncode or saved.returncode:
            raise DockerError(f"containerd did not take {', '.join(names)}: {ran.stderr.strip()}")

    def _loaded(self) -> dict[str, str]:
        """What containerd holds, and from which inputs."""
        present = self._ctr("list", "--quiet").split()
        return {
            name: inputs
            for name, inputs in self._record().items()
            if {f"docker.io/{name}", f"docker.io/{images.unique(name, inputs)}"} <= set(present)
        }

    def _record(self) -> dict[str, str]:
        try:
            record: dict[str, str] = json.loads(self.layout.images.read_text())
        except (OSError, ValueError):
            return {}
        return record

    def _forget(self, current: set[str]) -> None:
        """Remove images of earlier sources from containerd, unless a pod names them."""
        named = set(self.kubectl("get", "pods", "-A", "-o", "jsonpath={.items[*].spec.containers[*].image}").split())
        kept = {f"docker.io/{name}" for name in current | named}
        listed = [line.split() for line in self._ctr("list").splitlines()[1:]]  # name, type, digest, ...
        # containerd also names each image by its configuration's digest.
        contents = {words[2] for words in listed if words[0] in kept}
        ours = [words for words in listed if words[0].startswith(("docker.io/rayfleet/", "sha256:"))]
        if old := [words[0] for words in ours if words[0] not in kept and words[2] not in contents]:
            self._ctr("remove", *old)

    def _ctr(self, *arguments: str) -> str:
        return self.node.sandbox.run("ctr", "--namespace=k8s.io", "images", *arguments)

    def down(self) -> None:
        """End the cluster; images and binaries stay."""
        self.node.down()

    def wipe(self) -> None:
        """End the cluster and remove every image. What else lies in the state folder stays."""
        self.node.down()
        with images.prepared(self.layout), exclusive(self.layout.lock, "it starts or stops the same cluster"):
            Sandbox(self.layout.docker, network=False).destroy()
            self.layout.remove()

    def status(self) -> str:
        """Each part, and whether it runs."""
        return "\n".join(f"{part}: {'runs' if runs else 'does not run'}" for part, runs in self.node.status().items())


class KindCluster:
    """A cluster of kind in the machine's Docker, which may need to pull kind's node image."""

    kind = "kind"
    name = "rayfleet-tests"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.images: Mapping[str, str] = NAMES
        self.kubeconfig = layout.state / "kind.kubeconfig"
        self.kubectl = Kubectl(self.kubeconfig)

    def up(self) -> None:
        """Raises ClusterError, and the errors of binaries and docker."""
        docker = Docker()
        if not answers(docker):
            raise ClusterError("kind needs a Docker daemon that answers `docker version`, and none does")
        build([*GROUPS["envtest"], "kuberay-operator", "pause", "kind"])
        with exclusive(self.layout.lock, "it starts or stops the same cluster"):
            if self.name not in self._kind("get", "clusters").split():
                image = os.environ.get("RAYFLEET_E2E_KIND_IMAGE")
                self._kind("create", "cluster", "--wait=180s", *([f"--image={image}"] if image else []))
            self._kind("export", "kubeconfig")
        with images.prepared(self.layout) as made:
            wanted = [name for name in made.all if name not in (images.PAUSE, images.BASE)]
            made.build(docker, wanted)
            self._kind("load", "docker-image", *(made.all[name].unique for name in wanted))
            self.images = {short: made.all[name].unique for short, name in NAMES.items()}
            kuberay.install(self.kubectl, made.all[images.KUBERAY].unique)
        kuberay.wait(self.kubectl)

    def _kind(self, *arguments: str) -> str:
        named = [] if arguments == ("get", "clusters") else ["--name", self.name]
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        command = [str(binary("kind")), *arguments, *named]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise ClusterError(f"kind {' '.join(arguments)} failed:\n{(ran.stdout + ran.stderr).strip()[-3000:]}")
        return ran.stdout

    def down(self) -> None:
        """Delete the cluster."""
        self._kind("delete", "cluster")

    def status(self) -> str:
        """Whether it is there."""
        return f"{self.name}: {'there' if self.name in self._kind('get', 'clusters').split() else 'not there'}"


class ExistingCluster:
    """Somebody's cluster: KubeRay must be there, images must be pullable, and nothing of it is set up or ended."""

    kind = "existing"

    def __init__(self, context: str, layout: Layout) -> None:
        self.context = context
        self.kubeconfig = layout.state / "existing.kubeconfig"
        self.kubectl = Kubectl(self.kubeconfig)

    @property
    def images(self) -> Mapping[str, str]:
        """RAYFLEET_E2E_OPERATOR_IMAGE and its like."""
        named = {name: os.environ.get(f"RAYFLEET_E2E_{name.upper()}_IMAGE") for name in NAMES}
        return {name: image for name, image in named.items() if image}

    def up(self) -> None:
        """Check that it can be used, and write a kubeconfig of that context alone. Raises ClusterError."""
        if missing := [name for name in ("operator", "serving") if name not in self.images]:
            variables = ", ".join(f"RAYFLEET_E2E_{name.upper()}_IMAGE" for name in missing)
            raise ClusterError(f"with RAYFLEET_E2E_CONTEXT, set {variables} to images that the cluster can pull")
        mine = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
        try:
            flat = Kubectl(mine, self.context)("config", "view", "--minify", "--flatten", "--raw")
            self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
            self.kubeconfig.touch(mode=0o600)
            self.kubeconfig.write_text(flat)
            self.kubectl("get", "customresourcedefinition", "rayservices.ray.io")
        except KubectlError as error:
            raise ClusterError(f"{self.context} cannot be used, or has no KubeRay: {error}") from error

    def down(self) -> None:
        """Forget the kubeconfig; the cluster is not ours to end."""
        self.kubeconfig.unlink(missing_ok=True)

    def status(self) -> str:
        """Which Kubernetes answers."""
        return f"{self.context}: {self.kubectl('version').strip()}"
