"""Watches of everything that concerns fleets. kopf keeps them; nothing of what it can do beyond that is used.

It runs in a thread with an event loop of its own: it takes over signals, and at its end cancels every task that is
younger than itself, which must not be our reconciles. Handlers only pass events on. They return None, so nothing is
ever written to the cluster: no annotations, no finalizers, no Events.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

import kopf

from rayfleet_operator.kube import kinds, places
from rayfleet_operator.kube.client import PAGE, Json, KubeClient
from rayfleet_operator.kube.config import Connection
from rayfleet_operator.kube.digests import Digests
from rayfleet_operator.kube.errors import KubeError
from rayfleet_operator.kube.exchanges import Exchanges
from rayfleet_operator.kube.keys import CHILDREN
from rayfleet_operator.kube.kinds import Kind
from rayfleet_operator.kube.places import Place
from rayfleet_operator.kube.transport import CONNECT_S, READ_S
from rayfleet_operator.kube.watching import SERVER_S
from rayfleet_operator.metrics import RequestMetrics

OWN = (kinds.MODEL_DEPLOYMENT, kinds.MODEL_FLEET)
"""What people write."""
MADE = (
    kinds.RAY_SERVICE,
    kinds.RAY_CLUSTER,
    kinds.SERVICE,
    kinds.SECRET,
    kinds.NETWORK_POLICY,
    kinds.CONTROLLER_REVISION,
)
"""What the operator makes, and KubeRay for it; picked by label at the API server, so no other Secret is ever sent."""
CHATTERING = (kinds.RAY_SERVICE, kinds.RAY_CLUSTER, kinds.MODEL_DEPLOYMENT, kinds.MODEL_FLEET)
"""Written again and again with nothing in them that concerns a fleet."""

FIRST_BACKOFFS_S = (0.5, 1.0, 2.0)
BACKOFF_S = 4.0
"""Between tries of a list or watch, without an end: kopf ends altogether when one of its watches gives up."""
SYNC_S = 60.0
"""In which every watch must have begun or said why it cannot; else they are all started anew."""
SILENT_S = 2 * SERVER_S + 60.0
"""A watch that has not even been tried anew for this long is dead."""
LOOK_S = 10.0
"""Between looks whether a kind is there by now, and between logins."""
LONGEST_PAUSE_S = 30.0
"""Before watches that failed are started anew."""
STOP_S = 8.0
"""For the thread to end; what is left of it then dies with the process."""
END_S = 0.25
"""Between two cancellations of what does not end."""
Observe = Callable[[Kind, Json, bool], None]

logger = logging.getLogger(__name__)


class Watches:
    """Calls `observe(kind, object, deleted)` in the loop that called `run`, for all that is there and each change."""

    def __init__(
        self,
        connection: Connection,
        client: KubeClient,
        *,
        namespaces: Sequence[str],
        observe: Observe,
        metrics: RequestMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._client = client
        self._namespaces = tuple(namespaces)
        self._observe = observe
        at = [Place(kind, namespace) for kind in (*OWN, *MADE) for namespace in self._namespaces or (None,)]
        self._places = {place.path: place for place in at}
        self._exchanges = Exchanges(connection, self._places, metrics, clock=clock)
        self._digests = Digests()
        self._missing: str | None = None

    async def run(self) -> None:
        """Until cancelled. What fails is logged and begun anew."""
        pause = 1.0
        while True:
            self._exchanges.rest()
            await self._until_served()
            began = time.monotonic()
            try:
                await self._once()
                why = "kopf ended"
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                logger.debug("Where the watches failed", exc_info=error)
            pause = 1.0 if time.monotonic() - began > SYNC_S else min(LONGEST_PAUSE_S, pause * 2)
            logger.error("The watches ended and start anew in %.0f s: %s", pause, why)
            await asyncio.sleep(pause)

    def waits_for(self) -> str | None:
        """What stands between now and hearing of everything: that it was listed, and that each watch has begun."""
        if self._missing is not None:
            return self._missing
        waiting, refused = self._at(self._exchanges.waiting()), self._at(self._exchanges.refused())
        needed = places.needed(self._at(self._places), waiting, refused)
        paths = sorted(place.path for place in needed)
        return f"the watches of {', '.join(paths)} have not begun" if paths else None

    def passes_over(self) -> str | None:
        """Which watches the API server does not allow."""
        refused = sorted(self._exchanges.refused())
        return f"the watches of {', '.join(refused)} are not allowed" if refused else None

    def dead(self) -> str | None:
        """Why the watches must be taken for dead, if so. They are not while a kind to watch is still missing."""
        silent = sorted(self._exchanges.silent(SILENT_S))
        return f"the watches of {', '.join(silent)} have not been renewed for {SILENT_S:.0f} s" if silent else None

    def _at(self, paths: Iterable[str]) -> set[Place]:
        return {self._places[path] for path in paths}

    async def _until_served(self) -> None:
        """kopf passes over kinds that it does not find at its start."""
        while True:
            try:
                missing = [kind for kind in (*OWN, *MADE) if not await self._client.serves(kind)]
            except KubeError as error:
                said = str(error)
            else:
                if not missing:
                    self._missing = None
                    return
                names = ", ".join(f"{kind} ({kind.api_version})" for kind in missing)
                fix = "install KubeRay" if missing[0].group == "ray.io" else "apply rayfleet's CRDs"
                said = f"the cluster has no {names}: {fix}"
            if said != self._missing:
                logger.error("Nothing can be watched yet: %s", said)
                self._missing = said
            await asyncio.sleep(LOOK_S)

    async def _once(self) -> None:
        """One kopf operator from beginning to end. Raises what ended it."""
        loop = asyncio.get_running_loop()
        stop = threading.Event()
        ended: asyncio.Future[BaseException | None] = loop.create_future()
        self._exchanges.anew()

        def end(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(error)

        def target() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(self._operate(loop, stop))
            except BaseException as caught:
                error = caught
            _tell(loop, end, error)

        thread = threading.Thread(target=target, name="watches", daemon=True)
        thread.start()
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=SYNC_S)
                # A watch that fails says why, and need not be begun anew. One that does not even try was forgotten.
                if not ended.done() and (forgotten := self._exchanges.forgotten()):
                    raise TimeoutError(f"nobody watches {', '.join(sorted(forgotten))}")
            if (error := ended.result()) is not None:
                raise error
        finally:
            stop.set()
            await asyncio.shield(asyncio.to_thread(thread.join, STOP_S))

    async def _operate(self, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        """In the thread, until `stop` is set or kopf fails."""
        asyncio.get_running_loop().set_exception_handler(_quietly)
        tasks = await kopf.spawn_tasks(
            registry=self._registry(loop),
            settings=_settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=stop,
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            # kopf waits for the flag in a thread, which would otherwise outlive it.
            stop.set()
            await _end_all()

    def _registry(self, loop: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        logins = 0

        async def login(**_: Any) -> kopf.AiohttpSession:
            nonlocal logins
            if logins:
                # kopf asks for others at once when the API server refuses our credentials; there are none.
                await asyncio.sleep(LOOK_S)
            logins += 1
            return kopf.AiohttpSession(server=self._connection.server, aiohttp_session=self._exchanges.session())

        kopf.on.login(registry=registry)(login)
        for kind in (*OWN, *MADE):
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(self._handler(loop, kind))
        return registry

    def _handler(self, loop: asyncio.AbstractEventLoop, kind: Kind) -> Callable[..., Awaitable[None]]:
        async def pass_on(event: kopf.RawEvent, **_: Any) -> None:
            try:
                obj: Json = dict(event["object"])
                deleted = event["type"] == "DELETED"
                # Events of a list say nothing of a change: whoever starts anew wants them all.
                if kind not in CHATTERING or self._digests.differs(kind, obj, deleted=deleted) or event["type"] is None:
                    _tell(loop, self._observe, kind, obj, deleted)
            except Exception:
                # kopf drops it too, and what kopf says is not logged. The resync heals what is missed.
                logger.exception("An event of a %s could not be passed on", kind)

        return pass_on


class _Backoffs(Iterable[float]):
    """Never at an end, however often it is asked for."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain(FIRST_BACKOFFS_S, itertools.repeat(BACKOFF_S))


async def _end_all() -> None:
    """Cancel every other task of this loop, again and again.

    kopf's own ending waits for ever: of a watch that is cancelled together with the task it waits for, it swallows the
    cancellation, and the watch goes on.
    """
    for _ in range(int(STOP_S / 2 / END_S)):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if not others:
            return
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=END_S)


def _quietly(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What tasks say of their own that nobody waits for."""
    logger.debug("In the watches' loop: %s", context.get("message"), exc_info=context.get("exception"))


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # the Lease says who works
    settings.scanning.disabled = True  # namespaces are given; to look for CRDs would need rights of its own
    settings.posting.enabled = False
    settings.process.ultimate_exiting_timeout = None  # it would end the whole process
    settings.watching.server_timeout = SERVER_S
    settings.watching.chunk_size = PAGE
    settings.networking.request_timeout = READ_S
    settings.networking.connect_timeout = CONNECT_S
    settings.networking.error_backoffs = _Backoffs()
    for kind in MADE:
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = CHILDREN
    return settings


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any) -> None:
    """Call in the other loop; nobody is left to hear it when that one has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)
