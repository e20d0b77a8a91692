"""A Ray of our own on this machine: one node, everything on the loopback, gone without a trace at the end.

`up` starts the keeper (see there), the keeper starts `ray start --head --block`. All files, the auth token among them,
are in one new folder that only this user can enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rayfleet_operator.local import keeper, ports
from rayfleet_operator.local.variables import FREE_PORTS, INGRESS_PORTS, SESSION, variables
from rayfleet_operator.ray.serve import ServeClient, ServeUnreachable
from rayfleet_serving.environment import haproxy_binary, haproxy_command

START_S = 120.0
"""Ray takes 5 s on an idle laptop; a cold disk or an emulated machine can take a minute."""

PREFIX = "rayfleet-"
LONGEST_FOLDER = 26
"""Ray's and HAProxy's sockets lie about 80 characters below the folder, and Linux and macOS allow 103 in all."""

OBJECT_STORE_BYTES = 256 * 1024**2
"""Requests and answers travel by gRPC, not through the object store. Ray asks for at least 75 MiB."""


class ClusterError(Exception):
    """Ray did not start, or ended."""


@dataclass(frozen=True)
class Session:
    """What one local Ray is known by."""

    id: str
    folder: Path
    """Everything it writes."""

    @classmethod
    def new(cls) -> Session:
        session = cls(secrets.token_hex(8), make_folder())
        session.token_path.touch(mode=0o600)
        session.token_path.write_text(secrets.token_hex(32))
        return session

    @property
    def token_path(self) -> Path:
        return self.folder / "token"


class LocalCluster:
    """`launch`, then `stop`, whatever happens between them."""

    def __init__(self, session: Session, dashboard: str, process: asyncio.subprocess.Process, *, haproxy: bool) -> None:
        self.session = session
        self.dashboard = dashboard
        self.token_path = session.token_path
        self.token = session.token_path.read_text()
        self.haproxy = haproxy
        self._process = process
        if process.stdin is None or process.stderr is None:
            raise ValueError("the keeper is held by its standard input and tells the end by its standard error")
        self._stdin, self._stderr = process.stdin, process.stderr
        self._last_words = asyncio.ensure_future(self._read_last_words())

    @classmethod
    async def launch(
        cls, environ: Mapping[str, str], *, port: int | None = None, gpus: int | None = None
    ) -> LocalCluster:
        """Start the processes and return at once. `environ` goes through to every model. `port`: where models will
        answer, if that is known; no port that is chosen here for Ray is that one. `gpus`: how many GPUs Ray hands out;
        None for those that it finds. Raises ClusterError."""
        if importlib.util.find_spec("ray") is None:
            raise ClusterError("Ray is not installed in this environment; pip install 'rayfleet[local]'")
        try:
            session = Session.new()
        except OSError as error:
            raise ClusterError(
                f"Ray's files have no place: {error}; name a folder that you may write in TMPDIR"
            ) from error
        try:
            return await cls._start(session, environ, port, gpus)
        except BaseException:
            await clean_up(session.id, session.folder)
            raise

    @classmethod
    async def _start(
        cls, session: Session, environ: Mapping[str, str], port: int | None, gpus: int | None
    ) -> LocalCluster:
        promised = {port} if port is not None else set()
        try:
            dashboard, client_server, metrics, *free = ports.free(3 + FREE_PORTS, but=promised)
        except ports.NoFreePortError as error:
            raise ClusterError(f"Ray has no ports to listen on: {error}") from error
        ingress = [first for first in INGRESS_PORTS if promised.isdisjoint(range(first, first + INGRESS_PORTS.step))]
        folder, binary = session.folder / "ha", haproxy_binary()
        env = variables(
            environ,
            session=session.id,
            token_path=session.token_path,
            folder=folder,
            free=free,
            ingress_port=random.choice(ingress),  # noqa: S311 - not a secret
            haproxy=haproxy_command(binary, folder) if binary else None,
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", keeper.__name__, str(session.folder)),
            *ray_command(session.folder, dashboard, client_server, metrics, gpus=gpus),
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        haproxy = env["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        return cls(session, f"http://{ports.LOOPBACK}:{dashboard}", process, haproxy=haproxy)

    async def ready(self) -> None:
        """Return when Serve can be given a config. Raises ClusterError, with what Ray said."""
        async with ServeClient(self.dashboard, token=self.token) as serve:
            ended = asyncio.ensure_future(self.ended())
            try:
                async with asyncio.timeout(START_S):
                    while not ended.done():
                        with contextlib.suppress(ServeUnreachable):
                            await serve.applications()
                            return
                        await asyncio.wait([ended], timeout=0.1)
            except TimeoutError:
                raise ClusterError(f"Ray did not answer within {START_S:g} s. {_tail(self.session.folder)}") from None
            finally:
                ended.cancel()
        raise ClusterError(f"Ray did not start: {await self.ended()}")

    async def ended(self) -> str:
        """Return when Ray is gone, asked or not, with what it wrote last."""
        text = (await asyncio.shield(self._last_words)).decode(errors="replace").strip()
        return text or f"it ended with exit code {self._process.returncode} and said nothing"

    async def stop(self) -> None:
        """End every process of the session and remove its folder; returns when that is done."""
        self._stdin.close()
        await self._process.wait()
        # A keeper that was killed itself ended nothing.
        await clean_up(self.session.id, self.session.folder)

    def hurry(self) -> None:
        """Have `stop` end everything at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    async def _read_last_words(self) -> bytes:
        text = await self._stderr.read()
        await self._process.wait()
        return text


