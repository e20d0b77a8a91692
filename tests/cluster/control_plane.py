"""A Kubernetes API without nodes: etcd and kube-apiserver, and kube-controller-manager where asked for.

with ControlPlane(tmp_path) as control_plane:
    control_plane.kubectl("get", "namespaces")

Objects are kept, admitted and watched as in any cluster, and RBAC holds. Nothing runs: no pods, and without the
controller manager no garbage collection, no service account `default`, and namespaces that are deleted never go.
"""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from cluster import components
from cluster.binaries import ENVTEST, build
from cluster.certificates import Pair
from cluster.deadline import until
from cluster.kubectl import Kubectl

PORTS = range(20000, 30000)
"""Below those that the kernel gives to outgoing connections, so that a part can come back at its old one."""
SERVICES = "127.128.0.0/16"
"""Nothing leads from there to pods, so whoever stands in for what is behind a Service can answer there itself."""

READY = 60.0
"""Seconds; two are the rule."""

WATCHDOG = """live=
while read -r sign pid; do
  kept=
  for each in $live; do [ "$each" = "$pid" ] || kept="$kept $each"; done
  live=$kept
  [ "$sign" = - ] || live="$live $pid"
done
[ -z "$live" ] || kill -9 $live
"""
"""Told of each process that lives; when its input ends, which is when the tests died, it ends them."""


