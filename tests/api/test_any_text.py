"""Whatever stands in a file: it is loaded or told, and soon."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayfleet_operator.api import documents

from .cases import CASES
from .texts import load


def work(folder: Path, text: str) -> int:
    """Lines of Python that run in this package to load the text: unlike the time, the same on every machine."""
    package = str(Path(documents.__file__).parent)
    count = 0

    def inside(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        count += event == "line"
        return inside

    def called(frame: FrameType, event: str, arg: object) -> Any:
        return inside if frame.f_code.co_filename.startswith(package) else None

    before = sys.gettrace()
    sys.settrace(called)
    try:
        load(folder, text)
    finally:
        sys.settrace(before)
    return count


def test_a_list_four_times_as_long_is_four_times_the_work(tmp_path: Path) -> None:
    item = "- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b, c: d, e: f, g: h}}\n"
    some, more = (work(tmp_path, f"apiVersion: v1\nkind: List\nitems:\n{item * count}") for count in (50, 200))
    assert more < 5 * some


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(["1", "5ms", "4Gi", "models:/m/1"])
)
FIELDS = st.sampled_from(
    sorted(
        {step for case in CASES for step in (case.refused_at or "").split(".") if step.isalnum()}
        | {"name", "namespace", "kind", "items", "1", "a.b", "", "ü"}
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(FIELDS, inner, max_size=5)),
    max_leaves=30,
)
OBJECTS = st.fixed_dictionaries(
    {
        "apiVersion": st.one_of(st.just("rayfleet.io/v1alpha1"), VALUES),
        "kind": st.one_of(st.sampled_from(["ModelDeployment", "ModelFleet"]), VALUES),
    },
    optional={"metadata": VALUES, "spec": VALUES, "status": VALUES},
)
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)


@FUZZ
@given(st.one_of(VALUES, OBJECTS))
def test_any_value_is_loaded_or_told(tmp_path: Path, value: Any) -> None:
    loaded = load(tmp_path, yaml.safe_dump(value, allow_unicode=True).encode(errors="replace"))
    assert all(str(problem).isprintable() for problem in loaded.problems)
    if isinstance(value, dict) and value.get("apiVersion") == "rayfleet.io/v1alpha1":
        assert loaded.problems or loaded.models or loaded.fleets


MARKS = st.text(alphabet="ab:-&*[]{}!|>\"'#%@`\n\t \\?,\ud7ff\u2028", max_size=80).map(str.encode)


@FUZZ
@given(st.one_of(st.binary(), MARKS))
def test_any_bytes_are_loaded_or_told(tmp_path: Path, data: bytes) -> None:
    loaded = load(tmp_path, data)
    assert all(str(problem).isprintable() for problem in loaded.problems)
