"""Stands in for KubeRay and Ray, to look at the operator alone: `python -m ray_stand_in KUBECONFIG`.

Each RayService gets a RayCluster and two pods at once, all of them objects without anything behind them. One HTTP
server answers for every cluster's dashboard and routers, which it tells apart by the loopback address that was called;
and for every Service, since their addresses are of loopback, too.
Whatever config it was given runs, in the words of Ray Serve 2.60.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from rayfleet_operator.kube import config, kinds
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.errors import AlreadyExists
from rayfleet_operator.kube.watching import Listed
from rayfleet_operator.plan import size
from rayfleet_operator.render import objects
from rayfleet_operator.render.names import DASHBOARD_PORT, SERVE_PORT
from rayfleet_serving.config import ROUTER_APP, RouterState, RouterVersionState, TrafficReport, TrafficTable

Json = dict[str, Any]


APPLICATIONS = "/api/serve/applications/"
TRAFFIC = "/rayfleet/traffic"
LIVE = "/v2/health/live"


class RayStandIn:
    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._addresses: dict[tuple[str, str], str] = {}
        """Where each fleet's pods are said to be, by namespace and name."""
        self._configs: dict[str, Json] = {}
        """What each address serves."""
        self.silent: set[str] = set()
        """Paths that nothing answers for just now."""
        self.dead_every = 0
        """Of so many connections to a Service one meets a dead pod; 0: none does."""
        self.asked: Counter[str] = Counter()
        """Requests by path."""

    async def follow(self) -> None:
        """Make what KubeRay would make, for ever."""
        async for change in self._client.watch(kinds.RAY_SERVICE, None):
            for obj in change.objects if isinstance(change, Listed) else [change.object]:
                if isinstance(change, Listed) or not change.deleted:
                    await self.serve(obj)

    async def serve(self, obj: Json) -> None:
        """Make what KubeRay would make for this RayService, and run its config."""
        namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
        known = (namespace, name) in self._addresses
        number = len(self._addresses)
        address = self._addresses.setdefault((namespace, name), f"127.1.{number // 250}.{number % 250 + 1}")
        self._configs[address] = json.loads(obj["spec"]["serveConfigV2"])
        if not known:
            await self._make(obj, address)

    async def _make(self, obj: Json, address: str) -> None:
        namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
        cluster = f"{name}-abcde"
        made = await self._create(
            {
                "apiVersion": "ray.io/v1",
                "kind": "RayCluster",
                "metadata": {
                    "name": cluster,
                    "namespace": namespace,
                    "labels": {
                        **obj["metadata"]["labels"],
                        "ray.io/originated-from-cr-name": name,
                        "ray.io/originated-from-crd": "RayService",
                    },
                    "annotations": obj["metadata"]["annotations"],
                },
                "spec": obj["spec"]["rayClusterConfig"],
            }
        )
        for node in ("head", "worker"):
            labels = {
                **obj["metadata"]["labels"],
                "ray.io/cluster": cluster,
                "ray.io/node-type": node,
                "ray.io/serve": "true" if node == "worker" else "false",
            }
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{cluster}-{node}",
                    "namespace": namespace,
                    "labels": labels,
                    "ownerReferences": [objects.owner(made)],
                },
                "spec": {"containers": [{"name": "ray", "image": "nothing"}]},
            }
            await self._create(pod)
            conditions = [{"type": "Ready", "status": "True"}]
            status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions}
            await self._client.apply_status({**pod, "status": status}, field_manager="stand-in", force=True)
        status = {"activeServiceStatus": {"rayClusterName": cluster}}
        bare = {key: obj[key] for key in ("apiVersion", "kind")}
        body = {**bare, "metadata": {"name": name, "namespace": namespace}, "status": status}
        await self._client.apply_status(body, field_manager="stand-in", force=True)

    async def _create(self, obj: Json) -> Json:
        """The object, made now or there before."""
        metadata = obj["metadata"]
        try:
            return await self._client.create(obj)
        except AlreadyExists:
            found = await self._client.get(kinds.kind_of(obj), metadata["namespace"], metadata["name"])
            assert found is not None
            return found

    def _asked(self, request: web.Request) -> Json:
        if request.path in self.silent:
            raise web.HTTPServiceUnavailable
        assert request.transport is not None
        return self._configs.get(request.transport.get_extra_info("sockname")[0], {"applications": []})

    async def applications(self, request: web.Request) -> web.Response:
        """GET /api/serve/applications/ of a dashboard."""
        return web.json_response(
            {"applications": {app["name"]: _details(app) for app in self._asked(request)["applications"]}}
        )

    async def traffic(self, request: web.Request) -> web.Response:
        """GET /rayfleet/traffic of a router."""
        apps = {app["name"]: app for app in self._asked(request)["applications"]}
        if ROUTER_APP not in apps:
            raise web.HTTPNotFound
        (deployment,) = apps[ROUTER_APP]["deployments"]
        table = TrafficTable.model_validate(deployment["user_config"])
        rows = [row for route in table.models.values() for row in route.versions]
        routers = [
            RouterState(
                replica=f"router-{number}",
                table=table.digest(),
                models={name: route.digest() for name, route in table.models.items()},
                versions={row.app: RouterVersionState(ready=row.app in apps, ongoing=0, queued=0) for row in rows},
            )
            for number in range(size.given(apps[ROUTER_APP]).least)
        ]
        return web.json_response(text=TrafficReport(routers=routers).model_dump_json())

    async def live(self, request: web.Request) -> web.Response:
        """GET /v2/health/live of a router, wherever the Service leads."""
        self.asked[request.path] += 1
        dead = self.dead_every and self.asked[request.path] % self.dead_every == 0
        if dead or request.path in self.silent:
            raise web.HTTPServiceUnavailable
        return web.json_response({"live": True})


def _details(app: Json) -> Json:
    deployments = {
        each["name"]: {
            "status": "HEALTHY",
            "message": "",
            "target_num_replicas": size.given(app).least,
            "replicas": [{"state": "RUNNING"}] * size.given(app).least,
        }
        for each in app["deployments"]
    }
    return {"status": "RUNNING", "message": "", "deployed_app_config": app, "deployments": deployments}


@asynccontextmanager
async def answering(ray: RayStandIn) -> AsyncIterator[None]:
    """The ports of dashboards and routers, on every address of this machine."""
    app = web.Application()
    app.router.add_get(APPLICATIONS, ray.applications)
    app.router.add_get(TRAFFIC, ray.traffic)
    app.router.add_get(LIVE, ray.live)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        for port in (DASHBOARD_PORT, SERVE_PORT):
            await web.TCPSite(runner, "0.0.0.0", port).start()
        yield
    finally:
        await runner.cleanup()


async def main(kubeconfig: str) -> None:
    async with KubeClient(config.load(kubeconfig)) as client:
        ray = RayStandIn(client)
        async with answering(ray):
            print("ready", flush=True)
            await ray.follow()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
