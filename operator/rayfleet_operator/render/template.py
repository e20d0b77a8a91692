"""A person's pod template laid over ours.

Nothing in a template makes this fail: what does not fit is handed on as it was written, and the API server, which knows
the types, refuses it with the field's path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Key = Callable[[Mapping[str, Any]], tuple[Any, ...]]


def merge(ours: Any, theirs: Any) -> Any:
    """`theirs` wins. Maps are merged; containers, volumes and variables are merged by name, mounts by path and ports by
    number; every other list is replaced. A null removes the key."""
    return _merge("", ours, theirs)


def _merge(field: str, ours: Any, theirs: Any) -> Any:
    """`field` is the key under which both stand."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        merged = {key: _merge(key, value, theirs[key]) if key in theirs else value for key, value in ours.items()}
        merged |= {key: value for key, value in theirs.items() if key not in ours}
        return _without_nulls(merged)
    key = _KEYS.get(field)
    if key is not None and _told_apart(ours, key) and _told_apart(theirs, key):
        over = {key(item): item for item in theirs}
        known = {key(item) for item in ours}
        kept = [_merge_item(field, item, over[key(item)]) if key(item) in over else item for item in ours]
        return kept + [_without_nulls(item) for item in theirs if key(item) not in known]
    return _without_nulls(theirs)


def _merge_item(field: str, ours: Any, theirs: Any) -> Any:
    # Two sources of one variable or volume would be none.
    return _without_nulls(theirs) if field in ("env", "volumes") else _merge("", ours, theirs)


def _by(*fields: str) -> Key:
    return lambda item: tuple(item.get(field) for field in fields)


def _by_port(item: Mapping[str, Any]) -> tuple[Any, ...]:
    return item.get("containerPort"), item.get("protocol", "TCP")


_KEYS: Mapping[str, Key] = {
    "containers": _by("name"),
    "initContainers": _by("name"),
    "volumes": _by("name"),
    "env": _by("name"),
    "imagePullSecrets": _by("name"),
    "volumeMounts": _by("mountPath"),
    "ports": _by_port,
}
"""What tells the items of a list apart: Kubernetes' own merge keys."""


def _told_apart(items: Any, key: Key) -> bool:
    """Whether this is a list of maps, each with a key of its own."""
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        return False
    keys = [key(item) for item in items]
    plain = all(isinstance(part, str | int) for each in keys for part in each)
    return plain and len(set(keys)) == len(keys)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
