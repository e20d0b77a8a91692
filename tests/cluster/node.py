"""A cluster of one node on this machine: Kubernetes' own programs and containerd in a sandbox, with real containers.

`up` brings back whatever does not run; over the remains of one that was killed, or was made by other code, it begins
anew. Images are kept. Parts can be stopped, killed and started one by one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import httpx

from cluster import components, machine, settings
from cluster.binaries import GROUPS, binary, build, digest
from cluster.components import Keys
from cluster.deadline import until
from cluster.kubectl import Kubectl, KubectlError
from cluster.layout import API_SERVICE, NODE, NODE_ADDRESS, SERVICES, Layout
from cluster.locks import exclusive
from cluster.sandbox import Sandbox, sandboxes

ETCD = "http://127.0.0.1:2379"
PORT = 6443
PARTS = (
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
)
"""In the order of their start."""

GPUS = 2
"""The node says that it has so many `nvidia.com/gpu`; there are none."""


class NodeError(RuntimeError):
    """The cluster could not be brought up; the message says which part failed and why."""


class Node:
    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout or Layout.from_environment()
        self.sandbox = Sandbox(self.layout.cluster)
        self.kubeconfig = self.layout.kubeconfig

    @property
    def kubectl(self) -> Kubectl:
        """kubectl as an administrator."""
        return Kubectl(self.kubeconfig)

    def up(self) -> None:
        """Bring the cluster up. Raises NodeError, machine.MachineError or binaries.BuildError."""
        machine.require()
        build([*GROUPS["envtest"], *GROUPS["node"]])
        with exclusive(self.layout.lock, "it starts or stops the same cluster"):
            if not self._intact():
                self._end()
                self._begin()
            for part in PARTS:
                self._launch(part)
                if part in ("containerd", "kube-apiserver"):  # what comes next ends when it does not find them
                    self._until_ready(part)
            for part in PARTS:
                self._until_ready(part)

    def down(self) -> None:
        """End the cluster and everything in it; images stay. Raises machine.MachineError."""
        with exclusive(self.layout.lock, "it starts or stops the same cluster"):
            self._end()
            machine.restore_sysctls(self.layout)

    def running(self, part: str) -> bool:
        """Whether the part runs."""
        return self.sandbox.find(self._command(part)[0]) is not None

    def status(self) -> dict[str, bool]:
        """Which parts run."""
        if self.sandbox.pid() is None or not self._made():
            return dict.fromkeys(PARTS, False)
        return {part: self.running(part) for part in PARTS}

    def start(self, part: str) -> None:
        """Start a part unless it runs, and wait until it is ready."""
        self._launch(part)
        self._until_ready(part)

    def _launch(self, part: str) -> None:
        if not self.running(part):
            self.sandbox.start(self._command(part), self._log(part))
            self._until(part, "runs", lambda: self.running(part), 10)

    def _until_ready(self, part: str) -> None:
        match part:
            case "containerd":
                self._until(part, "answers", lambda: self._succeeds("ctr", "version"))
            case "kube-apiserver":
                self._until(part, "is ready", lambda: self._kubectl_succeeds("get", "--raw", "/readyz"))
                self.kubectl.apply(settings.bootstrap())
            case "kube-controller-manager":
                account = ("get", "serviceaccount", "default")
                self._until(part, "has made a service account", lambda: self._kubectl_succeeds(*account))
            case "kubelet":
                self._until(part, "has made its node ready", self._node_ready)
                self._until(part, "knows its pods", self._pods_known)
                self._claim_gpus()
            case "coredns":
                self._until(part, "is ready", self._dns_ready)

    def stop(self, part: str, seconds: float = 30) -> None:
        """Ask a part to stop; kill it when it has not after some seconds. Pods keep running without any of them."""
        try:
            self.sandbox.end(self._command(part)[0], signal.SIGTERM, seconds)
        except TimeoutError:
            self.kill(part)

    def kill(self, part: str) -> None:
        """End a part at once, as a crash would."""
        self.sandbox.end(self._command(part)[0], signal.SIGKILL, 30)

    def kill_container(self, container: str) -> None:
        """End all processes of a pod's container by SIGKILL; raises SandboxError when it does not run."""
        self.sandbox.run("ctr", "--namespace=k8s.io", "tasks", "kill", "--all", "--signal=SIGKILL", container)

    def restart(self, part: str) -> None:
        """Stop a part and start it again."""
        self.stop(part)
        self.start(part)

    def _intact(self) -> bool:
        return self.sandbox.pid() is not None and self._made() and self.layout.made_from.read_text() == _made_from()

    def _made(self) -> bool:
        """Whether a cluster was begun to the end."""
        return self.layout.made_from.is_file()

    def _begin(self) -> None:
        layout = self.layout
        layout.logs.mkdir(parents=True)
        layout.containerd.mkdir(parents=True, exist_ok=True)
        machine.remember_sysctls(layout)
        machine.make_cgroups()
        self.sandbox.create()
        machine.connect(self.sandbox)
        self.sandbox.run("hostname", NODE)
        self._issue()
        settings.write(layout)
        layout.made_from.write_text(_made_from())

    def _issue(self) -> None:
        authority = self._keys.authority
        authority.issue("kubelet", f"system:node:{NODE}", ["system:nodes"], [NODE, NODE_ADDRESS])
        users = {"kubelet": f"system:node:{NODE}", "coredns": "system:coredns"}
        for part in ("kubelet", "coredns", "kube-proxy", "kube-controller-manager", "kube-scheduler"):
            user = users.get(part, f"system:{part}")
            pair = authority.issue(part, user)
            authority.kubeconfig(self.layout.config / f"{part}.kubeconfig", self._url, user, pair)
        authority.kubeconfig(self.kubeconfig, self._url, "admin", self._keys.admin)

    def _end(self) -> None:
        """Leave nothing of a cluster but its images, whatever state it was in. Raises machine.MachineError."""
        machine.check_alone(self.layout, sandboxes())
        self.sandbox.destroy()
        machine.disconnect()
        machine.remove_cgroups()
        self.layout.made_from.unlink(missing_ok=True)
        self.__dict__.pop("_keys", None)
        if self.layout.cluster.exists():
            shutil.rmtree(self.layout.cluster)

    @property
    def _url(self) -> str:
        return f"https://{NODE_ADDRESS}:{PORT}"

    @cached_property
    def _keys(self) -> Keys:
        return components.issue(self.layout.certificates, [NODE_ADDRESS, API_SERVICE])

    def _command(self, part: str) -> list[str]:
        config = self.layout.config
        kubeconfig = config / f"{part}.kubeconfig"
        match part:
            case "etcd":
                return components.etcd(self.layout.cluster / "etcd", ETCD, "http://127.0.0.1:2380")
            case "containerd":
                found = shutil.which("containerd", path=machine.PATH)
                return [found or "containerd", "--config", str(config / "containerd.toml")]
            case "kube-apiserver":
                certificates = self.layout.certificates
                return [
                    *components.apiserver(self._keys, ETCD, NODE_ADDRESS, PORT, SERVICES),
                    f"--kubelet-certificate-authority={certificates / 'ca.crt'}",
                    f"--kubelet-client-certificate={self._keys.kubelet_client.certificate}",
                    f"--kubelet-client-key={self._keys.kubelet_client.key}",
                    "--kubelet-preferred-address-types=InternalIP",
                ]
            case "kube-controller-manager":
                return components.controller_manager(self._keys, kubeconfig, 10257)
            case "kube-scheduler":
                return [
                    str(binary(part)),
                    f"--kubeconfig={kubeconfig}",
                    f"--authentication-kubeconfig={kubeconfig}",
                    f"--authorization-kubeconfig={kubeconfig}",
                    "--bind-address=127.0.0.1",
                    "--leader-elect=false",
                ]
            case "kubelet":
                root = self.layout.cluster / "kubelet"
                return [
                    str(binary(part)),
                    f"--config={config / 'kubelet.yaml'}",
                    f"--kubeconfig={kubeconfig}",
                    f"--root-dir={root}",
                    f"--cert-dir={root / 'certificates'}",
                    f"--hostname-override={NODE}",
                    f"--node-ip={NODE_ADDRESS}",
                ]
            case "kube-proxy":
                return [str(binary(part)), f"--config={config / 'kube-proxy.yaml'}"]
            case "coredns":
                return [str(binary(part)), "-conf", str(config / "Corefile")]
        raise ValueError(f"no such part: {part}; there are {', '.join(PARTS)}")

    def _until(self, part: str, what: str, done: Callable[[], bool], seconds: float = 90) -> None:
        try:
            until(f"{part} {what}", done, seconds)
        except TimeoutError as error:
            log = self._log(part)
            end = log.read_text(errors="replace")[-3000:] if log.exists() else "nothing"
            raise NodeError(f"{error}; {log} ends:\n{end}") from error

    def _log(self, part: str) -> Path:
        return self.layout.logs / f"{part}.log"

    def _succeeds(self, *command: str) -> bool:
        ran = subprocess.run(self.sandbox.command(*command), capture_output=True, check=False)
        return ran.returncode == 0

    def _kubectl_succeeds(self, *arguments: str) -> bool:
        try:
            self.kubectl(*arguments)
        except KubectlError:
            return False
        return True

    def _dns_ready(self) -> bool:
        try:
            return httpx.get(f"http://{NODE_ADDRESS}:8181/ready", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def _node_ready(self) -> bool:
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        try:
            return self.kubectl("get", "node", NODE, "-o", path) == "True"
        except KubectlError:
            return False

    def _pods_known(self) -> bool:
        """Whether a kubelet that starts has heard of every pod: before, it can run nothing in them."""
        try:
            known = json.loads(self.kubectl("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/pods"))["items"] or []
            wanted = self.kubectl.json("get", "pods", "-A", f"--field-selector=spec.nodeName={NODE}")["items"]
        except KubectlError:
            return False
        return {pod["metadata"]["uid"] for pod in wanted} <= {pod["metadata"]["uid"] for pod in known}

    def _claim_gpus(self) -> None:
        # A kubelet that starts forgets capacities that no device plugin claims.
        capacity = f'[{{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "{GPUS}"}}]'
        self.kubectl("patch", "node", NODE, "--subresource=status", "--type=json", "-p", capacity)


def _made_from() -> str:
    """A digest of the code and programs that a cluster is made from."""
    found = hashlib.sha256()
    for name in ("certificates", "components", "layout", "machine", "node", "sandbox", "settings"):
        found.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    for name in (*GROUPS["envtest"], *GROUPS["node"]):
        found.update(digest(name).encode())
    return found.hexdigest()