class ControlPlane:
    """Starts in about three seconds on ports of its own; any number may run at once."""

    def __init__(
        self, folder: Path, *, controller_manager: bool = False, apiserver_arguments: Sequence[str] = ()
    ) -> None:
        """Keep everything in `folder`; `apiserver_arguments` come after, and so override, our own."""
        self.folder = folder
        self.kubeconfig = folder / "admin.kubeconfig"
        self._controller_manager = controller_manager
        self._arguments = list(apiserver_arguments)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._watchdog: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._ports['kube-apiserver']}"

    @property
    def kubectl(self) -> Kubectl:
        """kubectl as an administrator."""
        return Kubectl(self.kubeconfig)

    def start(self) -> None:
        """Start everything. Raises RuntimeError with the end of the log of the part that failed."""
        build([*ENVTEST, *(["kube-controller-manager"] if self._controller_manager else [])])
        self.folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(3):
            try:
                self._start_anew()
                return
            except RuntimeError as error:
                self.stop()
                # Between choosing a port and listening there, another process may take it.
                if attempt == 2 or "address already in use" not in str(error):
                    raise
            except BaseException:
                self.stop()
                raise

    def _start_anew(self) -> None:
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)
        self._watchdog = subprocess.Popen(
            ["sh", "-c", WATCHDOG], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        parts = ("kube-apiserver", "etcd", "etcd-peer", "kube-controller-manager")
        self._ports = dict(zip(parts, _free_ports(len(parts)), strict=True))
        self._keys = components.issue(self.folder / "certificates", [])
        self._keys.authority.kubeconfig(self.kubeconfig, self.url, "admin", self._keys.admin)
        self.start_part("etcd")
        self.start_part("kube-apiserver")
        if self._controller_manager:
            self.start_part("kube-controller-manager")

    def _command(self, part: str) -> list[str]:
        etcd = f"http://127.0.0.1:{self._ports['etcd']}"
        match part:
            case "etcd":
                return components.etcd(self.folder / "etcd", etcd, f"http://127.0.0.1:{self._ports['etcd-peer']}")
            case "kube-apiserver":
                # Pods may be written without a service account: nobody is there to make the account.
                admission = [] if self._controller_manager else ["--disable-admission-plugins=ServiceAccount"]
                command = components.apiserver(self._keys, etcd, "127.0.0.1", self._ports["kube-apiserver"], SERVICES)
                return [*command, "--endpoint-reconciler-type=none", *admission, *self._arguments]
            case "kube-controller-manager":
                return components.controller_manager(
                    self._keys, self.kubeconfig, self._ports["kube-controller-manager"]
                )
        raise ValueError(f"no such part: {part}; there are etcd, kube-apiserver and kube-controller-manager")

    def start_part(self, part: str) -> None:
        """Start etcd, kube-apiserver or kube-controller-manager at its old address, and wait until it is ready."""
        if self.running(part):
            return
        self._end(part, 0)  # one that crashed: the watchdog forgets its pid, which another process may get
        command = self._command(part)
        with (self.folder / f"{part}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._running[part] = process
        self._tell("+", process.pid)
        if part == "kube-apiserver":
            self._until_ready(part, "/readyz")
            self._until_ready(part, "/api/v1/namespaces/default")

    def _until_ready(self, part: str, path: str) -> None:
        def ready() -> bool:
            if self._running[part].poll() is not None:
                raise RuntimeError(f"{part} ended while starting; its log ends:\n{self.log(part)[-3000:]}")
            try:
                return client.get(path).is_success
            except httpx.TransportError:
                return False

        with self.client() as client:
            try:
                until(f"{part} answers {path}", ready, READY, every=0.05)
            except TimeoutError as error:
                raise RuntimeError(f"{error}; its log ends:\n{self.log(part)[-3000:]}") from error

    def running(self, part: str) -> bool:
        """Whether the part was started and lives."""
        return part in self._running and self._running[part].poll() is None

    def stop_part(self, part: str, seconds: float = 15) -> None:
        """Ask the part to stop, as an upgrade would, and kill it when it has not after some seconds."""
        self._end(part, seconds)

    def kill_part(self, part: str) -> None:
        """End the part at once, as a crash would."""
        self._end(part, 0)

    def restart_part(self, part: str) -> None:
        """Stop the part and start it again."""
        self.stop_part(part)
        self.start_part(part)

    def log(self, part: str) -> str:
        """What the part wrote so far."""
        return (self.folder / f"{part}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End everything at once; the folder stays, for who wants to read the logs."""
        for part in reversed(list(self._running)):
            self.kill_part(part)
        if self._watchdog is not None:
            self._watchdog.communicate()
            self._watchdog = None

    kill = stop

    def _end(self, part: str, seconds: float) -> None:
        process = self._running.pop(part, None)
        if process is None:
            return
        if seconds > 0:
            process.terminate()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
        else:
            process.kill()
        # The watchdog forgets the pid before it is given to another process, which is when we have waited.
        self._tell("-", process.pid)
        process.wait()

    def _tell(self, sign: str, pid: int) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.write(f"{sign} {pid}\n")
            self._watchdog.stdin.flush()

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a client certificate; the user may do what RBAC grants to the name and groups."""
        file = "-".join(["user", user, *groups]).replace(":", "_").replace("/", "_")
        pair = self._keys.authority.issue(file, user, groups)
        return self._keys.authority.kubeconfig(self.folder / f"{file}.kubeconfig", self.url, user, pair)

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token for a service account, which must be there; good for an hour."""
        token = self.kubectl("create", "token", name, "--namespace", namespace).strip()
        path = self.folder / f"account-{namespace}-{name}.kubeconfig"
        return self._keys.authority.kubeconfig(path, self.url, name, token)

    def client(self, credentials: Pair | None = None) -> httpx.Client:
        """An HTTP client for the API, as an administrator or with another certificate."""
        pair = credentials or self._keys.admin
        context = ssl.create_default_context(cafile=str(self._keys.authority.pair.certificate))
        context.load_cert_chain(pair.certificate, pair.key)
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=60)

    def compact(self) -> int:
        """Forget every earlier revision in etcd and answer the current one.

        A watch from an earlier resourceVersion is answered with 410 Gone once the API server was restarted too:
        until then it knows recent events by itself.
        """
        with httpx.Client(base_url=f"http://127.0.0.1:{self._ports['etcd']}", trust_env=False) as client:
            found = client.post("/v3/kv/range", json={"key": "AA=="}).raise_for_status().json()
            revision = int(found["header"]["revision"])
            answer = client.post("/v3/kv/compaction", json={"revision": revision, "physical": True})
            if answer.is_error and "compacted" not in answer.text:
                answer.raise_for_status()
            return revision


def _free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 where nobody listens at the moment."""
    found: list[int] = []
    end = time.monotonic() + 10
    while len(found) < number:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                if time.monotonic() > end:
                    raise
                continue
        if port not in found:
            found.append(port)
    return found
