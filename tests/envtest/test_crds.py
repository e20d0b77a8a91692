"""Every case of the API on the real API server, and the stand-in of the unit tests beside it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api import api_server
from api.cases import CASES, FLEETS, MODELS, Case, merged, same_field
from cluster.control_plane import ControlPlane
from envtest.objects import Answer, Objects, says
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="module")
def objects(control_plane: ControlPlane) -> Iterator[Objects]:
    with control_plane.client() as client:
        yield Objects(client)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_api_server_names_the_field_at_fault(case: Case, objects: Objects) -> None:
    answer = objects.try_out(case.obj)
    assert answer.accepted == (case.refused_at is None), answer.body
    assert bool(answer.causes) != answer.accepted
    assert all(same_field(cause.path, case.refused_at or "") for cause in answer.causes)
    assert answer.warnings == ()
    agree(case.obj, answer)


def agree(obj: dict[str, Any], answer: Answer) -> None:
    """The stand-in finds the same fields at fault, for the same reasons: where it is a rule, with our message."""
    found = api_server.refusals(obj)
    assert {cause.path for cause in answer.causes} == {each.path for each in found}, answer.body
    for each in found:
        assert any(says(cause, each) for cause in answer.causes), (each, answer.causes)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(
    st.sampled_from([MODELS, FLEETS]).flatmap(lambda cases: st.lists(st.sampled_from(cases), min_size=2, max_size=6))
)
def test_the_stand_in_agrees_on_any_mixture(objects: Objects, cases: list[Case]) -> None:
    obj: Any = {}
    for case in cases:
        obj = merged(obj, case.obj)
    agree(obj, objects.try_out(obj))


def test_what_is_stored_is_what_the_stand_in_says(objects: Objects) -> None:
    """Defaults, and nulls that are dropped."""
    for case in CASES:
        if case.refused_at is None:
            expected = copy.deepcopy(case.obj)
            api_server.fill_defaults(expected, api_server.schema(case.obj["kind"]))
            assert objects.try_out(case.obj).body.get("spec") == expected.get("spec"), case.name


@pytest.mark.parametrize("file", sorted(CRDS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_definition_is_taken_without_a_word(file: Path, control_plane: ControlPlane) -> None:
    text = yaml.safe_load(file.read_text())
    name = text["metadata"]["name"]
    with control_plane.client() as client:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        answer = client.patch(
            path,
            content=file.read_bytes(),
            headers={"content-type": "application/apply-patch+yaml"},
            params={"fieldManager": "test", "force": "true", "fieldValidation": "Strict", "dryRun": "All"},
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers.get_list("warning") == []
        conditions = {each["type"]: each["status"] for each in client.get(path).json()["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}  # NonStructuralSchema would stand here too
