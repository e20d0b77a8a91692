"""What a model decided, and what it is counted under."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from data_path.mirrored import LIVE, V2, Scene, mirroring
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_operator.api.rollout import Analysis
from rayfleet_operator.plan.analysis import Count, Outcome, judge
from rayfleet_operator.plan.distance import between
from rayfleet_serving.config import NUMBER_LARGEST, NUMBER_RATIO, Classification, Transform
from rayfleet_serving.protocol.message import InferenceResult
from rayfleet_serving.router.decisions import CLASSES, decisions, key
from rayfleet_serving.router.window import Window


def result(**outputs: np.ndarray) -> InferenceResult:
    return InferenceResult(outputs, "tensors")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("classes", [2, 1000, 50_000])
def test_of_probabilities_it_is_the_class(dtype: str, classes: int) -> None:
    logits = np.random.default_rng(5).normal(0, 3, (20, classes))
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = (scores / scores.sum(axis=1, keepdims=True)).astype(dtype)
    found = decisions(result(scores=scores))
    assert found is not None
    assert found.tolist() == scores.argmax(axis=1).tolist()


def test_of_scores_by_declaration_it_is_the_class_whatever_they_look_like() -> None:
    for dtype in (np.float32, np.int8):
        found = decisions(result(scores=np.array([[1, 9], [-3, -4], [20, 10]], dtype)), scores=True)
        assert found is not None
        assert found.tolist() == [1, 0, 0]


def test_scores_that_are_no_numbers_are_no_class() -> None:
    scores = np.array([[0.1, 0.9], [math.nan, math.nan], [0.7, 0.3]], np.float32)
    assert decisions(result(scores=np.full((1, 2), -math.inf)), scores=True) == [None]
    for declared in (False, True):
        found = decisions(result(scores=scores), scores=declared)
        assert found is not None
        assert [key(each) for each in found] == ["=1", "?", "=0"]
        window = Window("w", predictions=True)
        window.predicted(result(scores=scores[1:2]), scores=declared)
        assert window.count().predictions == {"?": 1}


def regression(targets: int) -> np.ndarray:
    return np.random.default_rng(6).normal(3, 1, (50, targets))


@pytest.mark.parametrize(
    "array",
    [
        regression(2),
        regression(8),
        np.array([[0.1, 0.2, 0.9, 0.8]]),
        np.array([[2.0, -1.0]]),
        np.array([[0.4, 0.6], [0.4, 0.4]]),
        np.array([[math.inf, 0.0]]),
        np.array([[1e308, 1e308], [math.inf, -math.inf]]),
        np.array([[math.nan, 1.0]]),
        np.zeros((0, 3)),
    ],
    ids=["targets", "embedding", "box", "logits", "one row of two", "infinite", "too large", "partly NaN", "empty"],
)
def test_other_numbers_are_no_scores(array: np.ndarray) -> None:
    assert decisions(result(first=array)) is None


def test_regressions_of_several_targets_are_counted_without_a_name() -> None:
    """The target with the largest value is no class."""
    window = Window("w", predictions=True)
    for _ in range(50):
        window.predicted(result(first=regression(3)))
    assert window.count().predictions == {"?": 50}


@pytest.mark.parametrize("declares", ["stable", "candidate"])
async def test_logits_count_as_classes_where_one_version_of_the_model_classifies(declares: str) -> None:
    """Both are counted alike: the transform of the version before stays as it was."""
    classifies = {"transform": Transform(classification=Classification())}
    stable = LIVE.model_copy(update=classifies if declares == "stable" else {})
    candidate = mirroring().model_copy(update={"mirror": 0, **(classifies if declares == "candidate" else {})})
    for named, expected in (({}, {"=1"}), ({"name": "b"}, {"=1"} if declares == "stable" else {"?"})):
        scene = Scene(live=lambda array: array * 10, live_route=stable, route=candidate.model_copy(update=named))
        window = scene.live.window = Window("w", predictions=True)
        await scene.ask([[1.0, 2.0]])
        assert window.count().predictions.keys() == expected


@pytest.mark.parametrize(
    "array",
    [np.array([1.5, 2.5]), np.array([1, 2]), np.array([True, False]), np.array(["cat", "dog"], object)],
)
def test_anything_else_is_the_value(array: np.ndarray) -> None:
    for each in (array, array[:, None]):
        found = decisions(result(first=each, second=np.zeros((2, 7))))
        assert found is not None
        assert found.tolist() == array.tolist()


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3, 4)), np.zeros((2, 3), np.int64), np.array([["a", "b"]], object), np.array(1.0)]
)
def test_some_outputs_are_no_decision(array: np.ndarray) -> None:
    assert decisions(result(first=array)) is None
    assert decisions(result()) is None


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (7, "=7"),
        (np.int64(-7), "=-7"),
        (np.bool_(True), "=1"),
        ("cat", "#936"),
        (b"cat", "#936"),
        ("\ud800", "#1320"),
        (CLASSES // 2 - 1, "=2047"),
        (CLASSES // 2, key(float(CLASSES // 2))),
        (10**400, key(NUMBER_LARGEST)),
        (-(10**400), key(-NUMBER_LARGEST)),
        (1e300, key(NUMBER_LARGEST)),
        (0.0, "~0"),
        (-0.0, "~0"),
        (1e-12, "~0"),
        (math.nan, "?"),
        (np.float32("inf"), "?"),
        ([1], "?"),
        ({}, "?"),
        (None, "?"),
        (np.datetime64("2024-01-01"), "?"),
    ],
)
def test_keys(decision: object, expected: str) -> None:
    assert key(decision) == expected


@given(st.floats(1e-8, 9e11), st.floats(1e-8, 9e11))
def test_numbers_keep_their_order_and_their_sign(one: float, other: float) -> None:
    low, high = sorted((one, other))
    first, second = (int(key(value)[1:]) for value in (low, high))
    assert 0 < first <= second
    assert int(key(-low)[1:]) == -first
    if high > low * NUMBER_RATIO**2:
        assert first < second
    if high < low * (NUMBER_RATIO - 1e-9):
        assert second - first <= 1


def test_one_row_of_each_answer_is_counted() -> None:
    window = Window("w", predictions=True)
    for _ in range(200):
        window.predicted(result(first=np.array([1, 1, 1, 2])))
    counts = window.count().predictions
    assert counts.keys() == {"=1", "=2"}
    assert sum(counts.values()) == 200
    assert 110 < counts["=1"] < 190


async def test_what_is_asked_of_a_version_by_name_is_not_counted() -> None:
    """Testers ask for what they like: it is no sample of what everybody asks."""
    scene = Scene()
    window = scene.live.window = Window("w", predictions=True)
    for headers in ({}, {"x_rayfleet_model_version": "1"}, {"x_rayfleet_model_version": "1"}):
        await scene.ask([[1.0, 2.0]], **headers)
    for path in ("/v2/models/digits/infer", *["/v2/models/digits/versions/1/infer"] * 4):
        await scene.post(path, V2)
    assert sum(window.count().predictions.values()) == 2


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3, 4)),
        np.zeros((2, 3), np.int64),
        np.array([[1], {}], object),
        np.array([None, None]),
        np.array([math.nan]),
    ],
)
def test_what_has_no_name_is_counted_as_that(array: np.ndarray) -> None:
    window = Window("w", predictions=True)
    window.predicted(result(first=array))
    assert window.count().predictions == {"?": 1}


@pytest.mark.parametrize("outputs", [{}, {"first": np.array([], np.float32)}, {"first": np.zeros((0, 3))}])
def test_an_answer_without_rows_is_one_without_a_name(outputs: dict[str, np.ndarray]) -> None:
    """A version that answers so most of the time is not judged by the rest."""
    window = Window("w", predictions=True)
    window.predicted(result(**outputs))
    assert window.count().predictions == {"?": 1}


def test_a_version_that_mostly_answers_null_does_not_pass() -> None:
    """It is not judged by the few answers that have a name."""
    spec = Analysis.model_validate({"predictions": {"maxDistance": 0.2}, "minRequests": 100})
    stable = Window("w", predictions=True)
    candidate = Window("w", predictions=True)
    for number in range(2000):
        stable.predicted(result(first=np.array([number % 2], object)))
        candidate.predicted(result(first=np.array([None if number % 20 > 1 else number % 2], object)))
    verdict = judge(spec, Count.of([candidate.count()]), Count.of([stable.count()]))
    assert verdict.outcome == Outcome.FAIL


def test_without_being_asked_it_counts_none() -> None:
    window = Window("w")
    window.predicted(result(first=np.array([1])))
    assert window.count().predictions == {}
    assert "predictions" not in window.count().model_dump(), "an older operator knows no such field"


def counted(predictions: Iterable[object]) -> dict[str, int]:
    window = Window("w", predictions=True)
    for each in predictions:
        window.predicted(result(first=np.array([each], object)))
    return window.count().predictions


def test_no_text_is_told() -> None:
    assert not any("secret" in each for each in counted(["a secret", "secret", b"secret"]))


@pytest.mark.parametrize(
    "draw",
    [
        lambda chance: f"customer {chance.randrange(10**6)}",
        lambda chance: chance.randrange(10**6),
        lambda chance: chance.gauss(0, 1e6),
        lambda chance: chance.choice("abcdefghij"),
    ],
    ids=["texts", "whole numbers", "numbers", "classes"],
)
def test_two_that_predict_alike_are_never_found_apart(draw: Callable[[random.Random], object]) -> None:
    """However many different predictions there are, and with one of them asked nine times as often as the other."""
    chance = random.Random(7)
    for _ in range(20):
        few, many = (counted(draw(chance) for _ in range(n)) for n in (300, 2700))
        found = between(few, many)
        assert found is not None
        assert found.estimate < 0.1
        assert found.surely < 0.0


def test_there_is_an_end_to_different_ones() -> None:
    chance = random.Random(7)
    texts = counted(str(n) for n in range(20_000))
    assert len(texts) <= CLASSES
    assert len(counted(chance.choice([-1, 1]) * math.exp(chance.uniform(-700, 700)) for _ in range(20_000))) < 2 * 1000
