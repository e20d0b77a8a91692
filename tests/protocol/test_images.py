"""Image files of every kind become the tensor a model was trained on."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image
from protocol.bad_inputs import form, png, png_header

from rayfleet_serving.config import Classification, ImageInput, Transform
from rayfleet_serving.protocol import predict
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult, RequestError
from rayfleet_serving.signature import Field, Signature

ANY = Signature()
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def upload(
    data: bytes,
    *,
    signature: Signature = ANY,
    content_type: str = "image/png",
    max_pixels: int = predict.MAX_PIXELS,
    **image: Any,
) -> InferenceRequest:
    transform = Transform(image=ImageInput(**({"height": 16, "width": 16, "scale": 1.0} | image)))
    return predict.decode_image(data, content_type, signature, transform, max_pixels)


def pixels(data: bytes, **image: Any) -> np.ndarray:
    """The one row of an upload."""
    request = upload(data, **image)
    assert request.rows == 1
    return next(iter(request.inputs.values()))[0]


def colour(red: int, green: int, blue: int) -> np.ndarray:
    return np.broadcast_to(np.array([red, green, blue], np.float32)[:, None, None], (3, 16, 16))


def test_grey_pixels_arrive_as_they_are() -> None:
    given = pixels(file(Image.fromarray(RAMP)), mode="L")
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given, RAMP[None].astype(np.float32))


def test_scale_mean_and_std_are_applied_per_channel() -> None:
    picture = Image.new("RGB", (16, 16), (255, 51, 0))
    given = pixels(file(picture), scale=1 / 255, mean=[0.5, 0.2, 0.1], std=[0.5, 1.0, 0.1])
    np.testing.assert_allclose(given, colour(1, 0, -1), atol=1e-6)


def test_layouts() -> None:
    picture = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
    first, last = pixels(file(picture), layout="NCHW"), pixels(file(picture), layout="NHWC")
    assert (first.shape, last.shape) == ((3, 16, 16), (16, 16, 3))
    np.testing.assert_array_equal(first, last.transpose(2, 0, 1))


def test_large_images_are_resized_with_antialiasing() -> None:
    stripes = np.zeros((160, 160), np.uint8)
    stripes[:, ::2] = 255
    given = pixels(file(Image.fromarray(stripes)), mode="L")
    np.testing.assert_allclose(given, 127.5, atol=8)


def test_exif_orientation_turns_the_image() -> None:
    picture = Image.fromarray(np.repeat(np.arange(16, dtype=np.uint8)[:, None] * 16, 16, axis=1))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn right by 90 degrees
    given = pixels(file(picture, exif=exif), mode="L")[0]
    np.testing.assert_array_equal(given, np.asarray(picture.rotate(-90), np.float32))


RED = (200, 10, 30)
SAME_RED = [
    ("RGB", Image.new("RGB", (16, 16), RED), "PNG", 0),
    ("palette", Image.new("RGB", (16, 16), RED).quantize(4), "PNG", 0),
    ("opaque RGBA", Image.new("RGBA", (16, 16), (*RED, 255)), "PNG", 0),
    ("JPEG", Image.new("RGB", (16, 16), RED), "JPEG", 3),
    ("CMYK JPEG", Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", 3),
    ("CMYK TIFF", Image.new("RGB", (16, 16), RED).convert("CMYK"), "TIFF", 1),
    ("WebP", Image.new("RGB", (16, 16), RED), "WEBP", 6),
    ("GIF", Image.new("RGB", (16, 16), RED), "GIF", 2),
    ("BMP", Image.new("RGB", (16, 16), RED), "BMP", 0),
]


@pytest.mark.parametrize(("picture", "kind", "off"), [c[1:] for c in SAME_RED], ids=[c[0] for c in SAME_RED])
def test_every_colour_mode_becomes_rgb(picture: Image.Image, kind: str, off: int) -> None:
    np.testing.assert_allclose(pixels(file(picture, kind)), colour(*RED), atol=off)


def test_transparency_shows_white() -> None:
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    half = Image.new("LA", (16, 16), (0, 128))
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    np.testing.assert_array_equal(pixels(file(clear)), colour(255, 255, 255))
    np.testing.assert_allclose(pixels(file(half), mode="L"), 127, atol=1)
    np.testing.assert_array_equal(pixels(file(palette, transparency=1)), colour(255, 255, 255))


def test_sixteen_bits_keep_their_greys() -> None:
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels(file(deep, kind), mode="L"), RAMP[None].astype(np.float32))
    np.testing.assert_array_equal(pixels(file(deep))[0], RAMP.astype(np.float32))


def test_one_bit_and_grey_become_rgb() -> None:
    np.testing.assert_array_equal(pixels(file(Image.new("1", (16, 16), 1))), colour(255, 255, 255))
    np.testing.assert_array_equal(pixels(file(Image.new("L", (16, 16), 7))), colour(7, 7, 7))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), (level, level, level)) for level in (0, 255)]
    given = pixels(file(frames[0], kind, save_all=True, append_images=frames[1:]))
    np.testing.assert_allclose(given, 0, atol=2)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(RequestError, match="floating point"):
        upload(file(Image.new("F", (16, 16), 0.5), "TIFF"))


SHAPES = [
    ("flattened", (-1, 256), {"mode": "L"}, (256,)),
    ("flattened, open", (-1, -1), {"mode": "L"}, (256,)),
    ("without channels", (-1, 16, 16), {"mode": "L"}, (16, 16)),
    ("channels last of one", (-1, 16, 16, 1), {"mode": "L"}, (16, 16, 1)),
    ("open height and width", (-1, 3, -1, -1), {}, (3, 16, 16)),
    ("exact", (-1, 3, 16, 16), {}, (3, 16, 16)),
]


@pytest.mark.parametrize(("shape", "image", "row"), [c[1:] for c in SHAPES], ids=[c[0] for c in SHAPES])
def test_a_tensor_takes_the_shape_of_the_signature(shape: Any, image: Any, row: tuple[int, ...]) -> None:
    signature = Signature(form="tensors", inputs=(Field(name="picture", dtype="float64", shape=shape),))
    request = upload(file(Image.fromarray(RAMP)), signature=signature, **image)
    assert (request.form, list(request.inputs)) == ("tensors", ["picture"])
    assert request.inputs["picture"].shape == (1, *row)
    assert request.inputs["picture"].dtype == np.float64


def test_integer_models_take_pixels() -> None:
    signature = Signature(form="tensor", inputs=(Field(name="input", dtype="uint8", shape=(-1, 1, 16, 16)),))
    request = upload(file(Image.fromarray(RAMP)), signature=signature, mode="L")
    np.testing.assert_array_equal(request.inputs["input"], RAMP[None, None], strict=True)


MISFITS = [
    ("other size", Field(name="input", dtype="float32", shape=(-1, 3, 8, 8)), {}, "(3, 16, 16)", "(3, 8, 8)"),
    ("other layout", Field(name="input", dtype="float32", shape=(-1, 16, 16, 3)), {}, "(3, 16, 16)", "(16, 16, 3)"),
    ("other channels", Field(name="input", dtype="float32", shape=(-1, 1, 16, 16)), {}, "(3, 16, 16)", "(1, 16, 16)"),
    ("fractions", Field(name="input", dtype="uint8", shape=(-1, 3, 16, 16)), {"scale": 0.1}, "uint8", "scale to 1"),
    ("small integers", Field(name="input", dtype="int8", shape=(-1, 3, 16, 16)), {}, "0 to 255", "int8"),
    ("text", Field(name="input", dtype="str", shape=(-1, 3, 16, 16)), {}, "0 to 255", "str"),
    (
        "means",
        Field(name="input", dtype="float32", shape=(-1, 3, 16, 16)),
        {"mean": [1, 2]},
        "mean has 2",
        "3 channels",
    ),
]


@pytest.mark.parametrize(("field", "image", "gives", "takes"), [c[1:] for c in MISFITS], ids=[c[0] for c in MISFITS])
def test_a_transform_that_does_not_fit_says_so(field: Field, image: Any, gives: str, takes: str) -> None:
    with pytest.raises(RequestError) as caught:
        upload(png(), signature=Signature(form="tensor", inputs=(field,)), **image)
    assert caught.value.status == 415
    assert caught.value.code == "TransformMismatch"
    assert gives in caught.value.message
    assert takes in caught.value.message


def test_several_files_are_rows_in_their_order() -> None:
    files = [("image", f"{level}.png", file(Image.new("L", (4, 4), level))) for level in (10, 20, 30)]
    body, content_type = form(*files)
    request = upload(body, content_type=content_type, mode="L")
    assert request.rows == 3
    assert request.inputs["input"][:, 0, 0, 0].tolist() == [10, 20, 30]


def test_a_form_brings_parameters() -> None:
    signature = Signature(
        form="tensor",
        inputs=(Field(name="input", dtype="float32", shape=(-1, 3, 16, 16)),),
        params=(Field(name="top", dtype="int64", shape=(), default=1),),
    )
    body, content_type = form(("params", None, b'{"top": 2}'), ("image", "../../etc/passwd", png()))
    assert upload(body, content_type=content_type, signature=signature).params == {"top": 2}


def test_the_pixels_of_all_files_count_together() -> None:
    files = [("image", f"{i}.png", png((50, 50))) for i in range(4)]
    body, content_type = form(*files)
    resized = 4 * 16 * 16
    assert upload(body, content_type=content_type, max_pixels=10_000 + resized).rows == 4
    with pytest.raises(RequestError, match=r"3\.png") as caught:
        upload(body, content_type=content_type, max_pixels=9_999 + resized)
    assert caught.value.status == 413


def test_small_files_for_a_model_of_large_images_count_as_large() -> None:
    body, content_type = form(*[("image", f"{i}.png", png((1, 1))) for i in range(64)])
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="1024 x 1024 pixels: 64 of them") as caught:
            upload(body, content_type=content_type, height=1024, width=1024)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (caught.value.status, caught.value.code) == (413, "ImageTooLarge")
    assert peak < 5_000_000


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    tracemalloc.start()
    with pytest.raises(RequestError, match="9000 x 9000"):
        upload(png_header(9000, 9000))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def classified(outputs: dict[str, np.ndarray], form: Any = "array", **options: Any) -> list[dict[str, Any]]:
    body = predict.encode(
        InferenceResult(outputs, form),
        model_name="m",
        model_version="1",
        classification=Classification(**options),
        labels=["cat", "dog", "owl"],
    )
    predictions: list[dict[str, Any]] = orjson.loads(body)["predictions"]
    return predictions


def test_scores_become_labels_with_confidence() -> None:
    scores = np.array([[0.0, 1000.0, 999.0], [-1000.0, -1000.0, -1000.0]], np.float32)
    first, second = classified({"output": scores}, top_k=2)
    assert (first["label"], [entry["label"] for entry in first["top"]]) == ("dog", ["dog", "owl"])
    assert first["confidence"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert first["top"][0] == {"label": "dog", "confidence": first["confidence"]}
    assert [entry["label"] for entry in second["top"]] == ["cat", "dog"]
    assert second["confidence"] == pytest.approx(1 / 3)


def test_activations_and_missing_labels() -> None:
    scores = np.array([[2.0, -800.0, 0.0, 5.0]])
    (sigmoid,) = classified({"output": scores}, activation="Sigmoid", top_k=10)
    assert [entry["label"] for entry in sigmoid["top"]] == ["3", "cat", "owl", "dog"]
    assert sigmoid["top"][2]["confidence"] == 0.5
    assert sigmoid["top"][3]["confidence"] == 0.0
    (plain,) = classified({"output": scores}, activation="None", top_k=1)
    assert plain == {"label": "3", "confidence": 5.0, "top": [{"label": "3", "confidence": 5.0}]}


def test_scores_are_found_where_the_model_puts_them() -> None:
    scores = np.array([[0.0, 3.0]])
    assert classified({"ids": np.array([7]), "scores": scores[:, :, None]}, "tensors")[0]["label"] == "dog"
    assert classified({"no": scores[:, 0], "yes": scores[:, 1]}, "frame")[0]["label"] == "dog"
    with pytest.raises(RequestError, match="one score for each class") as caught:
        classified({"output": np.array(["cat"])})
    assert caught.value.status == 500


def test_scores_that_are_not_numbers_have_no_confidence() -> None:
    assert classified({"output": np.array([[np.nan, 1.0]])})[0]["confidence"] is None
