"""What the API server does with an object of ours: prune, default, check the structural schema, run the CEL rules.

A stand-in for tests that need it without its etcd; tests/envtest/test_crds.py holds it to the real one. Patterns run in
RE2, as they do in Go; rules run in cel-python, whose standard functions are Kubernetes', with one of its others.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import celpy
import celpy.celtypes
import re2

from rayfleet_operator.api import crd

Json = dict[str, Any]


@functools.cache
def schema(kind: str) -> Json:
    (resource,) = (each for each in crd.RESOURCES if each.api_type.__name__ == kind)
    return crd.root_schema(resource.api_type)


class Refusal(NamedTuple):
    """One field that is refused."""

    path: str
    why: str


UNKNOWN = "unknown"
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
NO_NAME = "a lowercase RFC 1123 subdomain must"
"""No object of any kind may have it. Checked whatever else is wrong, unlike our own rules."""
BLOCKING = ("wrong type", "not in enum", "required", "too long", "too many")
"""With one of them no rule is checked."""


def refusals(obj: Json) -> list[Refusal]:
    """Everything for which the object is refused, under strict field validation."""
    root = schema(obj["kind"])
    if found := list(_unknown(obj.get("spec"), root["properties"]["spec"], ".spec")):
        return _named(found)
    obj = copy.deepcopy(obj)
    fill_defaults(obj, root)
    found = list(_invalid(obj, root, ""))
    name = obj["metadata"].get("name")
    if not name:
        found.append(Refusal(".metadata.name", "required"))
    elif not re2.fullmatch(SUBDOMAIN, name):
        found.append(Refusal(".metadata.name", NO_NAME))
    if not any(each.why in BLOCKING for each in found):
        found += _broken_rules(obj, root, "")
    return _named(found)


def _named(found: list[Refusal]) -> list[Refusal]:
    return [Refusal(path.removeprefix("."), why) for path, why in found]


def _fields(value: Json, node: Json, path: str, key: str = ".{}") -> Iterator[tuple[str, Json | None, str]]:
    """Each field of an object, its schema (None where there is none), and its path; `key` is how one of a map looks."""
    for name in value:
        if name in node.get("properties", {}):
            yield name, node["properties"][name], f"{path}.{name}"
        elif "additionalProperties" in node:
            yield name, node["additionalProperties"], path + key.format(name)
        else:
            yield name, None, f"{path}.{name}"


def _unknown(value: Any, node: Json, path: str) -> Iterator[Refusal]:
    """Fields that pruning takes away; it does not look at types."""
    if isinstance(value, dict):
        for name, inner, place in _fields(value, node, path):
            if inner is not None:
                yield from _unknown(value[name], inner, place)
            elif not node.get("x-kubernetes-preserve-unknown-fields"):
                yield Refusal(place, UNKNOWN)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, node.get("items", {}), f"{path}[{index}]")


def fill_defaults(value: Any, node: Json) -> None:
    """Take nulls away where the schema knows the field, and write its defaults."""
    if isinstance(value, dict):
        for name, field, _ in list(_fields(value, node, "")):
            if field is not None and value[name] is None:
                del value[name]
        for name, field in node.get("properties", {}).items():
            if name not in value and "default" in field:
                value[name] = copy.deepcopy(field["default"])
        for name, field, _ in _fields(value, node, ""):
            fill_defaults(value[name], field or {})
    elif isinstance(value, list):
        for item in value:
            fill_defaults(item, node.get("items", {}))


TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def _invalid(value: Any, node: Json, path: str) -> Iterator[Refusal]:
    types = (int, str) if node.get("x-kubernetes-int-or-string") else TYPES[node["type"]]
    if type(value) not in types:
        yield Refusal(path, "wrong type")
    elif "enum" in node and value not in node["enum"]:
        yield Refusal(path, "not in enum")
    elif isinstance(value, int | float):
        low, high = node.get("minimum", value), node.get("maximum", value)
        if value < low or (node.get("exclusiveMinimum") and value == low):
            yield Refusal(path, "too small")
        if value > high:
            yield Refusal(path, "too large")
    elif isinstance(value, str):
        wrong = list(_size(len(value), node, "Length", "too short", "too long", path))
        yield from wrong
        if not wrong and "pattern" in node and not re2.search(node["pattern"], value):
            yield Refusal(path, "does not match")
    elif isinstance(value, list):
        yield from _size(len(value), node, "Items", "too few", "too many", path)
        yield from _twice(value, node, path)
        for index, item in enumerate(value):
            yield from _invalid(item, node["items"], f"{path}[{index}]")
    else:
        yield from _size(len(value), node, "Properties", "too few", "too many", path)
        yield from (Refusal(f"{path}.{name}", "required") for name in node.get("required", []) if name not in value)
        for name, field, place in _fields(value, node, path):
            if field is not None:
                yield from _invalid(value[name], field, place)


def _size(size: int, node: Json, what: str, small: str, large: str, path: str) -> Iterator[Refusal]:
    if size < node.get(f"min{what}", size):
        yield Refusal(path, small)
    if size > node.get(f"max{what}", size):
        yield Refusal(path, large)


def _twice(items: list[Any], node: Json, path: str) -> Iterator[Refusal]:
    """The second of two items that a set, or a map by its key, takes only once."""
    kind, seen = node.get("x-kubernetes-list-type"), set()
    for index, item in enumerate(items):
        key = None
        if kind == "set":
            key = repr(item)
        elif kind == "map" and isinstance(item, dict):
            key = repr([item.get(name) for name in node["x-kubernetes-list-map-keys"]])
        if key is not None and key in seen:
            yield Refusal(f"{path}[{index}]", "there twice")
        seen.add(key)


def _broken_rules(value: Any, node: Json, path: str) -> Iterator[Refusal]:
    for rule in node.get("x-kubernetes-validations", []):
        try:
            holds = bool(_program(rule["rule"]).evaluate({"self": _cel(value, node)}))
        except celpy.CELEvalError:  # the API server refuses what it cannot evaluate
            holds = False
        if not holds:
            yield Refusal(path + rule.get("fieldPath", ""), rule["message"])
    if isinstance(value, dict):
        for name, field, place in _fields(value, node, path, "[{}]"):
            if field is not None:
                yield from _broken_rules(value[name], field, place)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _broken_rules(item, node["items"], f"{path}[{index}]")


@functools.cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule), functions={"sum": _sum})


def _sum(numbers: celpy.celtypes.ListType) -> celpy.celtypes.Value:
    """One of Kubernetes' own functions for lists."""
    return celpy.celtypes.IntType(sum(numbers))


def _cel(value: Any, node: Json) -> Any:
    """The value with CEL's types, where a number is a double even when JSON writes it as 1; without what the schema
    does not know."""
    if node.get("type") == "number":
        return celpy.celtypes.DoubleType(value)
    if isinstance(value, dict):
        return celpy.celtypes.MapType(
            {
                celpy.celtypes.StringType(name): _cel(value[name], field)
                for name, field, _ in _fields(value, node, "")
                if field is not None
            }
        )
    if isinstance(value, list):
        return celpy.celtypes.ListType([_cel(item, node["items"]) for item in value])
    return celpy.json_to_cel(value)
