"""The document says what the protocols do: what it allows is answered, what it forbids is refused."""

from __future__ import annotations

import io
import json
import sys
from decimal import Decimal
from typing import Any

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from protocol.decoding import decode
from protocol.models import SIGNATURES, TRANSFORMS, metadata
from protocol.server import app, document

from rayfleet_serving.config import ImageInput, Transform
from rayfleet_serving.protocol import docs, invocations, openapi, predict
from rayfleet_serving.signature import Field, ModelMetadata, Signature


def picture(size: tuple[int, int], kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, size[0]).save(file, kind)
    return file.getvalue()


PICTURES = st.builds(picture, st.tuples(st.integers(1, 20), st.integers(1, 20)), st.sampled_from(["PNG", "JPEG"]))
schemathesis.openapi.format("binary", PICTURES)
schemathesis.openapi.media_type("image/png", PICTURES)
schemathesis.openapi.media_type("image/jpeg", PICTURES)
PAIR_PATHS = ("/pair/predict", "/pair/invocations", "/invocations", "/v2/models/pair/infer")
schema = schemathesis.openapi.from_asgi("/openapi.json", app())


def rounds_to_the_largest(value: Any) -> bool:
    """Whether an integer beyond the document's bound for doubles is in it that still reads as the largest double.

    The bound is written with 17 digits, and every integer less than half a step above it is rightly taken.
    """
    if isinstance(value, dict | list):
        return any(rounds_to_the_largest(part) for part in (value.values() if isinstance(value, dict) else value))
    return type(value) is int and int(Decimal(repr(sys.float_info.max))) < abs(value) < 2**1024 - 2**970


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_valid_bodies_are_answered_and_invalid_ones_refused(case: schemathesis.Case) -> None:
    if not rounds_to_the_largest(case.body):
        case.call_and_validate()


OBJECTS = {
    "list": Signature(form="tensor", inputs=(Field(name="input", dtype="object", shape=(-1,)),)),
    "matrix": Signature(form="tensor", inputs=(Field(name="input", dtype="object", shape=(-1, 2)),)),
    "named": Signature(
        form="tensors",
        inputs=(
            Field(name="a", dtype="object", shape=(-1,)),
            Field(name="b", dtype="object", shape=(-1, 2, 1)),
        ),
    ),
    "table": Signature(form="frame", inputs=(Field(name="a", dtype="object"), Field(name="b", dtype="object"))),
}


@pytest.mark.parametrize("path", ["/m/predict", "/m/invocations"])
@pytest.mark.parametrize("name", OBJECTS)
@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_body_of_objects_that_fits_is_read(name: str, path: str, data: st.DataObject) -> None:
    signature = OBJECTS[name]
    meta = ModelMetadata(name="m", version="1", model_id="m-1", flavor="pyfunc", signature=signature)
    operation = schemathesis.openapi.from_dict(openapi.document({"m": meta}, {}, "1"))[path]["POST"]
    case = data.draw(operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
    body = json.dumps(case.body).encode()
    read = invocations.decode(body, None, signature) if "invoc" in path else predict.decode_json(body, signature)
    assert [array.ndim for array in read.inputs.values()] == [len(field.shape) for field in signature.inputs]


def test_the_server_is_ready_when_some_model_is() -> None:
    assert document()["paths"]["/v2/health/ready"]["get"]["summary"] == "Whether some model answers"


def test_every_example_is_a_valid_request() -> None:
    for path, operations in document()["paths"].items():
        body = operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json")
        if body is not None:
            model = next(name for name in SIGNATURES if name in path.split("/"))
            assert decode(path.replace(model, "{model}"), model, orjson.dumps(body["example"])).rows == 1


def test_the_logged_example_is_shown_where_it_fits() -> None:
    meta = metadata("pair").model_copy(update={"input_example": {"inputs": {"left": [[1, 2, 3]], "right": [0.5]}}})
    paths = openapi.document({"pair": meta}, {}, "1")["paths"]
    shown = {path: paths[path]["post"]["requestBody"]["content"]["application/json"]["example"] for path in PAIR_PATHS}
    assert shown == {
        "/pair/predict": {"instances": [{"left": [1, 2, 3], "right": 0.5}]},
        "/pair/invocations": {"instances": [{"left": [1, 2, 3], "right": 0.5}]},
        "/invocations": {"instances": [{"left": [1, 2, 3], "right": 0.5}]},
        "/v2/models/pair/infer": {
            "inputs": [
                {"name": "left", "datatype": "UINT8", "shape": [1, 3], "data": [1, 2, 3]},
                {"name": "right", "datatype": "FP64", "shape": [1], "data": [0.5]},
            ]
        },
    }


@pytest.mark.parametrize("example", [None, "text", {"inputs": "wrong"}, {"inputs": {"left": [[1, 2, 300]]}}, {1: 2}])
def test_an_example_that_does_not_fit_gives_way_to_zeros(example: Any) -> None:
    meta = metadata("pair").model_copy(update={"input_example": example})
    body = openapi.document({"pair": meta}, {}, "1")["paths"]["/pair/predict"]["post"]["requestBody"]
    assert body["content"]["application/json"]["example"] == {"instances": [{"left": [0, 0, 0], "right": 0.0}]}


def test_image_uploads_are_offered_where_they_fit() -> None:
    wrong = Transform(image=ImageInput(height=9, width=9, mode="L"))
    for transform, offered in ((TRANSFORMS["digits"], True), (wrong, False), (Transform(), False)):
        paths = openapi.document({"digits": metadata("digits")}, {"digits": transform}, "1")["paths"]
        content = paths["/digits/predict"]["post"]["requestBody"]["content"]
        assert ("multipart/form-data" in content) == offered
        assert ("image/png" in content) == offered


def test_large_inputs_make_no_large_document() -> None:
    field = Field(name="input", dtype="float32", shape=(-1, 3, 512, 512))
    meta = metadata("digits").model_copy(update={"signature": Signature(form="tensor", inputs=(field,))})
    assert len(orjson.dumps(openapi.document({"large": meta}, {}, "1"))) < 30_000


@pytest.mark.parametrize(
    "signature",
    [
        Signature(),
        Signature(form="tensor", inputs=(Field(name="input", dtype="str", shape=(-1,)),)),
        Signature(form="tensors", inputs=(Field(name="a", dtype="bytes", shape=(-1, -1)),)),
        OBJECTS["matrix"],
        OBJECTS["named"],
        Signature(form="frame", inputs=tuple(Field(name=str(i), dtype="float64") for i in range(3))),
        Signature(form="frame", inputs=(Field(name="o", dtype="object"), Field(name="d", dtype="datetime64[ns]"))),
    ],
    ids=lambda signature: signature.form,
)
def test_every_signature_can_be_described(signature: Signature) -> None:
    meta = ModelMetadata(name="m", version="1", model_id="m-1", flavor="pyfunc", signature=signature)
    loaded = schemathesis.openapi.from_dict(openapi.document({"m": meta}, {}, "1"))
    assert {operation.ok().path for operation in loaded.get_all_operations()} >= {"/m/predict", "/invocations"}


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = docs.page().decode()
    loaded = [part.split('"')[0] for part in page.replace('href="', 'src="').split('src="')[1:]]
    assert loaded[1:] == ["/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/docs.js"]
    for path in loaded[1:]:
        content, media = docs.asset(path.removeprefix("/docs/")) or (b"", "")
        assert content
        assert media.startswith(("text/css", "text/javascript"))
    assert docs.asset("../__init__.py") is None
    assert docs.asset("LICENSE") is None