def make_folder() -> Path:
    """A new folder that only this user can enter: Ray itself makes its own folders open to everyone."""
    place = tempfile.gettempdir()
    if len(place) + len(f"/{PREFIX}12345678") > LONGEST_FOLDER:
        place = "/tmp"  # noqa: S108 - macOS gives each user a long path
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))


def ray_command(
    folder: Path, dashboard: int, client_server: int, metrics: int, *, gpus: int | None = None
) -> list[str]:
    """`ray start` for one node that nobody joins. Its CPUs are logical: they count places, not cores. So are `gpus`,
    where they are named."""
    options: dict[str, object] = {
        "node-ip-address": ports.LOOPBACK,
        "port": 0,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "dashboard-host": ports.LOOPBACK,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": client_server,
        "metrics-export-port": metrics,
        "temp-dir": folder / "ray",
        "num-cpus": logical_cpus(),
        "object-store-memory": OBJECT_STORE_BYTES,
        "include-log-monitor": "false",
        "log-style": "record",
        "log-color": "false",
        **({"num-gpus": gpus} if gpus is not None else {}),
    }
    arguments = ["--head", "--block", "--no-monitor", *(f"--{key}={value}" for key, value in options.items())]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]


def logical_cpus() -> int:
    """Two routers, several models of one CPU, and a second copy of each while it is replaced must all find a place."""
    return max(16, 4 * (os.cpu_count() or 1))


async def clean_up(session: str, folder: Path) -> None:
    """End what a killed keeper left of a session, and remove its folder; nothing is to do after one that was not.

    The keeper of an `up` that was killed a moment ago is still at work and is let finish. Processes are told by their
    environment, which only Linux shows.
    """
    deadline = time.monotonic() + keeper.GRACE_S + 2
    while marked(session) and time.monotonic() < deadline:  # noqa: ASYNC110 - they end without a word
        await asyncio.sleep(0.1)
    deadline += keeper.GIVE_UP_S
    while (left := marked(session)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.05)  # A killed process takes a moment to go.
    if folder.name.startswith(PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def marked(session: str) -> set[int]:
    """Processes of one session: those that carry its mark, and those that share the keeper's session with one of them.

    Ray's workers write their titles over their environment as others see it, so the mark alone would miss some.
    """
    mark = f"{SESSION}={session}".encode()
    found: set[int] = set()
    by_leader: dict[int, set[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent group session …"; the name may hold spaces and parentheses.
            state, _, _, leader, *_ = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if state in ("Z", "X"):
                continue
            pid = int(entry.name)
            by_leader.setdefault(int(leader), set()).add(pid)
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    for pids in by_leader.values():
        # A command called from within a model has the mark as well; what shares its session is not all of ours.
        if pids & found and os.getpid() not in pids:
            found |= pids
    return found - {os.getpid()}


def _tail(folder: Path) -> str:
    try:
        return keeper.last_words(folder).decode(errors="replace").strip()
    except OSError:
        return ""
