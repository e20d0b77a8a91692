"""Every rule holds in both places: `rayfleet validate` and the API server refuse the same objects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rayfleet_operator.api import documents
from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.patterns import MODEL_URI
from rayfleet_operator.api.types import Model
from rayfleet_operator.registry import uri

from . import api_server
from .cases import CASES, FLEETS, MODELS, Case, merged, same_field


@pytest.mark.parametrize("case", CASES, ids=str)
def test_validate_refuses_exactly_the_field_at_fault(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "case.yaml"
    file.write_text(json.dumps(case.obj))
    loaded = documents.load([file])
    assert [problem.field for problem in loaded.problems] == ([case.refused_at] if case.refused_at else [])
    assert all(problem.message and problem.right for problem in loaded.problems)
    assert len(loaded.models) + len(loaded.fleets) == (0 if case.refused_at else 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_api_server_refuses_the_same_field(case: Case) -> None:
    paths = {refusal.path for refusal in api_server.refusals(case.obj)}
    assert bool(paths) == (case.refused_at is not None)
    assert all(same_field(path, case.refused_at or "") for path in paths)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from([MODELS, FLEETS]).flatmap(lambda cases: st.lists(st.sampled_from(cases), min_size=2, max_size=6))
)
def test_both_agree_on_any_mixture(tmp_path: Path, cases: list[Case]) -> None:
    """Which fields they name may differ: the API server checks rules only when the schema holds, and validate does not
    blame a field for another that is wrong itself."""
    obj: Any = {}
    for case in cases:
        obj = merged(obj, case.obj)
    file = tmp_path / "case.yaml"
    file.write_text(json.dumps(obj))
    told = {problem.field for problem in documents.load([file]).problems}
    refused = {refusal.path for refusal in api_server.refusals(obj)}
    assert bool(refused) == bool(told)
    assert not told or any(same_field(path, field) for path in refused for field in told)


@given(st.from_regex(re.compile(MODEL_URI, re.ASCII), fullmatch=True, alphabet=st.characters(codec="utf-8")))
@example("models:/\u00a0/1")
@example("/\u3000")
@example("s3://a/\u00ad")
def test_the_registry_can_read_every_uri_that_is_valid(text: str) -> None:
    try:
        model = Model(uri=text)
    except ValidationError:
        reject()
    uri.parse(model.uri)


@pytest.mark.parametrize(("maps", "taken"), [(10, True), (61, True), (62, False), (9_000, False)])
def test_a_template_is_no_deeper_than_anybody_can_use(maps: int, taken: bool) -> None:
    """The API server takes any depth that it can read."""
    deep: Any = 1
    for _ in range(maps):
        deep = {"a": deep}
    try:
        ModelFleetSpec.model_validate({"head": {"template": {"spec": {"x": deep}}}})
    except ValidationError as error:
        (detail,) = error.errors(include_url=False, include_input=False)
        assert not taken
        assert detail["loc"] == ("head", "template")
        assert "64 levels" in detail["msg"]
    else:
        assert taken
