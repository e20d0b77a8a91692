"""What differs between two objects, and each difference made alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.render.changes import ABSENT, applied, changes, same

A, B = {"name": "a", "cpu": 1}, {"name": "b", "cpu": 1}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {}, []),
        ({"spec": {"image": "1"}}, {"spec": {"image": "2"}}, [("spec.image", "1", "2")]),
        ({"a": 1}, {"b": 1}, [("b", ABSENT, 1), ("a", 1, ABSENT)]),
        ({"a": None}, {}, [("a", None, ABSENT)]),
        ({"a": 1}, {"a": True}, [("a", 1, True)]),
        ({"a": 1}, {"a": "1"}, [("a", 1, "1")]),
        ({"g": [A, B]}, {"g": [A, {**B, "cpu": 2}]}, [("g[b].cpu", 1, 2)]),
        ({"g": [A]}, {"g": [A, B]}, [("g[b]", ABSENT, B)]),
        ({"g": [A, B]}, {"g": [B]}, [("g[a]", A, ABSENT)]),
        ({"g": [A, B]}, {"g": [B, A]}, [("g", [A, B], [B, A])]),
        ({"g": [A, B]}, {"g": [B, {"name": "c"}, A]}, [("g[c]", ABSENT, {"name": "c"}), ("g", [A, B], ...)]),
        ({"l": [1, 2]}, {"l": [1, 3]}, [("l", [1, 2], [1, 3])]),
        ({"l": [1, 2]}, {"l": [1]}, [("l", [1, 2], [1])]),
        ({"l": [{"p": 1}, {"p": 2}]}, {"l": [{"p": 1}, {"p": 3}]}, [("l[1].p", 2, 3)]),
        ({"l": [A, A]}, {"l": [A, B]}, [("l[1].name", "a", "b")]),
        ({"l": {}}, {"l": []}, [("l", {}, [])]),
        ({"l": [{"name": 3}]}, {"l": [{"name": [4]}]}, [("l[0].name", 3, [4])]),
        ({"n": {"kubernetes.io/arch": "a"}}, {"n": {}}, [('n["kubernetes.io/arch"]', "a", ABSENT)]),
        ({"n": {"\x1b[2J": "a"}}, {"n": {}}, [("n['\\x1b[2J']", "a", ABSENT)]),
    ],
)
def test_each_difference_is_told_with_its_path(before: Any, after: Any, told: list[tuple[str, Any, Any]]) -> None:
    found = changes(before, after)
    assert [each.where for each in found] == [where for where, _, _ in told]
    for each, (_, old, new) in zip(found, told, strict=True):
        assert each.before is old or same(each.before, old)
        assert new is ... or each.after is new or same(each.after, new)


names = st.sampled_from(["a", "b", "c"])
scalars = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "x"])
trees = st.recursive(
    scalars,
    lambda inner: (
        st.dictionaries(names, inner, max_size=3)
        | st.lists(inner, max_size=3)
        | st.lists(st.fixed_dictionaries({"name": names}, optional={"v": inner}), max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(names, trees, max_size=3), st.dictionaries(names, trees, max_size=3))
def test_there_is_no_difference_exactly_where_both_are_the_same(before: Any, after: Any) -> None:
    found = changes(before, after)
    assert (not found) == same(before, after)
    for each in found:
        # Alone, a change brings the two no further apart.
        assert each.where not in {other.where for other in changes(applied(before, each), after) if not other.order}
