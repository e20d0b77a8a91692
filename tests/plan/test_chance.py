"""The binomial tail against a sum that anybody can check, and what follows from it."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfleet_operator.plan import chance


def summed(k: int, n: int, p: float) -> float:
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.001, 0.999))
def test_the_tail_is_the_sum_of_its_terms(k: int, n: int, p: float) -> None:
    k = min(k, n)
    assert chance.at_least(k, n, p) == pytest.approx(summed(k, n, p), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("k", "n", "p", "tail"), [(0, 0, 0.5, 1), (1, 5, 0, 0), (0, 5, 0, 1), (5, 5, 1, 1)])
def test_the_ends_are_exact(k: int, n: int, p: float, tail: float) -> None:
    assert chance.at_least(k, n, p) == tail


@pytest.mark.parametrize(("k", "n", "p"), [(-1, 5, 0.5), (6, 5, 0.5), (1, 5, 1.1)])
def test_there_is_no_such_tail(k: int, n: int, p: float) -> None:
    with pytest.raises(ValueError, match="no such tail"):
        chance.at_least(k, n, p)


def test_a_million_requests_are_no_trouble() -> None:
    assert chance.at_least(10_300, 10**6, 0.01) == pytest.approx(0.00134, rel=0.05)
    assert not chance.too_many(10_300, 10**6, 0.01)
    assert chance.too_many(10_400, 10**6, 0.01)


@pytest.mark.parametrize(("share", "allowed", "least"), [(0.05, 0.01, 434), (0.5, 0.01, 13), (0.02, 0.01, 4112)])
def test_so_many_requests_show_a_difference(share: float, allowed: float, least: int) -> None:
    n = chance.requests_needed(share, allowed)
    assert n == pytest.approx(least, rel=0.02)
    source = random.Random(1)
    found = sum(chance.too_many(sum(source.random() < share for _ in range(n)), n, allowed) for _ in range(400))
    assert 0.91 <= found / 400 <= 0.99


def test_a_version_that_is_just_allowed_is_hardly_ever_found_bad() -> None:
    """Looked at after every request of a long step."""
    source, wrong = random.Random(2), 0
    for _ in range(200):
        bad = 0
        for n in range(1, 1001):
            bad += source.random() < 0.01
            if chance.too_many(bad, n, 0.01):
                wrong += 1
                break
    assert wrong <= 2
