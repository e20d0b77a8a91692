"""One object, good or bad in one place: the smallest valid one, with a value somewhere."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any


class _LeaveOut:
    def __repr__(self) -> str:
        return "left out"


LEAVE_OUT = _LeaveOut()
"""A value that removes the field."""

KINDS = ("L4", "A100-80GB", "a", "1", "H200_x.2", "a" * 63)
NO_KINDS = ("", "a b", "-a", "a-", "a/b", "ä", "a" * 64, "a\n", 4, True)
"""Of GPUs: what one may be called, and what not."""

SMALLEST: dict[str, dict[str, Any]] = {
    "ModelDeployment": {"spec": {"model": {"uri": "models:/resnet@champion"}}},
    "ModelFleet": {"spec": {}},
}


@dataclass(frozen=True)
class Case:
    """One object, and the field for which it is refused."""

    path: str
    value: Any
    beside: dict[str, Any]
    obj: dict[str, Any]
    refused_at: str | None

    @property
    def name(self) -> str:
        shown = str(self.value) if len(str(self.value)) <= 60 else f"{str(self.value)[:57]}..."
        return ", ".join([f"{self.path}={shown}", *(f"{key}={each}" for key, each in self.beside.items())])

    def __str__(self) -> str:
        return self.name


def case(path: str, value: Any, *, bad: str | bool = False, kind: str = "ModelDeployment", **beside: Any) -> Case:
    """The smallest object with `value` at `path`. `bad` is the field to blame, or True for `path` itself."""
    obj = copy.deepcopy(
        {"apiVersion": "rayfleet.io/v1alpha1", "kind": kind, "metadata": {"name": "a"}, **SMALLEST[kind]}
    )
    also = {key.replace("__", "."): each for key, each in beside.items()}
    for place, content in {path: value, **also}.items():
        *parents, last = place.split(".")
        inner = obj
        for parent in parents:
            inner = inner.setdefault(parent, {})
        if content is LEAVE_OUT:
            inner.pop(last, None)
        else:
            inner[last] = content
    return Case(path, value, also, obj, (path if bad is True else bad) or None)


def good(path: str, *values: Any, **more: Any) -> list[Case]:
    return [case(path, value, **more) for value in values]


def bad(path: str, *values: Any, **more: Any) -> list[Case]:
    return [case(path, value, bad=True, **more) for value in values]
