"""The router app: an ASGI ingress whose traffic table is its `user_config`.

No `from __future__ import annotations` here: Serve reads the builder's annotation to parse its arguments.
"""

import asyncio
import logging
from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from rayfleet_serving import logs
from rayfleet_serving.autoscaling import stats
from rayfleet_serving.config import ROUTER_APP, ROUTER_DEPLOYMENT, RouterArgs, RouterState, TrafficReport, TrafficTable
from rayfleet_serving.metrics import RouterMetrics, merge
from rayfleet_serving.router import replicas, shortcut
from rayfleet_serving.router.busy import Busy
from rayfleet_serving.router.http import Front
from rayfleet_serving.router.traffic import Traffic
from rayfleet_serving.router.version import ask_all, deployment_handle
from rayfleet_serving.signature import ModelMetadata

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often a router looks at itself and for its peers."""


@serve.deployment(name=ROUTER_DEPLOYMENT)
@serve.ingress()
class Router:
    """One router replica."""

    def __init__(self, args: RouterArgs) -> None:
        logs.follow_serve()
        replica = serve.get_replica_context().replica_id.unique_id
        self._metrics = RouterMetrics(replica)
        self._traffic = Traffic(replica, self._metrics, self._peers_know)
        self._peers: DeploymentHandle[Any] | None = None
        """All router replicas, this one among them. Made on the event loop, at first use."""
        self._front = Front(self._traffic, self._report, self._exposition)
        self._busy: Busy | None = None
        """Made on the event loop, whose thread it measures."""
        self._looking: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> Front:
        return self._front

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take a new traffic table. Never raises: a raising reconfigure takes the router down."""
        try:
            if self._looking is None:
                self._looking = asyncio.get_running_loop().create_task(self._look())
            self._traffic.apply(TrafficTable.model_validate(user_config))
            shortcut.open_to(self._front)
        except ValidationError as error:
            logger.error("The new traffic table is not valid; the old one stays in force. %s", error)
        except Exception:
            logger.exception("The new traffic table could not be applied; the old one stays in force.")

    async def _look(self) -> None:
        """Each second, see how busy this router is, who goes first, and how many routers there are."""
        self._busy = Busy()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self._busy.look()
                self._traffic.share_with(replicas.count(self._routers()))
            except Exception:
                logger.exception("How many routers there are could not be seen.")
            try:
                self._traffic.settle()
            except Exception:
                logger.exception("Who goes first could not be settled; it stays as it is.")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks this each second, and hands it to the policy. Never raises."""
        if self._busy is None:
            return {}
        return {stats.BUSY: self._busy.share, stats.ONGOING: float(self._traffic.ongoing)}

    async def traffic_state(self) -> RouterState:
        """What this replica holds."""
        return self._traffic.state()

    async def exposition(self) -> str:
        """Prometheus text of this replica."""
        return self._expose()

    def _expose(self) -> str:
        self._traffic.measure()
        if self._busy is not None:
            self._metrics.busy.set(self._busy.share)
            self._metrics.routers.set(replicas.count(self._routers()))
        return self._metrics.exposition()

    async def metadata_of(self, app: str, labels_file: str | None) -> ModelMetadata | None:
        """What this router knows of a version, for another one; None where it knows nothing."""
        return self._traffic.known(app, labels_file)

    async def _peers_know(self, app: str, labels_file: str | None) -> ModelMetadata | None:
        answers = await self._ask_routers("metadata_of", app, labels_file)
        return next((answer for answer in answers if isinstance(answer, ModelMetadata)), None)

    async def _report(self) -> TrafficReport:
        """The state of every router replica that answers in time."""
        states = await self._ask_routers("traffic_state") or [self._traffic.state()]
        return TrafficReport(routers=sorted(states, key=lambda state: str(state.replica)))

    async def _exposition(self) -> str:
        """Prometheus text of every router and every model replica that answers in time."""
        versions = self._traffic.live_versions()
        routers, *replicas = await asyncio.gather(
            self._ask_routers("exposition"),
            *(version.expositions() for version in versions if version.awake),
            return_exceptions=True,
        )
        texts = [text for answer in replicas if not isinstance(answer, BaseException) for text in answer]
        own = [self._expose()]
        return merge([*(own if isinstance(routers, BaseException) or not routers else routers), *texts])

    def _routers(self) -> DeploymentHandle[Any]:
        if self._peers is None:
            self._peers = deployment_handle(ROUTER_DEPLOYMENT, ROUTER_APP)
        return self._peers

    async def _ask_routers(self, method: str, *args: Any) -> list[Any]:
        try:
            return await ask_all(self._routers(), method, *args)
        except Exception as error:
            logger.warning("The routers did not answer %s: %s: %s", method, type(error).__name__, error)
            return []


def build(args: RouterArgs) -> Application:
    """Serve's application builder."""
    return Router.bind(args)  # type: ignore[attr-defined,no-any-return]
