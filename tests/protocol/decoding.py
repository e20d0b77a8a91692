"""What the router does with a request's body, by path."""

from __future__ import annotations

from protocol.bad_inputs import INVOCATIONS, OIP
from protocol.models import SIGNATURES, TRANSFORMS

from rayfleet_serving.protocol import invocations, oip, predict
from rayfleet_serving.protocol.message import InferenceRequest


def decode(protocol: str, model: str, body: bytes, content_type: str | None = "application/json") -> InferenceRequest:
    """The request in `body`, as one of the three models' routers decodes it."""
    signature = SIGNATURES[model]
    if protocol == OIP:
        return oip.decode(body, signature)
    if protocol == INVOCATIONS:
        return invocations.decode(body, content_type, signature)
    if content_type == "application/json":
        return predict.decode_json(body, signature)
    return predict.decode_image(body, content_type or "", signature, TRANSFORMS[model])
