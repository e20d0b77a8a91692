"""What a model decided for each row, as far as two versions of it can be held against each other.

Only the first output counts: the one that a model with several lists first. Of scores it is the class with the highest
one; of anything else the value itself. Several numbers a row are scores where they are probabilities, or where a
transform makes labels of them: the largest of several targets, or of an embedding, is no class.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from rayfleet_serving.config import NAMELESS, number_bucket
from rayfleet_serving.protocol.message import InferenceResult

CLASSES = 4096
"""Most classes that are told apart. Whole numbers up to half as far from zero are classes, those beyond quantities.
Texts are told apart by a checksum: they are not for everybody who may read the counts, and every router must count
alike. Two texts of ten are counted as one class in one case of a hundred, and then their difference is not seen."""
ROUNDING = 1e-2
"""How far the sum of a row's probabilities may be from 1: half precision, over as many classes as there are words."""
OUTSIDE = 1e-3
"""How far one of them may be below 0 or above 1."""
NUMBERS = frozenset("biuf")


def decisions(result: InferenceResult, *, scores: bool = False) -> np.ndarray | None:
    """One decision for each row: integers for classes, otherwise the values themselves (numbers, or text as objects).
    None for outputs of which no single one can be named, such as images or boxes. Shape (rows,).

    Args:
        scores: several numbers a row are scores, whatever they look like.
    """
    first = next(iter(result.outputs.values()), None)
    if first is None or first.ndim == 0:
        return None
    if first.ndim == 2 and first.shape[1] == 1:
        first = first[:, 0]
    if first.ndim == 1:
        return first
    several = first.ndim == 2 and first.shape[1] > 1 and first.dtype.kind in NUMBERS
    return _classes(first) if several and (scores or are_probabilities(first)) else None


def are_probabilities(*outputs: np.ndarray) -> bool:
    """Whether all rows of all of these are floats from 0 to 1 that sum to 1. Rows with NaN say nothing of it; there
    must be others."""
    told = 0
    for output in outputs:
        if output.ndim != 2 or output.shape[1] < 2 or output.dtype.kind != "f":
            return False
        rows = output[~np.isnan(output).any(axis=1)]
        # The sum is taken of small numbers only: it overflows with others.
        if not ((rows >= -OUTSIDE) & (rows <= 1 + OUTSIDE)).all():
            return False
        if not (np.abs(rows.sum(axis=1, dtype=np.float64) - 1) <= ROUNDING).all():
            return False
        told += len(rows)
    return told > 0


def _classes(scores: np.ndarray) -> np.ndarray:
    """None for a row without a score that is a number: any class would pass for a right one."""
    known = np.where(np.isnan(scores), -np.inf, scores)
    classes: np.ndarray = np.argmax(known, axis=1)
    if (none := np.isneginf(known).all(axis=1)).any():
        classes = classes.astype(object)
        classes[none] = None
    return classes


def key(decision: object) -> str:
    """What a decision is counted under, one of some ten thousand keys: "=7" for a truth value or a small whole number,
    "#1234" for a text, "~12" and "~-12" for the bucket of a number above and below zero, "~0" near zero, "?" for what
    has no name: NaN and the infinities, null, lists and other objects."""
    match decision:
        case bool() | int() | np.integer() | np.bool_():
            number = int(decision)
            return f"={number}" if abs(number) < CLASSES // 2 else f"~{number_bucket(number)}"
        case float() | np.floating():
            return f"~{number_bucket(float(decision))}" if math.isfinite(decision) else NAMELESS
        case bytes():
            return f"#{zlib.crc32(decision) % CLASSES}"
        case str():
            return f"#{zlib.crc32(decision.encode('utf-8', 'surrogatepass')) % CLASSES}"
    return NAMELESS
