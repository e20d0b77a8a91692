"""Errors as every protocol answers them, and the two kinds of refusal that decoders share.

Everything a client can get wrong in a body is 400: malformed JSON and well-formed JSON that the model's signature
does not allow alike, as in KServe, MLServer and Triton. 413 is for sizes, 415 for content types and for uploads the
model is not set up for. 422 is left to the router: the model itself raised on the input.
"""

from __future__ import annotations

import orjson

from rayfleet_serving.protocol.message import RequestError


def body(error: RequestError, request_id: str) -> bytes:
    """JSON body of an error answer: the Open Inference Protocol's `error` (a sentence), with `code`, `field` (JSON
    path, parameter or header; null where no single one is at fault) and `request_id`. Lone surrogates, which a model's
    own exception may hold, become question marks."""
    texts = {"error": error.message, "code": error.code, "field": error.field, "request_id": request_id}
    return orjson.dumps({key: text and text.encode(errors="replace").decode() for key, text in texts.items()})


def malformed(message: str) -> RequestError:
    """400: the body cannot be read at all."""
    return RequestError(400, "MalformedBody", message)


def invalid(message: str, field: str | None) -> RequestError:
    """400: the body can be read, but the protocol or the model's signature does not allow what `field` holds."""
    return RequestError(400, "InvalidInput", message, field=field)


def unsupported(message: str, *, code: str = "UnsupportedMediaType") -> RequestError:
    """415: this content type, for this model."""
    return RequestError(415, code, message, field="content-type")
