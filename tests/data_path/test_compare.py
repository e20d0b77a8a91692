"""What is found out about two answers to one request."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax

from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.router.compare import Comparison, compare

NAN, INF = float("nan"), float("inf")


def answer(first: Any, **others: Any) -> InferenceResult:
    arrays = {name: np.asarray(value) for name, value in {"first": first, **others}.items()}
    return InferenceResult(arrays, "tensors")


def objects(*values: Any) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def found(live: Any, mirrored: Any) -> Comparison:
    comparison = compare(answer(live), answer(mirrored))
    assert comparison is not None
    return comparison


@pytest.mark.parametrize(
    ("live", "mirrored", "differing", "distance"),
    [
        ([1.0, 2.0], [1.0, 2.5], 1, 0.25),
        ([1000.0], [1000.9], 0, 0.9),
        ([1000.0], [1001.1], 1, 1.1),
        ([0.0], [9e-7], 0, 9e-7),
        ([0.0], [2e-6], 1, 2e-6),
        ([1000, 7], [1001, 7], 1, 0.5),
        ([2**62], [2**62 + 1], 1, 0.0),
        ([1000], [1000.5], 0, 0.5),
        ([True, False], [True, True], 1, 0.5),
        ([[1.0], [2.0]], [1.0, 5.0], 1, 1.5),
        (["cat", "dog"], ["cat", "cow"], 1, 0.5),
        (objects("cat", None, b"x"), objects("cat", None, b"y"), 1, 1 / 3),
        (objects("cat"), ["cat"], 0, 0.0),
        (["1"], [1], 1, 1.0),
        (objects({"a": [1]}, [2]), objects({"a": [1]}, [3]), 1, 0.5),
        (np.array(["2024-01-01", "NaT"], "M8[ns]"), np.array(["2024-01-02", "NaT"], "M8[ns]"), 1, 0.5),
        ([NAN, NAN, 1.0], [NAN, 1.0, NAN], 2, 0.0),
        ([INF, INF], [INF, -INF], 1, 0.0),
        (objects(NAN, None), objects(NAN, NAN), 1, 0.5),
        ([1e308, 0.0], [-1e308, 3.0], 2, 3.0),
        ([[0.1, 0.9], [0.6, 0.4]], [[0.4, 0.6], [0.4, 0.6]], 1, 0.25),
        ([[NAN, NAN], [0.9, 0.1]], [[NAN, NAN], [NAN, NAN]], 1, 0.0),
        ([[NAN, NAN]], [[0.9, 0.1]], 1, 0.0),
        ([[NAN, NAN]], [[NAN, NAN]], 0, 0.0),
        ([[0.1, 0.9]], [[0.3, 0.9]], 1, 0.1),
        ([[2.0, 4.0], [6.0, 5.0]], [[1.0, 2.0], [3.0, 2.5]], 2, 2.125),
        ([[0.3, 0.7], [0.2, 0.2]], [[0.4, 0.6], [0.2, 0.2]], 1, 0.05),
        ([[0.3, 0.7]], [[0.4, 0.6]], 0, 0.1),
        ([[1, 2], [3, 4]], [[1, 2], [3, 5]], 1, 0.25),
        (np.zeros((2, 2, 2)), np.array([[[0, 0], [0, 0]], [[0, 8], [8, 8]]], float), 1, 3.0),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0, 0.0),
        (objects(), objects(), 0, 0.0),
    ],
)
def test_rows_that_differ_and_how_far(live: Any, mirrored: Any, differing: int, distance: float) -> None:
    comparison = found(live, mirrored)
    assert comparison[:2] == (len(live), differing)
    assert comparison.distance == pytest.approx(distance)


@pytest.mark.parametrize(
    ("live", "mirrored"),
    [
        (np.zeros(3), np.zeros(4)),
        (np.zeros(3), np.zeros((3, 2))),
        (np.zeros((3, 2)), np.zeros((3, 4))),
        (np.zeros((3, 2, 2)), np.zeros((3, 2, 3))),
        (np.float64(1), np.float64(1)),
    ],
)
def test_other_shapes_cannot_be_compared(live: Any, mirrored: Any) -> None:
    assert compare(answer(live), answer(mirrored)) is None


def test_answers_without_outputs_cannot_be_compared() -> None:
    assert compare(InferenceResult({}, "tensors"), answer([1.0])) is None


def test_only_the_first_output_counts_whatever_its_name() -> None:
    live = answer([1.0], boxes=np.zeros((1, 4)))
    mirrored = InferenceResult({"renamed": np.array([1.0])}, "array")
    assert compare(live, mirrored) == (1, 0, 0.0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_scores_as_numpy_alone_would_compare_them(dtype: str) -> None:
    random = np.random.default_rng(7)
    live = random.normal(0, 1, (5000, 10))
    live, mirrored = (softmax(each, axis=1).astype(dtype) for each in (live, live + random.normal(0, 0.3, live.shape)))
    comparison = found(live, mirrored)
    assert comparison.differing == np.count_nonzero(live.argmax(1) != mirrored.argmax(1))
    assert 0 < comparison.differing < 5000
    assert comparison.distance == pytest.approx(np.mean(np.abs(live.astype(float) - mirrored.astype(float))))


def test_logits_are_compared_by_their_class_where_they_are_said_to_be_scores() -> None:
    live, mirrored = answer([[1.0, 5.0], [NAN, NAN], [3.0, 2.0]]), answer([[2.0, 4.0], [9.0, 1.0], [2.0, 3.0]])
    assert compare(live, mirrored) == (3, 3, 1.0)
    assert compare(live, mirrored, scores=True) == (3, 2, 1.0)


def test_labels_as_counting_would_compare_them() -> None:
    random = np.random.default_rng(8)
    live, mirrored = (random.choice(["cat", "dog", "cow"], 3000) for _ in range(2))
    pairs = Counter(zip(live.tolist(), mirrored.tolist(), strict=True))
    differing = sum(count for (one, other), count in pairs.items() if one != other)
    assert found(live, mirrored.astype(object)) == (3000, differing, differing / 3000)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2) | st.binary(max_size=2)
OBJECTS = VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(st.text(max_size=1), VALUES, max_size=1)
DTYPES = ["float16", "float32", "float64", "int8", "int64", "uint64", "bool", "U3", "S3", "M8[ns]", "complex64"]


@st.composite
def arrays(draw: st.DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    """An output of any dtype; the largest floats and those that are no numbers are frequent."""
    dtype = draw(st.sampled_from([*DTYPES, "object", "hard"]))
    if dtype == "hard":
        return draw(hnp.arrays("float64", shape, elements=st.sampled_from([NAN, INF, -INF, 1e308, -1e308, 0.0])))
    return draw(hnp.arrays(dtype, shape, elements=OBJECTS if dtype == "object" else None))


SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


@given(SHAPES.flatmap(arrays), st.booleans())
def test_an_answer_never_differs_from_itself(array: np.ndarray, scores: bool) -> None:
    assert compare(answer(array), answer(array.copy()), scores=scores) == (len(array), 0, 0.0)


@given(SHAPES.flatmap(lambda shape: st.tuples(arrays(shape), arrays(shape))), st.booleans())
def test_any_two_answers_of_one_shape_give_numbers_that_can_be_summed(
    pair: tuple[np.ndarray, np.ndarray], scores: bool
) -> None:
    comparison = compare(answer(pair[0]), answer(pair[1]), scores=scores)
    assert comparison is not None
    assert 0 <= comparison.differing <= comparison.rows == len(pair[0])
    assert comparison.distance >= 0
    assert math.isfinite(comparison.distance)
