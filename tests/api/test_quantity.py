"""Durations and quantities are the numbers that Go and apimachinery make of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rayfleet_operator.api import forms, quantity
from rayfleet_operator.api.fleet import Routers
from rayfleet_operator.api.types import Batching, Limits, Registry, Resources


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5ms", 0.005),
        ("1m30s", 90),
        ("1.5h", 5400),
        ("0s", 0),
        ("250us", 0.00025),
        ("10ns", 1e-8),
        ("1.0000000019s", 1.000000001),
        ("0.9ns0.9ns", 0),
        ("0.00000000001h", 3.6e-8),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert quantity.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1d", "1 s", "1s\n", "1,5s", ".5s", "1e3s", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write it like 30s"):
        quantity.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", "1"), ("0.33", "0.33"), ("500m", "0.5"), ("4Gi", str(4 * 2**30)), ("4G", "4e9"), ("1.5Ki", "1536"),
     ("1e3", "1000"), ("1E3", "1000"), ("1E", "1e18"), (".5", "0.5"), ("5.", "5"), ("100n", "1e-7")],
)  # fmt: skip
def test_quantities(text: str, value: str) -> None:
    assert quantity.parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "Gi", "4GB", "4 Gi", "-1", "1ki", "1e", "0x10", "1\n", "1_000", "NaN"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity; write it like"):
        quantity.parse_quantity(text)


def test_fractions_of_a_byte_round_up() -> None:
    assert quantity.parse_bytes("1.0001Ki") == 1025


def test_the_types_give_numbers() -> None:
    assert Registry(poll_interval="1m30s").poll_interval_seconds == 90
    assert Batching(max_wait="5ms").max_wait_seconds == 0.005
    limits = Limits(request_timeout="1.5s", max_request_bytes="1Mi")
    assert (limits.request_timeout_seconds, limits.max_request_size) == (1.5, 2**20)
    resources = Resources(cpu="500m", memory="4Gi", gpu="0.33", gpu_memory="6G")
    assert (resources.cpu_count, resources.memory_bytes) == (0.5, 2**32)
    assert (resources.gpu_count, resources.gpu_memory_bytes) == (0.33, 6 * 10**9)
    nothing = Resources()
    assert (nothing.memory_bytes, nothing.gpu_count, nothing.gpu_memory_bytes) == (None, 0, None)
    assert Routers(cpu="2").cpu_count == 2


def accepts(form: forms.Form, value: object) -> bool:
    try:
        TypeAdapter(Annotated[str, form]).validate_python(value)
    except ValidationError:
        return False
    return True


SUFFIXES = st.sampled_from(["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"])
NUMBERS = st.one_of(
    st.integers(0, 2000).map(str),
    st.integers(0, 10**14).map(str),
    st.decimals(0, 2000, places=3, allow_nan=False).map(str),
)


@pytest.mark.parametrize(
    ("form", "low", "high"),
    [(forms.memory(), 10**6, 10 * 2**40), (forms.request_size(), 2**10, 2**30)],
    ids=["memory", "request size"],
)
def test_patterns_of_sizes_keep_to_their_bounds(form: forms.Form, low: int, high: int) -> None:
    """The expression says in digits what the bounds say in bytes: nothing outside is accepted."""

    @given(NUMBERS, SUFFIXES)
    def holds(number: str, suffix: str) -> None:
        if accepts(form, number + suffix):
            assert low <= quantity.parse_bytes(number + suffix) <= high

    holds()


@given(st.integers(1, 1024), st.sampled_from(["Ki", "Mi", "Gi"]))
def test_whole_sizes_within_the_bounds_are_accepted(number: int, suffix: str) -> None:
    size = quantity.parse_bytes(f"{number}{suffix}")
    assert accepts(forms.request_size(), f"{number}{suffix}") == (size <= 2**30)
    assert accepts(forms.memory(), f"{number}{suffix}") == (size >= 10**6)
    assert accepts(forms.memory(), size) == (size >= 10**6)


@given(st.decimals(0, 1200, places=4, allow_nan=False))
def test_counts_keep_to_their_bounds(number: Decimal) -> None:
    assert accepts(forms.cpus(), str(number)) == (0 < number < 1000)
    assert accepts(forms.gpus(), str(number)) == (0 < number < 1)
