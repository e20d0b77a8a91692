"""Whatever a client sends, a decoder answers with a request or with a 4xx: never with another exception."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from protocol.bad_inputs import BAD_INPUTS, FLAT, INVOCATIONS, OIP, PREDICT, form
from protocol.decoding import decode
from protocol.models import SIGNATURES, TRANSFORMS

from rayfleet_serving.protocol import errors, predict
from rayfleet_serving.protocol.message import InferenceRequest, RequestError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # damaged TIFF tags

MODELS = st.sampled_from(sorted(SIGNATURES))
PROTOCOLS = st.sampled_from([OIP, INVOCATIONS, PREDICT])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["2024-01-01", "AA==", "NaN", "1", 10**12, -1, 0, 1, 64, 255, 256, 1e39]),
)
WORDS = """
inputs instances dataframe_split dataframe_records params columns data index id name shape datatype parameters outputs
left right rooms area city garden sold photo discount cities content_type x
"""
NAMES = st.sampled_from(WORDS.split())
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=30
)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["left", "right", "rooms", "input", "x"]),
        "shape": st.lists(st.sampled_from([-1, 0, 1, 2, 3, 8, 10**12, 2**63]), max_size=5) | SCALARS,
        "datatype": st.sampled_from(["FP32", "FP64", "UINT8", "INT32", "BYTES", "BOOL", "BF16", 1]),
        "data": st.lists(SCALARS, max_size=4) | st.lists(st.lists(SCALARS, max_size=3), max_size=3) | st.just(FLAT),
    },
    optional={"parameters": st.dictionaries(NAMES, SCALARS, max_size=2)},
)


def answer(protocol: str, model: str, body: bytes, content_type: str | None = "application/json") -> None:
    """Decode, and check that the outcome is a consistent request or a 4xx that can be written down."""
    outcome = attempt(lambda: decode(protocol, model, body, content_type))
    if isinstance(outcome, InferenceRequest):
        check(outcome, model)
    else:
        assert 400 <= outcome.status < 500
        assert orjson.loads(errors.body(outcome, "id"))["error"]


def attempt(decode: Callable[[], InferenceRequest]) -> InferenceRequest | RequestError:
    try:
        return decode()
    except RequestError as error:
        return error


def check(request: InferenceRequest, model: str) -> None:
    fields = {field.name: field for field in SIGNATURES[model].inputs}
    assert request.rows > 0
    for name, array in request.inputs.items():
        field = fields[name]
        assert array.shape == (request.rows, *field.shape[1:])
        assert array.dtype == np.dtype(object if field.dtype in ("str", "bytes") else field.dtype)


@given(protocol=PROTOCOLS, model=MODELS, body=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes(protocol: str, model: str, body: bytes) -> None:
    answer(protocol, model, body)


@given(protocol=PROTOCOLS, model=MODELS, document=DOCUMENTS)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json(protocol: str, model: str, document: Any) -> None:
    answer(protocol, model, orjson.dumps(document))


@given(model=MODELS, tensors=st.lists(TENSORS, max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_tensors(model: str, tensors: list[Any]) -> None:
    answer(OIP, model, orjson.dumps({"inputs": tensors}, default=str) if _fits(tensors) else b"{}")


@given(model=MODELS, document=DOCUMENTS, key=NAMES)
@settings(max_examples=300, deadline=None)
def test_any_wrapped_rows(model: str, document: Any, key: str) -> None:
    for protocol in (INVOCATIONS, PREDICT):
        answer(protocol, model, orjson.dumps({key: document}))


@given(
    text=st.text(alphabet='abc,"\n\r1.5-eNn ', max_size=60), header=st.sampled_from(["", "rooms,area,city,garden\n"])
)
@settings(max_examples=200, deadline=None)
def test_any_csv(text: str, header: str) -> None:
    answer(INVOCATIONS, "houses", (header + text).encode(), "text/csv")


@given(content_type=st.text(max_size=40), body=st.binary(max_size=100))
@settings(max_examples=200, deadline=None)
def test_any_content_type(content_type: str, body: bytes) -> None:
    for protocol in (INVOCATIONS, PREDICT):
        answer(protocol, "digits", body, content_type)


@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), parts=st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_damaged_image(data: st.DataObject, kind: str, parts: bool) -> None:
    file = io.BytesIO()
    Image.frombytes("RGB", (9, 7), bytes(range(189))).save(file, kind)
    body = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))]
    content, content_type = form(("image", "a.png", bytes(body))) if parts else (bytes(body), "image/png")
    signature, transform = SIGNATURES["digits"], TRANSFORMS["digits"]
    outcome = attempt(lambda: predict.decode_image(content, content_type, signature, transform, 10_000))
    if isinstance(outcome, InferenceRequest):
        check(outcome, "digits")
    else:
        assert 400 <= outcome.status < 500


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_damaged_form(data: st.DataObject) -> None:
    content, content_type = form(("image", "a.png", b"x"), ("params", None, b"{}"))
    body = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    answer(PREDICT, "digits", bytes(body), content_type)


@pytest.mark.parametrize("cut", [0.25, 0.5, 0.9])
def test_every_bad_input_cut_short_is_refused_too(cut: float) -> None:
    for bad in BAD_INPUTS:
        answer(bad.protocol, bad.model, bad.body[: int(len(bad.body) * cut)], bad.content_type)


def _fits(value: Any) -> bool:
    return all(size < 2**64 for tensor in value if isinstance(tensor["shape"], list) for size in tensor["shape"])
