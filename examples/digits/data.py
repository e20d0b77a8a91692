"""scikit-learn's handwritten digits, as the 8-bit pixels that a PNG can hold.

The data set's grey values run from 0 to 16; they are rounded to 0..255 once, before anything else, so that a PNG
upload and a tensor carry exactly the same picture.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Grey pictures and the digit each one shows."""

    pixels: Array
    """uint8 (n, 8, 8)."""
    digits: Array
    """int64 (n,), 0..9."""

    def tensors(self) -> Array:
        """float32 (n, 1, 8, 8), 0..1: what the model takes."""
        return (self.pixels[:, np.newaxis] * np.float32(1 / 255)).astype(np.float32)

    def pngs(self) -> list[bytes]:
        """One PNG file for each picture."""
        return [_png(picture) for picture in self.pixels]

    def accuracy(self, answers: Array) -> float:
        """Share of `answers`, int (n,), that name the right digit."""
        return float(np.mean(answers == self.digits))


def load() -> tuple[Pictures, Pictures]:
    """1198 pictures to train with and 599 held out, the same ones every time."""
    bundled = load_digits()
    pixels = np.round(bundled.images * (255 / 16)).astype(np.uint8)
    train, held_out = train_test_split(np.arange(len(pixels)), test_size=1 / 3, random_state=0, stratify=bundled.target)
    digits = bundled.target.astype(np.int64)
    return Pictures(pixels[train], digits[train]), Pictures(pixels[held_out], digits[held_out])


def _png(picture: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
