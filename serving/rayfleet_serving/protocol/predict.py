"""The plain protocol, `POST /<model>/predict`: JSON or images in, predictions or labels out.

JSON is `{"instances": [...]}`, `{"inputs": ...}` or the rows alone: an array for a model with one input, a record or
an array of records by input name for one with several. One row may come without the batch axis. `params` holds
inference parameters, beside `instances` or `inputs`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rayfleet_serving.config import Classification, ImageInput, Transform
from rayfleet_serving.protocol import expected as expectations
from rayfleet_serving.protocol import invocations, jsontext, multipart, outputs, tables
from rayfleet_serving.protocol.errors import invalid, malformed, unsupported
from rayfleet_serving.protocol.expected import Expected, Input, listed
from rayfleet_serving.protocol.message import InferenceRequest, InferenceResult, RequestError
from rayfleet_serving.signature import UNNAMED_INPUT, Signature
from rayfleet_serving.transforms import image as images
from rayfleet_serving.transforms.classification import classify

MAX_PIXELS = 64_000_000
"""Pixels of one request, as sent and as the model takes them, over all its images."""
WRAPPERS = ("instances", "inputs")


def decode_json(body: bytes, signature: Signature) -> InferenceRequest:
    """A JSON request.

    Raises:
        RequestError: 400.
    """
    document = jsontext.parse(body)
    expected = expectations.of(signature)
    wrapper = _wrapper(document, expected)
    if wrapper is None:
        return tables.from_values(document, expected, "body", single=True)
    request = tables.from_values(document[wrapper], expected, wrapper, single=True)
    if "params" in document:
        request.params = expected.parameters(document["params"], "params")
    return request


def decode_image(
    body: bytes, content_type: str, signature: Signature, transform: Transform, max_pixels: int = MAX_PIXELS
) -> InferenceRequest:
    """Uploaded images, one row each: one image/* body, or the files of a form in their order. A form's text field
    `params` holds inference parameters as JSON; other text fields are refused.

    Takes milliseconds of CPU and lets go of the interpreter lock while decoding: call it in a thread.

    Raises:
        RequestError: 400 for a malformed form or image; 413 where the pixels of all images, as sent and as resized, are
            over `max_pixels`; 415 for other content types, and where the model has no image transform or takes another
            shape than the transform gives.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media != "multipart/form-data" and not media.startswith("image/"):
        raise unsupported(
            f"Content type {media[:80]!r} is not supported: send application/json"
            + (", multipart/form-data or image/*." if transform.image else ".")
        )
    if transform.image is None:
        raise unsupported("This model takes no images, only application/json: it has no spec.transform.input.image.")
    expected = expectations.of(signature)
    field = image_input(expected, transform.image)
    files: list[tuple[str, bytes]] = [("body", body)]
    params: dict[str, Any] = {}
    if media == "multipart/form-data":
        files, params = _form(body, content_type, expected)
    rows = len(files)
    max_pixels -= _resized_pixels(rows, transform.image, max_pixels)
    batch = np.empty((rows, *images.shape(transform.image)), np.float32)
    for row, (where, content) in enumerate(files):
        batch[row], pixels = images.decode(content, transform.image, max_pixels=max_pixels, where=where)
        max_pixels -= pixels
    if field is None:
        return InferenceRequest({UNNAMED_INPUT: batch}, rows, "tensor", params)
    shape = (rows, *(field.row if field.size is not None else batch.shape[1:]))
    array = batch.reshape(shape if len(field.shape) != 2 else (rows, -1)).astype(field.dtype.name, copy=False)
    return InferenceRequest({field.name: array}, rows, expected.form, params)


def image_input(expected: Expected, image: ImageInput) -> Input | None:
    """The input an image goes to; None where the model has no signature.

    A tensor is taken flattened, and with or without axes of size 1, but never with its axes in another order.

    Raises:
        RequestError: 415 where the model takes something else.
    """
    channels = 3 if image.mode == "RGB" else 1
    for name, values in (("mean", image.mean), ("std", image.std)):
        if len(values) not in (0, 1, channels):
            raise _mismatch(f"{name} has {len(values)} values for {channels} channels")
    if expected.form == "any":
        return None
    field = expected.only
    if field is None or field.column:
        raise _mismatch(f"the model takes {listed(expected.names)}, an image is one tensor")
    _check_dtype(field.dtype.name, image)
    given = images.shape(image)
    if len(field.row) == len(given) and all(want in (-1, have) for want, have in zip(field.row, given, strict=True)):
        return field
    flattened = field.row in ((-1,), (math.prod(given),))
    squeezed = [size for size in field.row if size != 1] == [size for size in given if size != 1]
    if not flattened and not squeezed:
        raise _mismatch(f"it gives {given} for each image, the model takes {field.row} for each row")
    return field


def encode(
    result: InferenceResult,
    *,
    model_name: str,
    model_version: str,
    classification: Classification | None,
    labels: Sequence[str],
) -> bytes:
    """`{"model", "version", "predictions"}`, one prediction for each row: the output itself, an object by output name
    where there are several or they have columns, or labels where the model classifies.

    Raises:
        RequestError: 500 where the transform wants classes and the model gives no scores.
    """
    if classification is not None:
        predictions: Any = classify(_scores(result), classification, labels)
    elif result.form == "tensors":
        columns = {name: outputs.jsonable(array) for name, array in result.outputs.items()}
        predictions = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    else:
        predictions = invocations.predictions(result)
    document = {"model": model_name, "version": model_version, "predictions": predictions}
    return outputs.dumps(document)


def _wrapper(document: Any, expected: Expected) -> str | None:
    """The key that holds the rows; None where the document is the rows itself."""
    if type(document) is not dict:
        return None
    given = [name for name in WRAPPERS if name in document and name not in expected.inputs]
    if not given:
        return None
    unknown = [name for name in document if name not in (given[0], "params")]
    if unknown:
        raise invalid(f"Unknown {listed(unknown)}; {given[0]} goes alone, or with params.", None)
    return given[0]


def _form(body: bytes, content_type: str, expected: Expected) -> tuple[list[tuple[str, bytes]], dict[str, Any]]:
    """The files of a form, named for errors, and its parameters."""
    files: list[tuple[str, bytes]] = []
    params: dict[str, Any] = {}
    for part in multipart.parse(body, content_type):
        if part.filename is not None:
            files.append((part.filename or part.name, part.content))
        elif part.name == "params":
            params = expected.parameters(jsontext.parse(part.content), "params")
        else:
            raise invalid(f"Unknown text field {part.name!r}; a form holds image files, and params as JSON.", part.name)
    if not files:
        raise malformed("The form holds no file; send at least one image.")
    return files, params


def _resized_pixels(rows: int, image: ImageInput, max_pixels: int) -> int:
    """Pixels of the batch, however small the files are. Raises `RequestError` 413."""
    pixels = rows * image.width * image.height
    if pixels > max_pixels:
        raise RequestError(
            413,
            "ImageTooLarge",
            f"This model takes images of {image.width} x {image.height} pixels: {rows} of them are {pixels}, "
            f"at most {max_pixels} go into one request. Send fewer at once.",
            field="body",
        )
    return pixels


def _scores(result: InferenceResult) -> np.ndarray[Any, Any]:
    """The first output that holds one score for each class in each row, or the columns of a table of scores."""
    arrays = list(result.outputs.values())
    if result.form == "frame" and len(arrays) > 1:
        arrays = [np.stack(arrays, axis=1)] if all(array.dtype.kind in "biuf" for array in arrays) else []
    for array in arrays:
        if array.dtype.kind in "biuf" and array.ndim >= 2 and math.prod(array.shape[1:]) == max(array.shape[1:]) > 0:
            return array.reshape(len(array), -1)
    shapes = {name: (array.dtype.name, array.shape[1:]) for name, array in result.outputs.items()}
    raise RequestError(
        500,
        "TransformMismatch",
        "spec.transform.output.classification needs one score for each class in each row; "
        f"the model gives {', '.join(f'{name} {dtype} {shape}' for name, (dtype, shape) in shapes.items())}.",
    )


def _check_dtype(dtype: str, image: ImageInput) -> None:
    if dtype.startswith("float"):
        return
    if dtype not in ("uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        raise _mismatch(f"it gives numbers from 0 to 255, the model takes {dtype}")
    if image.scale != 1 or image.mean or image.std:
        raise _mismatch(f"it scales pixels to fractions, the model takes {dtype}; set scale to 1")


def _mismatch(problem: str) -> RequestError:
    return unsupported(f"spec.transform.input.image does not fit this model: {problem}.", code="TransformMismatch")
