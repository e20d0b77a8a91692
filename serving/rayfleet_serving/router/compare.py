"""How far two versions' answers to the same rows are apart. Only the first output counts, as in `decisions`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.router.decisions import NUMBERS, are_probabilities, decisions

RELATIVE = 1e-3
ABSOLUTE = 1e-6
"""Numbers differ when they are more than `ABSOLUTE + RELATIVE * |live|` apart: what another precision or another
library makes of the same weights is the same answer."""
LARGEST = 1e100
"""Elements that are so far apart, or no numbers, are left out of the distance: one of them would make a sum of
distances infinite for good."""


class Comparison(NamedTuple):
    """What was found out about one request."""

    rows: int
    differing: int
    """Rows with another decision; where a row has no single one, rows of which any element differs."""
    distance: float
    """Mean absolute difference of the elements, in the output's own unit; for text and objects the share of rows that
    differ. Finite, not below 0."""


def compare(live: InferenceResult, mirrored: InferenceResult, *, scores: bool = False) -> Comparison | None:
    """Hold two answers against each other; None where their first outputs have different shapes, or none.

    Numbers are compared within a tolerance where one of the two is a float, everything else exactly. NaN equals NaN,
    and nothing else.

    Args:
        scores: several numbers a row are scores, whatever they look like.
    """
    one, other = _first(live), _first(mirrored)
    if one is None or other is None or one.shape != other.shape:
        return None
    scores = scores or are_probabilities(one, other)
    chosen, mirror_chosen = decisions(live, scores=scores), decisions(mirrored, scores=scores)
    if chosen is None or mirror_chosen is None:
        unequal = _unequal(one, other)
        differs = np.asarray(unequal.any(axis=tuple(range(1, unequal.ndim))))
    else:
        differs = _unequal(chosen, mirror_chosen)
        if one.ndim == 2:
            # The highest of scores of which some are no numbers may be any class: it must not pass for the right one.
            differs = differs | (np.isnan(one).any(axis=1) != np.isnan(other).any(axis=1))
    rows, differing = len(differs), int(differs.sum())
    if {one.dtype.kind, other.dtype.kind} <= NUMBERS:
        return Comparison(rows, differing, _distance(one, other))
    return Comparison(rows, differing, differing / max(1, rows))


def _first(result: InferenceResult) -> np.ndarray | None:
    """The first output, one column as one-dimensional, as `decisions` takes it."""
    first = next(iter(result.outputs.values()), None)
    if first is None or first.ndim == 0:
        return None
    return first[:, 0] if first.ndim == 2 and first.shape[1] == 1 else first


def _unequal(live: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Which elements differ. Shapes are equal."""
    kinds = {live.dtype.kind, mirrored.dtype.kind}
    if kinds <= NUMBERS and "f" in kinds:
        with np.errstate(over="ignore", invalid="ignore"):
            one, other = live.astype(np.float64), mirrored.astype(np.float64)
            close = np.isclose(other, one, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
        return np.asarray(~close)
    if len(kinds) > 1 and not kinds <= NUMBERS:
        live, mirrored = live.astype(object), mirrored.astype(object)
    neither_is_itself = (live != live) & (mirrored != mirrored)  # NaN, and NaT
    return np.asarray((live != mirrored) & ~neither_is_itself)


def _distance(live: np.ndarray, mirrored: np.ndarray) -> float:
    """Mean absolute difference of two arrays of numbers of one shape."""
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.abs(live.astype(np.float64) - mirrored.astype(np.float64))
    apart = apart[apart < LARGEST]
    return float(apart.mean()) if apart.size else 0.0
