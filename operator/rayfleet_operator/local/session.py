"""One `rayfleet up`, from its first look at the port to the last process it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from rayfleet_operator.api.problems import harmless
from rayfleet_operator.local import cluster, ports, state
from rayfleet_operator.local.cluster import ClusterError, LocalCluster
from rayfleet_operator.local.commands import Commands
from rayfleet_operator.local.joined import JoinedRay
from rayfleet_operator.local.loop import Loop
from rayfleet_operator.local.resolutions import Resolutions
from rayfleet_operator.local.sources import Sources, without_effect
from rayfleet_operator.local.state import Slot, Status, Taken, Up
from rayfleet_operator.local.view import View
from rayfleet_operator.plan.serve_config import ServeOptions
from rayfleet_operator.prometheus.client import Prometheus
from rayfleet_operator.ray.nodes import NodeClient
from rayfleet_operator.ray.routers import RouterClient
from rayfleet_operator.ray.serve import ServeClient, ServeError
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.settings import PrometheusSettings

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

WITHOUT_HAPROXY = (
    "HAProxy is not used (it needs Linux, and RAY_SERVE_ENABLE_HA_PROXY not set to 0): Serve's own proxy takes about a "
    "tenth as many requests per second under load, and milliseconds more for each"
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for."""

    sources: Sources
    port: int
    address: str | None
    """Dashboard URL of a Ray to join; None for one of our own."""
    environ: Mapping[str, str]
    prometheus: PrometheusSettings
    gpus: int | None = None
    """GPUs of a Ray of our own; None for those that Ray finds."""
    gpu_memory: int | None = None
    """Bytes of each GPU, for the sums; None where nobody says."""

    @property
    def host(self) -> str:
        return (urlsplit(self.address).hostname or ports.LOOPBACK) if self.address else ports.LOOPBACK

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def options(self) -> ServeOptions:
        """Our own Ray serves this machine only; one that is joined keeps Serve's default."""
        return ServeOptions(port=self.port) if self.address else ServeOptions(host=ports.LOOPBACK, port=self.port)


class Ray(Protocol):
    """Our own or a joined one."""

    @property
    def dashboard(self) -> str: ...
    @property
    def token(self) -> str | None: ...
    @property
    def token_path(self) -> Path | None: ...

    async def ready(self) -> None: ...
    async def ended(self) -> str:
        """Return when it is gone by itself, with its last words."""
        ...

    async def stop(self) -> None: ...
    def hurry(self) -> None: ...


class StartError(Exception):
    """Nothing was started; the text says why and what would be right."""


async def serve(request: Request, view: View) -> None:
    """Serve until asked to stop. Raises StartError, or ClusterError when Ray did not start or ended by itself."""
    stop = Stop()
    folder = state.state_folder(request.environ)
    # Before the slot is taken: whoever holds its lock counts as alive.
    await stop.unless(_tidy(folder, view))
    with contextlib.ExitStack() as held:
        try:
            slot = held.enter_context(Slot(folder, request.host, request.port))
        except Taken as error:
            raise StartError(f"{request.url} is taken: {error}. Choose another port with --port") from error
        except OSError as error:
            raise StartError(
                f"no state can be kept in {folder}: {error.strerror}; name a folder that you may write in "
                "RAYFLEET_STATE_DIR"
            ) from error
        await stop.unless(_check_free(request, folder))
        if not stop.asked:
            async with _ray(request, view, stop) as ray:
                await _serve(request, ray, slot, view, stop)


class Stop:
    """Ctrl-C and its like: the first asks everything to end, each later one calls `again`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.again: Callable[[], None] = lambda: None
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._signal)

    @property
    def asked(self) -> bool:
        return self._event.is_set()

    async def unless(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, but only until asked to stop. Raises what it raises."""
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            working.cancel()
            stopping.cancel()
            await asyncio.wait([working, stopping])

    def _signal(self) -> None:
        if self.asked:
            self.again()
        self._event.set()


