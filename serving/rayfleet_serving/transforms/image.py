"""Uploaded images to tensors: decode, straighten, convert, resize, scale.

The order is the usual one of training pipelines (PIL convert, PIL resize, then arithmetic), so that the tensor is
the one a model was trained on: EXIF orientation, transparency onto white, 16-bit grey to 8 bits, `convert(mode)`,
antialiased bilinear resize without keeping the aspect ratio, `pixel * scale`, `(… - mean) / std` per channel.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from rayfleet_serving.config import ImageInput
from rayfleet_serving.protocol.message import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded, whatever the upload claims to be. Pillow knows many more, each with a decoder to attack."""

Array = np.ndarray[Any, Any]


def decode(data: bytes, image: ImageInput, *, max_pixels: int, where: str) -> tuple[Array, int]:
    """One image as float32 of shape (channels, height, width) or (height, width, channels), and its pixels as sent.

    Only the first frame of an animation is read.

    Args:
        data: the file's bytes.
        image: the transform.
        max_pixels: limit of width times height as the file's header states them, checked before anything is decoded.
        where: name of the part for errors.

    Raises:
        RequestError: 400 for what is no image of `FORMATS`, or is damaged; 413 over `max_pixels`.
    """
    if not data:
        raise _unreadable(where, "is empty")
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(where, str(error)) from None
    except Exception:
        raise _unreadable(where, f"is not an image of {', '.join(FORMATS)}") from None
    width, height = opened.size
    if width * height > max_pixels:
        raise _too_large(where, f"{width} x {height} pixels; at most {max_pixels} are decoded for one request")
    try:
        with opened:
            opened.load()
            pixels = _convert(ImageOps.exif_transpose(opened), image.mode)
    except Exception as error:
        # Decoders raise anything on damaged files: OSError, SyntaxError, struct.error, IndexError, …
        raise _unreadable(where, f"is damaged: {str(error)[:200]}") from None
    resized = pixels.resize((image.width, image.height), Image.Resampling.BILINEAR)
    return normalize(np.asarray(resized), image), width * height


def normalize(pixels: Array, image: ImageInput) -> Array:
    """8-bit pixels (height, width) or (height, width, 3) as float32 in the transform's layout."""
    values = pixels.astype(np.float32).reshape(pixels.shape[0], pixels.shape[1], -1) * np.float32(image.scale)
    if image.mean:
        values -= np.asarray(image.mean, np.float32)
    if image.std:
        values /= np.asarray(image.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)) if image.layout == "NCHW" else values


def shape(image: ImageInput) -> tuple[int, int, int]:
    """Shape of one image's tensor."""
    channels = 3 if image.mode == "RGB" else 1
    return (channels, image.height, image.width) if image.layout == "NCHW" else (image.height, image.width, channels)


def _convert(opened: Image.Image, mode: str) -> Image.Image:
    if opened.mode.startswith("I"):
        # 16-bit grey; Pillow's own conversion to 8 bits cuts everything over 255 to white.
        grey = np.asarray(opened).astype(np.int64).clip(0, 65535)
        opened = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif opened.mode == "F":
        raise ValueError("its pixels are floating point; send 8 or 16 bits for each channel")
    elif opened.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in opened.info:
        opened = opened.convert("RGBA")
        opened = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened)
    return opened.convert(mode)


def _unreadable(where: str, problem: str) -> RequestError:
    return RequestError(400, "InvalidImage", f"Image {where!r} {problem}.", field=where)


def _too_large(where: str, problem: str) -> RequestError:
    return RequestError(413, "ImageTooLarge", f"Image {where!r} is too large: {problem}.", field=where)
