"""Three signatures that between them have every form of input, and the transforms that go with them."""

from __future__ import annotations

from rayfleet_serving.config import Classification, ImageInput, Transform
from rayfleet_serving.signature import Field, ModelMetadata, Signature

DIGITS = Signature(
    form="tensor",
    inputs=(Field(name="input", dtype="float32", shape=(-1, 1, 8, 8)),),
    outputs=(Field(name="output", dtype="float32", shape=(-1, 10)),),
)
PAIR = Signature(
    form="tensors",
    inputs=(Field(name="left", dtype="uint8", shape=(-1, 3)), Field(name="right", dtype="float64", shape=(-1,))),
    outputs=(Field(name="sum", dtype="float64"), Field(name="product", dtype="float64", shape=(-1, 3))),
)
HOUSES = Signature(
    form="frame",
    inputs=(
        Field(name="rooms", dtype="int32"),
        Field(name="area", dtype="float64"),
        Field(name="city", dtype="str"),
        Field(name="garden", dtype="bool"),
        Field(name="sold", dtype="datetime64[ns]", required=False),
        Field(name="photo", dtype="bytes", required=False),
    ),
    outputs=(Field(name="output", dtype="float64"),),
    params=(
        Field(name="discount", dtype="float64", shape=(), required=False, default=0.0),
        Field(name="cities", dtype="str", shape=(-1,), required=False, default=["Paris"]),
    ),
)
SIGNATURES = {"digits": DIGITS, "pair": PAIR, "houses": HOUSES}
TRANSFORMS = {
    "digits": Transform(
        image=ImageInput(height=8, width=8, mode="L"),
        classification=Classification(labels=[f"digit {i}" for i in range(10)], top_k=3),
    ),
    "pair": Transform(),
    "houses": Transform(),
}


def metadata(name: str) -> ModelMetadata:
    """What a replica of one of the three would tell."""
    return ModelMetadata(name=name, version="3", model_id="m-" + "0" * 32, flavor="pyfunc", signature=SIGNATURES[name])
