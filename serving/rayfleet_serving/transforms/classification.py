"""Score vectors to labels with their confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rayfleet_serving.config import Classification

Array = np.ndarray[Any, Any]


def classify(scores: Array, classification: Classification, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The best classes of each row: label and confidence of the best, and `top_k` of them in `top`, best first.

    Args:
        scores: (rows, classes), any real dtype.
        classification: activation and `top_k`.
        labels: by class index; a class without one is called by its index.
    """
    confidences = activate(scores.astype(np.float64), classification.activation)
    count = min(classification.top_k, scores.shape[1])
    # Stable, so that the lower index wins a tie; NaN sorts last.
    best = np.argsort(-confidences, axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(confidences, best, axis=1)
    predictions = []
    for classes, row in zip(best.tolist(), values.tolist(), strict=True):
        top = [
            {"label": labels[index] if index < len(labels) else str(index), "confidence": value}
            for index, value in zip(classes, row, strict=True)
        ]
        predictions.append(top[0] | {"top": top})
    return predictions


def activate(scores: Array, activation: str) -> Array:
    """Softmax over the last axis, sigmoid, or the scores as they are ("None"). Exponents never overflow: softmax is
    shifted by its maximum, sigmoid is written with tanh."""
    match activation:
        case "Softmax":
            shifted: Array = np.exp(scores - scores.max(axis=-1, keepdims=True))
            softmax: Array = shifted / shifted.sum(axis=-1, keepdims=True)
            return softmax
        case "Sigmoid":
            sigmoid: Array = 0.5 * (1.0 + np.tanh(0.5 * scores))
            return sigmoid
    return scores
