"""What the API server does with an object of ours: prune, default, check the structural schema, run the CEL rules.

Patterns run in RE2, as they do in Go; rules run in cel-python, whose standard functions are Kubernetes'.
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


def schema(kind: str) -> Json:
    (resource,) = (each for each in crd.RESOURCES if each.api_type.__name__ == kind)
    return crd.root_schema(resource.api_type)


class Refusal(NamedTuple):
    """One field that is refused."""

    path: str
    why: str


def refusals(obj: Json) -> list[Refusal]:
    """Everything for which the object is refused, under strict field validation."""
    root = schema(obj["kind"])
    obj = copy.deepcopy(obj)
    fill_defaults(obj, root)
    found = list(_invalid(obj, root, "")) or list(_broken_rules(obj, root, ""))  # rules run on valid objects only
    return [Refusal(path.removeprefix("."), why) for path, why in found]


def fill_defaults(value: Any, node: Json) -> None:
    if isinstance(value, dict):
        for name, field in node.get("properties", {}).items():
            if value.get(name) is None:
                value.pop(name, None)
                if "default" in field:
                    value[name] = copy.deepcopy(field["default"])
            if name in value:
                fill_defaults(value[name], field)
    elif isinstance(value, list):
        for item in value:
            fill_defaults(item, node.get("items", {}))


def _invalid(value: Any, node: Json, path: str) -> Iterator[Refusal]:
    if node.get("x-kubernetes-int-or-string"):
        fits = isinstance(value, str) or type(value) is int
    else:
        fits = {
            "object": lambda: isinstance(value, dict),
            "array": lambda: isinstance(value, list),
            "string": lambda: isinstance(value, str),
            "boolean": lambda: isinstance(value, bool),
            "integer": lambda: type(value) is int,
            "number": lambda: type(value) in (int, float),
        }[node["type"]]()
    if not fits:
        yield Refusal(path, "wrong type")
        return
    if "enum" in node and value not in node["enum"]:
        yield Refusal(path, "not in enum")
    if type(value) in (int, float):
        low, high = node.get("minimum", value), node.get("maximum", value)
        if not low <= value <= high or (node.get("exclusiveMinimum") and value == low):
            yield Refusal(path, "out of range")
    if isinstance(value, str):
        if not node.get("minLength", 0) <= len(value) <= node.get("maxLength", len(value)):
            yield Refusal(path, "wrong length")
        if "pattern" in node and not re2.search(node["pattern"], value):
            yield Refusal(path, "does not match")
    if isinstance(value, list):
        if not node.get("minItems", 0) <= len(value) <= node["maxItems"]:
            yield Refusal(path, "wrong number of items")
        if node.get("x-kubernetes-list-type") == "set" and len(set(map(repr, value))) < len(value):
            yield Refusal(path, "an item twice")
        for index, item in enumerate(value):
            yield from _invalid(item, node["items"], f"{path}[{index}]")
    if isinstance(value, dict) and "properties" in node:
        yield from (Refusal(f"{path}.{name}", "required") for name in node.get("required", []) if name not in value)
        yield from (Refusal(f"{path}.{name}", "unknown") for name in value if name not in node["properties"])
        for name, field in node["properties"].items():
            if name in value:
                yield from _invalid(value[name], field, f"{path}.{name}")


def _broken_rules(value: Any, node: Json, path: str) -> Iterator[Refusal]:
    for rule in node.get("x-kubernetes-validations", []):
        try:
            holds = bool(_program(rule["rule"]).evaluate({"self": _cel(value, node)}))
        except celpy.CELEvalError:  # the API server refuses what it cannot evaluate
            holds = False
        if not holds:
            # The name's rules stand at the root, where no fieldPath can point into metadata.
            blamed = rule.get("fieldPath", "" if path else ".metadata.name")
            yield Refusal(f"{path}{blamed}", rule["message"])
    if isinstance(value, dict):
        for name, field in node.get("properties", {}).items():
            if name in value:
                yield from _broken_rules(value[name], field, f"{path}.{name}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _broken_rules(item, node["items"], f"{path}[{index}]")


@functools.cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def _cel(value: Any, node: Json) -> Any:
    """The value with CEL's types, where a number is a double even when JSON writes it as 1."""
    if node.get("type") == "number":
        return celpy.celtypes.DoubleType(value)
    if isinstance(value, dict) and "properties" in node:
        return celpy.celtypes.MapType(
            {
                celpy.celtypes.StringType(name): _cel(value[name], field)
                for name, field in node["properties"].items()
                if name in value
            }
        )
    if isinstance(value, list):
        return celpy.celtypes.ListType([_cel(item, node["items"]) for item in value])
    return celpy.json_to_cel(value)
