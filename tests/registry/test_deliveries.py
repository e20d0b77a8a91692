"""Which deliveries are MLflow's, and which have been here before."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities.webhook import WebhookEvent
from mlflow.webhooks.delivery import _generate_hmac_signature
from mlflow.webhooks.types import get_example_payload_for_event

from rayfleet_operator.registry import deliveries
from rayfleet_operator.registry.deliveries import Delivery, Malformed, Refused, Replayed, Seen, Stale, WrongSignature

NOW = 1_800_000_000
KEY = b"a key of ours"
EVENTS = [
    "registered_model.created",
    "model_version.created",
    "model_version_tag.set",
    "model_version_tag.deleted",
    "model_version_alias.created",
    "model_version_alias.deleted",
]


def signed(body: str = "{}", *, at: float = NOW, key: str = KEY.decode(), name: str = "d-1") -> Delivery:
    """By MLflow itself."""
    timestamp = f"{at:.0f}"
    return Delivery(name, timestamp, _generate_hmac_signature(key, name, timestamp, body), body.encode())


def event(name: object, **more: object) -> str:
    return json.dumps({"entity": "model_version_alias", "action": "created", "data": {"name": name}, **more})


@given(key=st.text(min_size=1), body=st.text(), at=st.integers(NOW - 300, NOW + 300))
def test_what_mlflow_signs_is_right(key: str, body: str, at: int) -> None:
    try:
        found = signed(body, at=at, key=key)
    except UnicodeEncodeError:
        return  # lone surrogates, which MLflow cannot sign either
    assert deliveries.verify(found, [b"another", key.encode()], NOW) == at


@given(
    field=st.sampled_from(["id", "timestamp", "signature"]),
    text=st.text(alphabet=st.characters(codec="latin-1") | st.sampled_from("\udcff\udc80"), max_size=60),
)
def test_another_header_is_a_wrong_signature(field: str, text: str) -> None:
    before = signed(event("digits"))
    changed = replace(before, **{field: text})
    if changed != before:
        with pytest.raises(WrongSignature):
            deliveries.verify(changed, [KEY], NOW)


@given(body=st.binary(max_size=200))
def test_another_body_is_a_wrong_signature(body: bytes) -> None:
    before = signed(event("digits"))
    if body != before.body:
        with pytest.raises(WrongSignature):
            deliveries.verify(replace(before, body=body), [KEY], NOW)


@pytest.mark.parametrize("keys", [[], [b"another"], [KEY + b"\n"], [KEY[:-1]], [b""]])
def test_another_key_is_a_wrong_signature(keys: list[bytes]) -> None:
    with pytest.raises(WrongSignature):
        deliveries.verify(signed(), keys, NOW)


def test_headers_are_found_in_any_case_and_may_be_missing() -> None:
    assert Delivery.of({}, b"") == Delivery("", "", "", b"")
    with pytest.raises(WrongSignature):
        deliveries.verify(Delivery.of({}, b""), [KEY], NOW)


@pytest.mark.parametrize(("at", "taken"), [(-300, True), (300, True), (-301, False), (301, False), (-NOW, False)])
def test_who_signed_it_five_minutes_from_now_is_too_far_away(at: int, taken: bool) -> None:
    delivery = signed(at=NOW + at)
    if taken:
        assert deliveries.verify(delivery, [KEY], NOW) == NOW + at
    else:
        with pytest.raises(Stale, match="may be between them"):
            deliveries.verify(delivery, [KEY], NOW)


@pytest.mark.parametrize(
    ("name", "timestamp"),
    [
        ("", "1"),
        ("a.1", "2"),
        ("a" * 129, "1"),
        ("a b", "1"),
        ("a", ""),
        ("a", "1.5"),
        ("a", "-1"),
        ("a", "\u0661"),
        ("a", "9" * 16),
    ],
)
def test_what_is_signed_and_not_in_mlflows_form_is_refused(name: str, timestamp: str) -> None:
    delivery = Delivery(name, timestamp, deliveries.signature(KEY, name, timestamp, b"{}"), b"{}")
    with pytest.raises(Malformed):
        deliveries.verify(delivery, [KEY], NOW)


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_of_a_model_names_it(name: str) -> None:
    kind = WebhookEvent.from_str(name)
    payload = get_example_payload_for_event(kind)
    body = {"entity": kind.entity.value, "action": kind.action.value, "timestamp": "2026", "data": payload}
    assert deliveries.model(json.dumps(body).encode()) == "example_model"


@pytest.mark.parametrize("name", ["digits", "a b", "naïve ☃", "@", ""])
def test_a_name_is_taken_as_it_is(name: str) -> None:
    assert deliveries.model(event(name).encode()) == name


def test_an_event_about_something_else_names_no_model() -> None:
    assert deliveries.model(b'{"entity": "budget_policy", "action": "exceeded", "data": {"spent": 1}}') is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"models"',
        b"{}",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"1" * 5_000,
        b'{"entity": "m", "action": "a"}',
        b'{"entity": "m", "action": "a", "data": []}',
        b'{"entity": 1, "action": "a", "data": {}}',
        b'{"entity": "m", "action": null, "data": {"name": "x"}}',
        b'{"entity": "m", "action": "a", "data": {"name": 7}}',
        b'{"entity": "m", "action": "a", "data": {"name": "secret"}',
    ],
)
def test_what_is_no_event_is_malformed_and_not_quoted(body: bytes) -> None:
    with pytest.raises(Malformed) as refusal:
        deliveries.model(body)
    assert refusal.value.__cause__ is None
    assert "secret" not in str(refusal.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_malformed(body: bytes) -> None:
    with contextlib.suppress(Malformed):
        deliveries.model(body)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", ()),
        (b"\n\r\n", ()),
        (b"one", (b"one",)),
        (b"one\n", (b"one",)),
        (b"new\r\nold\r\n", (b"new", b"old")),
        (b" spaces stay \n", (b" spaces stay ",)),
    ],
)
def test_keys_are_lines(text: bytes, found: tuple[bytes, ...]) -> None:
    assert deliveries.keys(text) == found


def test_what_was_taken_is_not_taken_again() -> None:
    seen = Seen()
    seen.take("a", NOW, NOW)
    seen.take("b", NOW, NOW)
    for now in (NOW, NOW + 299, NOW + 300):
        with pytest.raises(Replayed):
            seen.take("a", NOW, now)


def test_what_is_too_old_to_be_shown_again_is_forgotten() -> None:
    seen = Seen()
    for second in range(2000):
        seen.take(f"d-{second}", NOW + second, NOW + second)
    assert len(seen) == 301


def test_memory_is_bounded_and_nothing_is_taken_twice_for_that() -> None:
    seen = Seen(most=10)
    for number in range(100):
        seen.take(f"d-{number}", NOW + number, NOW + 100)
        assert len(seen) <= 10
    for number in range(100):
        with pytest.raises((Replayed, Stale)):
            seen.take(f"d-{number}", NOW + number, NOW + 100)


def test_a_clock_that_is_set_back_brings_nothing_back() -> None:
    seen = Seen()
    seen.take("a", NOW, NOW)
    seen.take("b", NOW + 1000, NOW + 1000)
    with pytest.raises(Stale):
        seen.take("a", NOW, NOW)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(-300, 300), st.integers(-50, 200)), max_size=80),
    st.integers(1, 8),
)
def test_whatever_comes_is_taken_once_at_most(story: list[tuple[int, int, int]], most: int) -> None:
    """Each delivery is signed at one time, and the clock goes as it likes."""
    seen, now, signed_at = Seen(most), NOW, dict[int, int]()
    taken: set[int] = set()
    for name, off, passed in story:
        now += passed
        at = signed_at.setdefault(name, now + off)
        if abs(now - at) > deliveries.WINDOW_S:
            continue
        try:
            seen.take(f"d-{name}", at, now)
        except Refused:
            continue
        assert name not in taken
        taken.add(name)
        assert len(seen) <= most
