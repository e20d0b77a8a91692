"""Who asks, and which version answers him."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from rayfleet_serving.config import Sticky
from rayfleet_serving.router.sticky import caller, choose

CALLERS = [f"user-{number}".encode() for number in range(5000)]


def share(weight: int, salt: str = "digits-new") -> dict[bytes, str]:
    return {who: choose(who, salt, [("new", weight), ("old", 100 - weight)]) for who in CALLERS}


def test_whoever_has_the_candidate_keeps_it_while_its_weight_grows() -> None:
    before: set[bytes] = set()
    for weight in (1, 10, 50, 99, 100):
        now = {who for who, version in share(weight).items() if version == "new"}
        assert before <= now
        before = now
    assert len(before) == len(CALLERS)


@pytest.mark.parametrize("weight", [1, 10, 50, 90])
def test_the_callers_are_divided_by_weight(weight: int) -> None:
    new = sum(version == "new" for version in share(weight).values())
    assert binomtest(new, len(CALLERS), weight / 100).pvalue > 0.001


def test_it_is_not_always_the_same_callers_who_come_first() -> None:
    one, two = share(10, "digits-a"), share(10, "digits-b")
    both = sum(one[who] == two[who] == "new" for who in CALLERS)
    assert both < 0.03 * len(CALLERS)


@pytest.mark.parametrize(
    ("sticky", "headers", "who"),
    [
        (Sticky(header="x-user"), {b"x-user": b"ann"}, b"ann"),
        (Sticky(header="x-user"), {b"x-other": b"ann"}, None),
        (Sticky(header="x-user"), {b"x-user": b""}, None),
        (Sticky(cookie="id"), {b"cookie": b"a=1; id=ann; b=2"}, b"ann"),
        (Sticky(cookie="id"), {b"cookie": b"id=ann"}, b"ann"),
        (Sticky(cookie="id"), {b"cookie": b"id=a=b"}, b"a=b"),
        (Sticky(cookie="id"), {b"cookie": b"xid=ann; id"}, None),
        (Sticky(cookie="id"), {b"cookie": b"id="}, None),
        (Sticky(cookie="id"), {b"cookie": b";;=;\xff"}, None),
        (Sticky(cookie="id"), {}, None),
    ],
)
def test_the_caller_is_what_header_or_cookie_say(
    sticky: Sticky, headers: dict[bytes, bytes], who: bytes | None
) -> None:
    assert caller(sticky, headers) == who
