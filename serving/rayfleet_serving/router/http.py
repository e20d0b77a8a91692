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

from rayfleet_serving.config import REQUEST_ID_HEADER, VERSION_HEADER, TrafficReport
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
from rayfleet_serving.router.traffic import LiveModel, Traffic
from rayfleet_serving.signature import ModelMetadata

logger = logging.getLogger(__name__)

RELEASE = installed_version("rayfleet")
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
        metrics = exchange.version.metrics
        metrics.answered(exchange.protocol, status)
        metrics.total.observe(time.perf_counter() - begin)
        if status >= 400:
            metrics.failed(CAUSES.get(status, "internal" if status >= 500 else "invalid_input"))

    async def _answer(self, exchange: Exchange) -> Response:
        """Find the endpoint for the path and call it. Raises `RequestError`: 404, 405 or what the endpoint raises."""
        parts = exchange.scope["path"].split("/")[1:]
        method: str = exchange.scope["method"]
        allowed = _methods(parts)
        if not allowed:
            text = f"There is nothing at {exchange.scope['path'][:200]}. POST /<model>/predict, or see /docs."
            raise RequestError(404, "NotFound", text, field="path")
        if method not in allowed:
            text = f"{method} is not possible here; use {' or '.join(allowed)}."
            raise RequestError(405, "MethodNotAllowed", text, allow=allowed)
        models = self._traffic
        match parts:
            case ["v2", "models", name, "infer"]:
                return await inference.infer(exchange, models.model(name), None)
            case ["v2", "models", name, "versions", label, "infer"]:
                return await inference.infer(exchange, models.model(name), label)
            case [name, "predict"]:
                return await inference.answer(exchange, models.model(name))
            case [name, "invocations"]:
                return await inference.invoke(exchange, models.model(name))
            case ["invocations"]:
                return await inference.invoke(exchange, self._only_model())
            case ["v2"]:
                return Response(oip.server_metadata(RELEASE))
            case ["v2", "health", "live"]:
                return Response(b'{"live":true}')
            case ["v2", "health", "ready"]:
                return _ready(models.ready)
            case ["v2", "models", name, "ready"]:
                return _ready(models.model(name).ready)
            case ["v2", "models", name, "versions", label, "ready"]:
                return _ready(models.model(name).version(label).ready)
            case ["v2", "models", name]:
                return await self._metadata(exchange, models.model(name), None)
            case ["v2", "models", name, "versions", label]:
                return await self._metadata(exchange, models.model(name), label)
            case ["openapi.json"]:
                return Response(orjson.dumps(self._document()))
            case ["docs", *asset]:
                return _docs(asset)
            case ["metrics"]:
                text = await self._exposition()
                return Response(text.encode(), content_type=b"text/plain; version=0.0.4; charset=utf-8")
            case ["rayfleet", "traffic"]:
                return Response((await self._report()).model_dump_json().encode())
        return Response(b"", 307, headers=[(b"location", b"/docs")])

    def _only_model(self) -> LiveModel:
        if len(self._traffic.models) == 1:
            return next(iter(self._traffic.models.values()))
        names = ", ".join(sorted(self._traffic.models)[:10]) or "none"
        raise RequestError(
            404, "ModelNotFound", f"/invocations needs exactly one model; use /<model>/invocations ({names})."
        )

    async def _metadata(self, exchange: Exchange, model: LiveModel, label: str | None) -> Response:
        version = model.choose() if label is None else model.version(label)
        exchange.version = version
        labels = [live.route.version for live in model.versions]
        return Response(oip.model_metadata(await version.known(), labels))

    def _document(self) -> dict[str, Any]:
        models: dict[str, ModelMetadata] = {}
        for name, model in sorted(self._traffic.models.items()):
            known = [version.metadata for version in model.versions if version.metadata and version.route.weight]
            if known:
                models[name] = known[0]
        transforms = {name: self._traffic.models[name].route.transform for name in models}
        return openapi.document(models, transforms, RELEASE)


READ = ("GET", "HEAD")


def _methods(parts: list[str]) -> tuple[str, ...]:
    """The methods of a path, none for a path that there is not."""
    match parts:
        case (
            ["v2", "models", _, "infer"]
            | ["v2", "models", _, "versions", _, "infer"]
            | [_, "predict"]
            | [_, "invocations"]
            | ["invocations"]
        ):
            return ("POST",)
        case (
            [""]
            | ["v2"]
            | ["v2", "health", "live" | "ready"]
            | ["v2", "models", _]
            | ["v2", "models", _, "ready"]
            | ["v2", "models", _, "versions", _]
            | ["v2", "models", _, "versions", _, "ready"]
            | ["openapi.json" | "docs" | "metrics"]
            | ["docs", _]
            | ["rayfleet", "traffic"]
        ):
            return READ
    return ()


def _docs(path: list[str]) -> Response:
    if path in ([], [""]):
        return Response(docs.page(), content_type=b"text/html; charset=utf-8")
    asset = docs.asset(path[0])
    if asset is None:
        raise RequestError(404, "NotFound", f"The docs page has no file {path[0][:100]!r}.", field="path")
    return Response(asset[0], content_type=asset[1].encode())


def _ready(ready: bool) -> Response:
    return Response(b'{"ready":true}') if ready else Response(b'{"ready":false}', 503, headers=[(b"retry-after", b"1")])
