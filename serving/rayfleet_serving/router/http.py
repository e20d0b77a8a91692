"""The router's HTTP front: a plain ASGI app, one function for each endpoint.

    GET  /v2, /v2/health/live, /v2/health/ready                 Open Inference Protocol, server
    GET  /v2/models/{model}[/versions/{version}][/ready]        metadata, readiness
    POST /v2/models/{model}[/versions/{version}]/infer
    POST /{model}/predict                                       plain JSON, or an image
    POST /{model}/invocations, /invocations                     MLflow's scoring protocol
    GET  /docs, /openapi.json, /metrics, /rayfleet/traffic

FastAPI's routing and validation would cost more than the model hop on this path; its one gift, the docs page, is
built from the models' signatures instead (`protocol.openapi`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version as installed_version
from typing import Any

import orjson

from rayfleet_serving.config import REQUEST_ID_HEADER, VERSION_HEADER, TrafficReport, Transform
from rayfleet_serving.protocol import docs, oip, openapi
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.router import inference
from rayfleet_serving.router.exchange import (
    Exchange,
    Receive,
    Response,
    Scope,
    Send,
    error_response,
    lifespan,
    send_response,
)
from rayfleet_serving.router.restraint import YieldedError
from rayfleet_serving.router.traffic import LiveModel, Traffic
from rayfleet_serving.signature import ModelMetadata

logger = logging.getLogger(__name__)

RELEASE = installed_version("rayfleet")
Endpoint = Callable[[Exchange], Awaitable[Response]]
POST = ("POST",)
READ = ("GET", "HEAD")
CAUSES = {
    408: "deadline",
    413: "too_large",
    422: "model_error",
    429: "overloaded",
    499: "client_gone",
    503: "unavailable",
    504: "deadline",
}
"""Error cause by status; any other 4xx is "invalid_input", any other 5xx "internal"."""


class Front:
    """The ASGI app of one router replica."""

    def __init__(
        self,
        traffic: Traffic,
        report: Callable[[], Awaitable[TrafficReport]],
        exposition: Callable[[], Awaitable[str]],
    ) -> None:
        self._traffic = traffic
        self._report = report
        self._exposition = exposition

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by Serve, which adds the request id to the answer and cancels requests whose client left."""
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self._handle(Exchange.of(scope, receive), send)

    async def direct(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the HTTP server itself, see `shortcut`."""
        exchange = Exchange.of(scope, receive)
        exchange.direct = True
        await self._handle(exchange, send)

    async def _handle(self, exchange: Exchange, send: Send) -> None:
        begin = time.perf_counter()
        try:
            response = await self._answer(exchange)
        except YieldedError as error:
            response = error_response(error, exchange.request_id)
            self._yielded(exchange)
        except RequestError as error:
            response = error_response(error, exchange.request_id)
        except asyncio.CancelledError:
            self._record(exchange, 499, begin)
            if exchange.client_gone:
                return
            raise
        except Exception as error:
            logger.exception("Request %s failed inside the router.", exchange.request_id)
            internal = RequestError(500, "Internal", f"The router failed: {type(error).__name__}. See its log.")
            response = error_response(internal, exchange.request_id)
        self._record(exchange, response.status, begin)
        if exchange.version is not None:
            response.headers.append((VERSION_HEADER.encode(), exchange.version.route.version.encode()))
        if exchange.direct:
            response.headers.append((REQUEST_ID_HEADER.encode(), exchange.request_id.encode()))
        await send_response(send, response, head=exchange.scope["method"] == "HEAD")

    def _record(self, exchange: Exchange, status: int, begin: float) -> None:
        if exchange.version is None or not exchange.protocol:
            return
        metrics, seconds = exchange.version.metrics, time.perf_counter() - begin
        metrics.answered(exchange.protocol, status)
        metrics.total.observe(seconds)
        if (window := exchange.version.window) is not None:
            window.answered(status, seconds)
        if status >= 400:
            metrics.failed(CAUSES.get(status, "internal" if status >= 500 else "invalid_input"))

    def _yielded(self, exchange: Exchange) -> None:
        """No version has had it: it counts for none."""
        version, exchange.version = exchange.version, None
        if version is not None:
            version.metrics.yielded(exchange.protocol)

    async def _answer(self, exchange: Exchange) -> Response:
        """Find the endpoint for the path and call it. Raises `RequestError`: 404, 405 or what the endpoint raises."""
        path: str = exchange.scope["path"]
        method: str = exchange.scope["method"]
        found = self._route(path.split("/")[1:])
        if found is None:
            text = f"There is nothing at {path[:200]}. POST /<model>/predict, or see /docs."
            raise RequestError(404, "NotFound", text, field="path")
        methods, endpoint = found
        if method not in methods:
            text = f"{method} is not possible here; use {' or '.join(methods)}."
            raise RequestError(405, "MethodNotAllowed", text, allow=methods)
        return await endpoint(exchange)

    def _route(self, parts: list[str]) -> tuple[tuple[str, ...], Endpoint] | None:
        """The methods of a path and what answers it; None for a path that there is not."""
        models = self._traffic
        match parts:
            case ["v2", "models", name, "infer"]:
                return POST, lambda exchange: inference.infer(exchange, models.model(name), None)
            case ["v2", "models", name, "versions", label, "infer"]:
                return POST, lambda exchange: inference.infer(exchange, models.model(name), label)
            case [name, "predict"]:
                return POST, lambda exchange: inference.answer(exchange, models.model(name))
            case [name, "invocations"]:
                return POST, lambda exchange: inference.invoke(exchange, models.model(name))
            case ["invocations"]:
                return POST, lambda exchange: inference.invoke(exchange, self._only_model())
            case ["v2"]:
                return READ, _now(lambda: Response(oip.server_metadata(RELEASE)))
            case ["v2", "health", "live"]:
                return READ, _now(lambda: Response(b'{"live":true}'))
            case ["v2", "health", "ready"]:
                return READ, _now(lambda: _ready(models.ready))
            case ["v2", "models", name, "ready"]:
                return READ, _now(lambda: _ready(models.model(name).ready))
            case ["v2", "models", name, "versions", label, "ready"]:
                return READ, _now(lambda: _ready(models.model(name).version(label).ready))
            case ["v2", "models", name]:
                return READ, lambda exchange: self._metadata(exchange, models.model(name), None)
            case ["v2", "models", name, "versions", label]:
                return READ, lambda exchange: self._metadata(exchange, models.model(name), label)
            case ["openapi.json"]:
                return READ, _now(lambda: Response(orjson.dumps(self._document())))
            case ["docs"] | ["docs", ""]:
                return READ, _now(lambda: Response(docs.page(), content_type=b"text/html; charset=utf-8"))
            case ["docs", asset]:
                return READ, _now(lambda: _asset(asset))
            case ["metrics"]:
                return READ, self._metrics
            case ["rayfleet", "traffic"]:
                return READ, self._traffic_report
            case [""]:
                return READ, _now(lambda: Response(b"", 307, headers=[(b"location", b"/docs")]))
        return None

    async def _metrics(self, exchange: Exchange) -> Response:
        text = await self._exposition()
        return Response(text.encode(), content_type=b"text/plain; version=0.0.4; charset=utf-8")

    async def _traffic_report(self, exchange: Exchange) -> Response:
        return Response((await self._report()).model_dump_json().encode())

    def _only_model(self) -> LiveModel:
        models = list(self._traffic.models.values())
        found = [model for model in models if model.versions] or models
        if len(found) == 1:
            return found[0]
        names = ", ".join(sorted(self._traffic.models)[:10]) or "none"
        raise RequestError(
            404, "ModelNotFound", f"/invocations needs exactly one model; use /<model>/invocations ({names})."
        )

    async def _metadata(self, exchange: Exchange, model: LiveModel, label: str | None) -> Response:
        version = model.choose(exchange.headers) if label is None else model.version(label)
        exchange.version = version
        # An edited spec runs one version as two applications for a while.
        labels = list(dict.fromkeys(live.route.version for live in model.versions if not live.route.leaving))
        return Response(oip.model_metadata(await version.known(), labels))

    def _document(self) -> dict[str, Any]:
        models: dict[str, ModelMetadata] = {}
        transforms: dict[str, Transform] = {}
        for name, model in sorted(self._traffic.models.items()):
            for version in model.versions:
                if name not in models and version.metadata and version.route.weight:
                    models[name], transforms[name] = version.metadata, version.route.transform
        return openapi.document(models, transforms, RELEASE)


def _now(answer: Callable[[], Response]) -> Endpoint:
    """The endpoint of an answer that waits for nothing."""

    async def endpoint(exchange: Exchange) -> Response:
        return answer()

    return endpoint


def _asset(name: str) -> Response:
    asset = docs.asset(name)
    if asset is None:
        raise RequestError(404, "NotFound", f"The docs page has no file {name[:100]!r}.", field="path")
    return Response(asset[0], content_type=asset[1].encode())


def _ready(ready: bool) -> Response:
    return Response(b'{"ready":true}') if ready else Response(b'{"ready":false}', 503, headers=[(b"retry-after", b"1")])
