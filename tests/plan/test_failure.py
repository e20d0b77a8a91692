"""What a person reads of Serve's messages."""

from __future__ import annotations

import pytest

from rayfleet_operator.plan.failure import MAX_CHARACTERS, cause

TRACEBACK = 'Traceback (most recent call last):\n  File "/model/app.py", line 7, in __init__\n    load()\n'


@pytest.mark.parametrize("before", ["", TRACEBACK], ids=["last lines", "exception"])
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("ValueError: \x1b[31mno\x1b[0m weights", "ValueError: no weights"),
        ("ValueError: \x1b]52;c;cm0=\x07", r"ValueError: \x1b]52;c;cm0=\x07"),
        ("ValueError: \x1b[2J\x9b2J", r"ValueError: \x1b[2J\x9b2J"),
        ("ValueError: \u202egnorw \ud800", r"ValueError: \u202egnorw \ud800"),
        ("ValueError: größer\n\tals 1 \u2713", "ValueError: größer\n als 1 \u2713"),
    ],
    ids=["colours", "clipboard", "empty screen", "other direction", "lines and a tab"],
)
def test_a_terminal_obeys_nothing_of_it(before: str, said: str, shown: str) -> None:
    assert cause(before + said) == shown


@pytest.mark.parametrize("character", ["a", "\x1b"])
def test_it_is_short(character: str) -> None:
    text = cause("ValueError: " + character * 100_000)
    assert len(text) == MAX_CHARACTERS
    assert text.endswith("…")
