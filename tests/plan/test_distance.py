"""How far predictions lie apart, and what of that may be chance."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_operator.plan import distance
from rayfleet_serving.router.decisions import key

Draw = Callable[[random.Random], object]


def ten_classes(chance: random.Random) -> int:
    return chance.randrange(10)


def normal(chance: random.Random) -> float:
    return chance.gauss(100, 20)


def drawn(draw: Draw, times: int, chance: random.Random) -> Mapping[str, int]:
    return Counter(key(draw(chance)) for _ in range(times))


COUNTS = st.dictionaries(
    st.sampled_from([*(f"={n}" for n in range(40)), *(f"~{n}" for n in range(-30, 30)), "?", "="]),
    st.integers(1, 50),
    min_size=1,
)


@given(COUNTS, COUNTS)
def test_it_is_the_same_both_ways_and_within_its_bounds(one: dict[str, int], other: dict[str, int]) -> None:
    found, back = distance.between(one, other), distance.between(other, one)
    assert found is not None
    assert back is not None
    assert (found.estimate, found.surely) == pytest.approx((back.estimate, back.surely))
    assert 0 <= found.estimate <= 1
    assert found.surely < found.estimate or found.estimate == 0


@given(COUNTS)
def test_what_is_alike_has_no_distance(one: dict[str, int]) -> None:
    found = distance.between(one, one)
    assert found is not None
    assert found.estimate == 0
    assert found.surely < 0


@given(st.lists(st.integers(-3000, 3000), min_size=1), st.lists(st.integers(-3000, 3000), min_size=1))
def test_whole_numbers_and_the_same_as_floats_are_the_same(one: list[int], other: list[int]) -> None:
    """A model that is exported anew may answer float64 where it answered int64."""

    def keys(numbers: list[int], kind: type[int | float]) -> Counter[str]:
        return Counter(key(kind(number)) for number in numbers)

    floats = distance.between(keys(one, float), keys(other, float))
    assert distance.between(keys(one, int), keys(other, float)) == floats
    assert distance.between(keys(one, float), keys(other, int)) == floats


@pytest.mark.parametrize("stray", [0.5, 5000])
def test_one_prediction_of_another_kind_makes_numbers_of_no_classes(stray: float) -> None:
    """Classes that are neighbours as numbers would no longer be told apart."""
    stable = Counter({f"={number}": 50 for number in range(100, 140)}) + Counter([key(stray)])
    candidate = Counter({f"={number}": 100 for number in range(101, 140, 2)})
    for one, other in ((candidate, stable), (candidate + Counter([key(stray)]), stable)):
        found = distance.between(one, other)
        assert found is not None
        assert found.surely > 0.3


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_classes_as_floats_are_hardly_ever_far_away(classes: int) -> None:
    chance = random.Random(9)
    for _ in range(100):
        whole = drawn(labels(classes), 500, chance)
        found = distance.between(whole, drawn(lambda chance: float(chance.randrange(classes)), 4500, chance))
        assert found is not None
        assert found.estimate <= 0.1
        assert found.surely < 0


def test_classes_as_floats_that_are_others_are_far_away() -> None:
    chance = random.Random(10)
    found = distance.between(drawn(labels(10), 500, chance), {key(3.0): 100})
    assert found is not None
    assert found.surely > 0.2


def test_what_looks_like_no_number_stays_what_it_is() -> None:
    """Routers of another version may know other keys."""
    found = distance.between({"=": 50, "=a": 50, "?": 50, "#1": 50}, {"~7": 200})
    assert found is not None
    assert found.estimate > 0.9


def test_nothing_is_said_without_predictions() -> None:
    assert distance.between({}, {"=1": 3}) is None
    assert distance.between({"=1": 3}, {}) is None


@pytest.mark.parametrize("draw", [ten_classes, normal])
@pytest.mark.parametrize(("n", "m"), [(20, 180), (100, 100), (500, 4500)])
def test_the_same_model_is_hardly_ever_far_away(draw: Draw, n: int, m: int) -> None:
    chance = random.Random(0)
    found = [distance.between(drawn(draw, n, chance), drawn(draw, m, chance)) for _ in range(300)]
    assert max(each.surely for each in found if each) < 0.05
    near = sum(each.estimate <= 0.1 for each in found if each)
    assert near >= 0.95 * len(found) if n >= 100 else near > 0.5 * len(found)


def test_one_class_for_everything_is_certain_after_a_few_dozen() -> None:
    chance = random.Random(1)
    certain = [
        n
        for n in range(10, 60, 5)
        if (found := distance.between({"=3": n}, drawn(ten_classes, 9 * n, chance))) and found.surely > 0.2
    ]
    assert certain[0] <= 30
    assert certain == list(range(certain[0], 60, 5)), "more requests make it no less certain"


@pytest.mark.parametrize("factor", [0.5, 1.5, -1.0])
def test_numbers_that_are_others_are_far_away(factor: float) -> None:
    chance = random.Random(2)
    other = drawn(lambda chance: factor * normal(chance), 300, chance)
    found = distance.between(drawn(normal, 300, chance), other)
    assert found is not None
    assert found.surely > 0.2


def test_the_estimate_is_the_total_variation() -> None:
    chance = random.Random(3)
    p, q = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    drawn_p = Counter(f"={n}" for n in chance.choices(range(4), p, k=20_000))
    drawn_q = Counter(f"={n}" for n in chance.choices(range(4), q, k=20_000))
    found = distance.between(drawn_p, drawn_q)
    assert found is not None
    assert found.estimate == pytest.approx(np.abs(p - q).sum() / 2, abs=0.02)
    assert found.surely < 0.4


@pytest.mark.parametrize(("share", "n", "m"), [(0.99, 200, 1800), (0.5, 200, 1800), (0.9, 50, 450)])
def test_what_chance_brings_is_told_as_it_is(share: float, n: int, m: int) -> None:
    """Of two classes, one of which may be nearly everything."""
    chance = random.Random(8)

    def draw(chance: random.Random) -> int:
        return int(chance.random() < share)

    found = [distance.between(drawn(draw, n, chance), drawn(draw, m, chance)) for _ in range(400)]
    told = sum(each.chance for each in found if each) / len(found)
    really = math.sqrt(2 / math.pi * share * (1 - share) * (1 / n + 1 / m))
    assert told == pytest.approx(really, rel=0.15)


def test_a_thousand_labels_that_are_rare_are_no_thousand_differences() -> None:
    chance = random.Random(4)
    for _ in range(20):
        found = distance.between(drawn(labels(1000), 500, chance), drawn(labels(1000), 500, chance))
        assert found is not None
        assert found.estimate < 0.1
        assert found.surely < 0


@pytest.mark.parametrize("classes", [60, 200, 1000])
def test_many_classes_that_are_others_are_far_away(classes: int) -> None:
    """Of as many predictions as a step at 10 % sees of both versions."""
    chance = random.Random(5)
    other = drawn(labels(classes, first=classes), 18_000, chance)
    found = distance.between(drawn(labels(classes), 2000, chance), other)
    assert found is not None
    assert found.estimate > 0.6
    assert found.surely > 0.5


@pytest.mark.parametrize("n", [200, 2000, 20_000])
def test_half_of_a_thousand_classes_is_found_far_from_all_of_them_or_chance_is_said_to_be_as_large(n: int) -> None:
    chance = random.Random(6)
    found = distance.between(drawn(labels(500), n, chance), drawn(labels(1000), 9 * n, chance))
    assert found is not None
    assert found.estimate <= 0.52
    assert found.estimate > 0.25 or found.chance > 0.25


def labels(number: int, first: int = 0) -> Draw:
    return lambda chance: first + chance.randrange(number)