async def _serve(request: Request, ray: Ray, slot: Slot, view: View, stop: Stop) -> None:
    own = ray if isinstance(ray, LocalCluster) else None
    started = datetime.now(UTC)

    def write(status: Status) -> None:
        up = Up(
            pid=os.getpid(),
            url=request.url,
            dashboard=ray.dashboard,
            token_path=str(ray.token_path) if ray.token_path else None,
            session=own.session.id if own else None,
            folder=str(own.session.folder) if own else None,
            started=started,
            status=status,
        )
        # A full disk costs `rayfleet status` its news, and nothing else.
        with contextlib.suppress(OSError):
            slot.write(up)

    told: set[str] = set()

    def publish(status: Status) -> None:
        write(status)
        for line in without_effect(request.sources.wanted):
            if line not in told:
                told.add(line)
                view.say(line)
        view.show(status)

    # From here on another `up` can tidy up after this one.
    waiting = "Starting Ray …" if own else f"Joining Ray at {ray.dashboard} …"
    write(Status(problems=(waiting,), updated=started))
    with view.waiting(waiting):
        await stop.unless(ray.ready())
    if stop.asked:
        return
    if own is not None:
        view.say(f"Ray runs on this machine only. Its dashboard is {ray.dashboard}, its token in {ray.token_path}")
        if not own.haproxy:
            view.say(WITHOUT_HAPROXY)
    commands = Commands(state.commands_path(state.state_folder(request.environ), request.url))
    commands.begin()
    async with (
        ServeClient(ray.dashboard, token=ray.token) as client,
        RouterClient(request.url) as routers,
        Prometheus(request.prometheus.url, request.prometheus.token_file) as prometheus,
        NodeClient(ray.dashboard, token=ray.token, gpu_memory=request.gpu_memory) as nodes,
    ):
        loop = Loop(
            sources=request.sources,
            resolutions=Resolutions(Resolver.from_environment(request.environ)),
            serve=client,
            routers=routers,
            prometheus=prometheus,
            options=request.options,
            publish=publish,
            commands=commands,
            url=request.url,
            nodes=nodes,
        )
        await stop.unless(_until_ray_ends(loop, ray))


async def _until_ray_ends(loop: Loop, ray: Ray) -> None:
    working, ended = asyncio.ensure_future(loop.run()), asyncio.ensure_future(ray.ended())
    try:
        await asyncio.wait([working, ended], return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise ClusterError(f"Ray ended by itself, or what keeps it was killed: {ended.result()}")
        working.result()
    finally:
        working.cancel()
        ended.cancel()
        await asyncio.wait([working, ended])


@contextlib.asynccontextmanager
async def _ray(request: Request, view: View, stop: Stop) -> AsyncIterator[Ray]:
    """The Ray to serve on; at the end gone, or left as it was found."""
    ray: Ray
    if request.address is None:
        ray = await LocalCluster.launch(request.environ, port=request.port, gpus=request.gpus)
        ending, ended = "Ending Ray and every process it started …", "Nothing is left running."
    else:
        ray = JoinedRay(request.address, request.options, request.environ)
        ending, ended = "Leaving Ray as it was found …", f"Ray at {ray.dashboard} goes on, without the models."
    stop.again = ray.hurry
    try:
        yield ray
    finally:
        view.close()
        with view.waiting(ending):
            try:
                await ray.stop()
            except (ServeError, TimeoutError) as error:
                why = harmless(str(error)) or "it did not answer in time"
                ended = f"The models could not be taken back from Ray: {why}"
        view.say(ended)


async def _check_free(request: Request, folder: Path) -> None:
    """Raises StartError where another `up` uses the Ray to join, or anything the port."""
    if request.address is not None:
        ours = await _endpoints(request.address)
        for up in state.running(folder):
            if ours & await _endpoints(up.dashboard):
                raise StartError(f"the rayfleet up at {up.url} (process {up.pid}) serves on this Ray already")
    else:
        _check_port(request.port)


async def _endpoints(url: str) -> set[tuple[str, int]]:
    """Every address and port that the URL may mean now, so that localhost is 127.0.0.1; none for an unknown host."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return set()
    return {(str(address[0]), port) for *_, address in found}


def _check_port(port: int) -> None:
    try:
        taken = ports.taken(port)
    except OSError as error:
        raise StartError(f"port {port} may not be used: {error.strerror}. Choose another with --port") from error
    if taken:
        raise StartError(f"port {port} is in use by another program. Choose another with --port")


async def _tidy(folder: Path, view: View) -> None:
    """End what an `up` that was killed left behind."""
    for up in state.killed(folder):
        if up.session is not None and up.folder is not None:
            with view.waiting(f"Tidying up after the rayfleet up that was killed (process {up.pid}) …"):
                await cluster.clean_up(up.session, Path(up.folder))
        state.forget(folder, up)
