"""No bound and no rule of the CRDs is without a case that breaks it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from rayfleet_operator.api import crd

from . import api_server
from .cases import FLEETS, MODELS, Case

WHY = {
    "type": "wrong type",
    "x-kubernetes-int-or-string": "wrong type",
    "enum": "not in enum",
    "minimum": "too small",
    "maximum": "too large",
    "minLength": "too short",
    "maxLength": "too long",
    "pattern": "does not match",
    "minItems": "too few",
    "maxItems": "too many",
    "maxProperties": "too many",
}


def breakable(node: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Every way in which a value can be refused by a schema: the place, without indexes and keys, and why."""
    yield from ((path, why) for keyword, why in WHY.items() if keyword in node)
    yield from ((f"{path}.{name}", "required") for name in node.get("required", []))
    if node.get("x-kubernetes-list-type") in ("set", "map"):
        yield f"{path}[]", "there twice"
    for rule in node.get("x-kubernetes-validations", []):
        yield path + rule.get("fieldPath", ""), rule["message"]
    for name, field in node.get("properties", {}).items():
        yield from breakable(field, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if inner in node:
            yield from breakable(node[inner], f"{path}[]")


@pytest.mark.parametrize(("kind", "cases"), [("ModelDeployment", MODELS), ("ModelFleet", FLEETS)])
def test_every_bound_and_rule_is_broken_by_a_case(kind: str, cases: list[Case]) -> None:
    (resource,) = (each for each in crd.RESOURCES if each.api_type.__name__ == kind)
    schema = crd.root_schema(resource.api_type)
    expected = set(breakable(schema["properties"]["spec"], "spec"))
    expected |= {("metadata.name", rule["message"]) for rule in schema["x-kubernetes-validations"]}
    # Maps are written .key by schemas and [key] by rules, and their only key here is `key`.
    places = re.compile(r"\[[^]]+\]|(?<=[rs])\.key$")
    broken = {
        (places.sub("[]", each.path), each.why)
        for case in cases
        if case.refused_at
        for each in api_server.refusals(case.obj)
    }
    assert expected <= broken, "\n".join(f"{path}: {why}" for path, why in sorted(expected - broken))
