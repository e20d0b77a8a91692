"""An ASGI app of three small models behind the protocols: what the document describes, without a fleet behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np
import orjson
from protocol.bad_inputs import INVOCATIONS, OIP, PREDICT
from protocol.decoding import decode
from protocol.models import SIGNATURES, TRANSFORMS, metadata
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rayfleet_serving.protocol import docs, errors, invocations, oip, openapi, predict
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult, RequestError


def run(model: str, request: InferenceRequest) -> InferenceResult:
    """What each of the three models computes."""
    inputs = request.inputs
    if model == "digits":
        return InferenceResult({"output": inputs["input"].reshape(request.rows, 64)[:, :10]}, "array")
    if model == "pair":
        left = inputs["left"].astype(np.float64)
        product = left * np.clip(inputs["right"], -1e300, 1e300)[:, None]
        return InferenceResult({"sum": left.sum(axis=1), "product": product}, "tensors")
    return InferenceResult({"output": inputs["rooms"] * 1.5}, "array")


def infer(protocol: str, model: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        body, content_type = await request.body(), request.headers.get("content-type")
        try:
            decoded = decode(protocol, model, body, content_type)
            return json(encode(protocol, model, decoded, run(model, decoded)))
        except RequestError as error:
            return json(errors.body(error, "r1"), error.status)

    return endpoint


def encode(protocol: str, model: str, request: InferenceRequest, result: InferenceResult) -> bytes:
    if protocol == OIP:
        names = {"model_name": model, "model_version": "3", "request_id": "r1"}
        return oip.encode(result, request, SIGNATURES[model], **names)
    if protocol == INVOCATIONS:
        return invocations.encode(result)
    classification = TRANSFORMS[model].classification
    labels = classification.labels if classification else ()
    return predict.encode(result, model_name=model, model_version="3", classification=classification, labels=labels)


def json(body: bytes, status: int = 200) -> Response:
    headers = {"x-rayfleet-model-version": "3", "x-request-id": "r1"}
    return Response(body, status, headers, "application/json")


def document() -> dict[str, object]:
    return openapi.document({name: metadata(name) for name in SIGNATURES}, TRANSFORMS, "1.0")


def get(body: bytes) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return json(body)

    return endpoint


async def asset(request: Request) -> Response:
    found = docs.asset(request.path_params["name"])
    return Response(found[0], media_type=found[1]) if found else Response(status_code=404)


async def page(request: Request) -> Response:
    return Response(docs.page(), media_type="text/html")


def app() -> Starlette:
    routes = [
        Route("/openapi.json", get(orjson.dumps(document()))),
        Route("/docs", page),
        Route("/docs/{name}", asset),
        Route("/v2", get(oip.server_metadata("1.0"))),
        Route("/v2/health/live", get(b'{"live":true}')),
        Route("/v2/health/ready", get(b'{"ready":true}')),
    ]
    for model in SIGNATURES:
        for protocol in (OIP, INVOCATIONS, PREDICT):
            routes.append(Route(protocol.format(model=model), infer(protocol, model), methods=["POST"]))
        routes.append(Route(f"/v2/models/{model}", get(oip.model_metadata(metadata(model), ["3"]))))
        routes.append(Route(f"/v2/models/{model}/ready", get(b'{"ready":true}')))
    return Starlette(routes=routes)
