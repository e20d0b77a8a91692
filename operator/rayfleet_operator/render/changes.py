"""What differs between two objects as the API server gives them, path by path.

Lists whose items all have a name are compared by it, as Kubernetes does; others of maps by their places; and the rest
as a whole, since what a word of a command means is in the words beside it. Nothing in an object makes this fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Named:
    """A step into a list, to the item of this name."""

    name: str


Step = str | int | Named
Path = tuple[Step, ...]


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
"""Where there is nothing; a null is something."""


@dataclass(frozen=True)
class Change:
    """One difference."""

    path: Path
    before: Any
    after: Any
    order: bool = False
    """Both are one list of named items, in two orders."""

    @property
    def where(self) -> str:
        return written(self.path)


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def written(path: Path) -> str:
    """`spec.workerGroups[gpu].template.spec.nodeSelector["kubernetes.io/arch"]`; what a terminal would obey is
    escaped."""
    text = ""
    for step in path:
        match step:
            case Named(name):
                text += f"[{name if name.isprintable() else repr(name)}]"
            case int():
                text += f"[{step}]"
            case _ if _PLAIN.fullmatch(step):
                text += f".{step}" if text else step
            case _:
                text += f'["{step}"]' if step.isprintable() else f"[{step!r}]"
    return text


def changes(before: Any, after: Any, path: Path = ()) -> list[Change]:
    """Every difference, in the order of `after`, what is gone last."""
    return list(_changes(before, after, path))


def _changes(before: Any, after: Any, path: Path) -> Iterator[Change]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*after, *(each for each in before if each not in after)]:
            yield from _changes(before.get(key, ABSENT), after.get(key, ABSENT), (*path, str(key)))
    elif (ours := _by_name(before)) is not None and (theirs := _by_name(after)) is not None and (ours or theirs):
        for name in [*theirs, *(each for each in ours if each not in theirs)]:
            yield from _changes(ours.get(name, ABSENT), theirs.get(name, ABSENT), (*path, Named(name)))
        if [name for name in ours if name in theirs] != [name for name in theirs if name in ours]:
            yield Change(path, before, after, order=True)
    elif _maps(before) and _maps(after) and len(before) == len(after):
        for place, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _changes(one, other, (*path, place))
    elif not same(before, after):
        yield Change(path, before, after)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same in JSON, where true is not 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def leaves(change: Change) -> Iterator[Change]:
    """The same, where one side is a map and the other is nothing, field by field."""
    for one, other in ((change.before, change.after), (change.after, change.before)):
        if other is ABSENT and isinstance(one, Mapping) and one and not isinstance(change.path[-1], Named):
            for key, value in one.items():
                sides = (ABSENT, value) if one is change.after else (value, ABSENT)
                yield from leaves(Change((*change.path, str(key)), *sides))
            return
    yield change


def _maps(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, Mapping) for item in items)


def _by_name(items: Any) -> Mapping[str, Any] | None:
    """A list's items by their names; None where it is no such list."""
    if not _maps(items):
        return None
    names = [item.get("name") for item in items]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        return None
    return dict(zip(names, items, strict=True))


def applied(tree: Any, change: Change) -> Any:
    """The tree with one change of it made, which was found between it and another."""
    return _applied(tree, change.path, change)


def _applied(tree: Any, path: Path, change: Change) -> Any:
    if not path:
        return _reordered(tree, change.after) if change.order else change.after
    step, rest = path[0], path[1:]
    if isinstance(step, Named):
        items = tree if isinstance(tree, list) else []
        at = next((place for place, item in enumerate(items) if item.get("name") == step.name), len(items))
        return _with_item(items, at, rest, change)
    if isinstance(step, int):
        return _with_item(tree, step, rest, change)
    inner = _applied(tree.get(step, ABSENT) if isinstance(tree, Mapping) else ABSENT, rest, change)
    others = dict(tree) if isinstance(tree, Mapping) else {}
    if inner is ABSENT:
        others.pop(step, None)
        return others
    return {**others, step: inner}


def _with_item(items: Sequence[Any], at: int, rest: Path, change: Change) -> list[Any]:
    inner = _applied(items[at] if at < len(items) else ABSENT, rest, change)
    return [*items[:at], *([] if inner is ABSENT else [inner]), *items[at + 1 :]]


def _reordered(items: list[Any], order: list[Any]) -> list[Any]:
    places = {item["name"]: place for place, item in enumerate(order)}
    return sorted(items, key=lambda item: places.get(item["name"], len(places)))
