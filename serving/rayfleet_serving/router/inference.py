"""The three ways to ask a model. They differ in how a body is read and an answer is written; the rest is `_serve`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from rayfleet_serving.link.call import Timing
from rayfleet_serving.protocol import invocations, oip, predict
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult, RequestError
from rayfleet_serving.router.exchange import Exchange, Response
from rayfleet_serving.router.mirror import beside
from rayfleet_serving.router.packing import late
from rayfleet_serving.router.traffic import LiveModel
from rayfleet_serving.router.version import LiveVersion
from rayfleet_serving.signature import ModelMetadata

Decode = Callable[[bytes, ModelMetadata], InferenceRequest]
Encode = Callable[[InferenceResult, InferenceRequest, ModelMetadata], bytes]

LARGE_BODY = 16 * 1024
"""Bytes. Numbers decode at about 100 MB/s, dates and text at a fiftieth of that; going to a thread takes 0.1 ms."""

LARGE_RESULT = 64 * 1024
"""Bytes of the arrays; JSON is written several times as fast as it is read."""


async def infer(exchange: Exchange, model: LiveModel, label: str | None) -> Response:
    """Open Inference Protocol v2. `label` asks for one version; None lets the weights choose."""

    def decode(body: bytes, metadata: ModelMetadata) -> InferenceRequest:
        return oip.decode(body, metadata.signature)

    def encode(result: InferenceResult, request: InferenceRequest, metadata: ModelMetadata) -> bytes:
        names = {"model_name": model.name, "model_version": metadata.version, "request_id": exchange.request_id}
        return oip.encode(result, request, metadata.signature, **names)

    version = model.choose(exchange.headers) if label is None else model.version(label)
    return await _serve(exchange, model, version, "oip", decode, encode, label=label)


async def invoke(exchange: Exchange, model: LiveModel) -> Response:
    """MLflow's scoring protocol."""

    def decode(body: bytes, metadata: ModelMetadata) -> InferenceRequest:
        return invocations.decode(body, exchange.content_type, metadata.signature)

    def encode(result: InferenceResult, request: InferenceRequest, metadata: ModelMetadata) -> bytes:
        return invocations.encode(result)

    return await _serve(exchange, model, model.choose(exchange.headers), "invocations", decode, encode)


async def answer(exchange: Exchange, model: LiveModel) -> Response:
    """Plain JSON or an image; labels where the version's transform says so."""
    version = model.choose(exchange.headers)
    transform = version.route.transform
    content_type = exchange.content_type or "application/json"
    image = content_type.split(";")[0].strip().lower() != "application/json"

    def decode(body: bytes, metadata: ModelMetadata) -> InferenceRequest:
        if image:
            return predict.decode_image(body, content_type, metadata.signature, transform)
        return predict.decode_json(body, metadata.signature)

    def encode(result: InferenceResult, request: InferenceRequest, metadata: ModelMetadata) -> bytes:
        classification = transform.classification
        labels = (classification.labels if classification else None) or metadata.labels
        names = {"model_name": model.name, "model_version": metadata.version}
        return predict.encode(result, classification=classification, labels=labels, **names)

    return await _serve(exchange, model, version, "predict", decode, encode, image=image)


async def _serve(
    exchange: Exchange,
    model: LiveModel,
    version: LiveVersion,
    protocol: str,
    decode: Decode,
    encode: Encode,
    *,
    image: bool = False,
    label: str | None = None,
) -> Response:
    """Hold the version, chosen just now, until it has answered: it is not dropped while a body is still arriving."""
    exchange.version, exchange.protocol = version, protocol
    limits = model.route.limits
    timeout = exchange.timeout(limits.request_timeout_s)
    own_timeout = timeout < limits.request_timeout_s
    deadline = time.monotonic() + timeout
    if version.restraint.ratio < 1.0:
        version.restraint.admit()
    with version.held():
        try:
            async with asyncio.timeout(timeout):
                body = await exchange.body(limits.max_request_bytes)
        except TimeoutError:
            text = f"The whole body was not there within {timeout:.3g} s."
            raise RequestError(408, "RequestTimeout", text) from None
        with version.load.asked(own_timeout=own_timeout, pressure=version.pressure) as asked:
            metadata = version.metadata
            if metadata is None:
                metadata = await exchange.while_client_stays(version.known(deadline - time.monotonic()))
            if image or len(body) >= LARGE_BODY:
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        request = await asyncio.to_thread(decode, body, metadata)
                except TimeoutError:
                    raise late(f"The request was not read within {timeout:.3g} s.") from None
            else:
                request = decode(body, metadata)
            asked.valid()
            version.wake()
            answer: Awaitable[tuple[InferenceResult, Timing]] = version.coalescer.infer(request, deadline)
            if model.mirrors:
                answer = beside(answer, model.copies(request, version, deadline, size=len(body), image=image))
            result, timing = await exchange.while_client_stays(answer)
            version.pressure.waited(timing.queue)
            version.metrics.queue.observe(timing.queue)
            version.metrics.batch_wait.observe(timing.batch_wait)
            version.metrics.compute.observe(timing.compute)
            # What is asked of a version by name is no sample of what all versions are asked.
            if version.window is not None and label is None and not exchange.names_version:
                version.window.predicted(result, scores=model.classifies)
            if sum(array.nbytes for array in result.outputs.values()) >= LARGE_RESULT:
                return Response(await asyncio.to_thread(encode, result, request, metadata))
            return Response(encode(result, request, metadata))
