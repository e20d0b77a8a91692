"""One object of a file beside the one on the cluster: what `kubectl apply` would make of it, and what differs then."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from rayfleet_operator.api.fleet import ModelFleet
from rayfleet_operator.api.problems import described
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.render.changes import ABSENT, Change, Named, Path, changes, leaves
from rayfleet_operator.render.names import RESTART_ANNOTATION
from rayfleet_operator.render.revision import written_fields

Json = dict[str, Any]
Item = TypeVar("Item", ModelDeployment, ModelFleet)

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
OWN_COMMANDS = "rayfleet-rollout"
"""How field managers of `rayfleet rollout` begin: what they write is in no file, and no apply takes it out."""


@dataclass(frozen=True)
class Compared(Generic[Item]):
    """Changes nothing, and is made once for each object."""

    item: Item
    """As it stands in the file."""
    live: Json | None
    """As it is on the cluster; None where it is not there."""

    @property
    def name(self) -> str:
        return self.item.metadata.name

    @property
    def before(self) -> Json:
        """`metadata` and `spec` of the live object, as far as people write them and as they differ from defaults."""
        return self._both[0]

    @property
    def after(self) -> Json:
        """The same, after the file was applied."""
        return self._both[1]

    @cached_property
    def _both(self) -> tuple[Json, Json]:
        """Without what says no more than the default does; as they are where this release cannot read one of them."""
        live = {"metadata": _metadata((self.live or {}).get("metadata")), "spec": _map((self.live or {}).get("spec"))}
        after = self._applied(live)
        if self.live is None:
            return live, {**after, "spec": written_fields(self.item.spec)}
        try:
            before, then = (type(self.item.spec).model_validate(each["spec"]) for each in (live, after))
        except ValidationError:
            return live, after
        return {**live, "spec": written_fields(before)}, {**after, "spec": written_fields(then)}

    def _applied(self, live: Json) -> Json:
        """What is there after the file was applied."""
        file = self.item.model_dump(mode="json", by_alias=True, exclude_unset=True)
        asked = {"metadata": _metadata(file["metadata"]), "spec": file.get("spec") or {}}
        if self.live is None:
            return asked
        applied = _last_applied(self.live)
        if applied is None:
            # Nobody says which fields were applied before, so the file says all but what our own commands wrote. Labels
            # and annotations have other writers, too.
            kept = _kept(live["spec"], _owned(self.live))
            return {
                "metadata": _merged(live["metadata"], asked["metadata"]),
                "spec": _merged(kept, asked["spec"]),
            }
        without = {key: _without(live[key], applied.get(key), asked[key]) for key in asked}
        return {key: _merged(without[key], asked[key]) for key in asked}

    @cached_property
    def changes(self) -> list[Change]:
        """What applying the file changes of the live object."""
        if self.live is None:
            return []
        found = changes(self.before, self.after)
        return [self._with_defaults(each) for change in found for each in leaves(change)]

    def _with_defaults(self, change: Change) -> Change:
        """The change with the values that fields have which one of the two does not say."""
        before, after = change.before, change.after
        if before is ABSENT and self.before_item is not None:
            before = _default(self.before_item, change.path)
        if after is ABSENT:
            after = _default(self.after_item, change.path)
        return replace(change, before=before, after=after)

    @cached_property
    def before_item(self) -> Item | None:
        """The live object as one of ours; None where it is not there, or is none by this release's rules."""
        return self._read(self.live, self.before) if self.live is not None else None

    @cached_property
    def after_item(self) -> Item:
        """The object that is there after the file was applied."""
        return self._read(self.live or {}, self.after) or self.item

    def _read(self, live: Json, said: Json) -> Item | None:
        metadata = {**said["metadata"], "name": self.name}
        status = live.get("status") or {}
        for each in ({"status": status}, {}):
            try:
                return type(self.item).model_validate({"metadata": metadata, "spec": said["spec"], **each})
            except ValidationError:
                continue
        return None

    @cached_property
    def refused(self) -> str | None:
        """Why the API server takes no object that has what the file says and what others wrote, if so."""
        try:
            type(self.item.spec).model_validate(self.after["spec"])
        except ValidationError as error:
            return described(error)
        return None

    @property
    def restart(self) -> tuple[str, str]:
        """The restart annotation's value, before and after."""
        before, after = (each["metadata"].get("annotations") or {} for each in (self.before, self.after))
        return str(before.get(RESTART_ANNOTATION, "")), str(after.get(RESTART_ANNOTATION, ""))


def _default(item: Any, path: Path) -> Any:
    """What the API server writes where a field is left out; ABSENT where that is nothing, or an administrator's."""
    for step in path:
        if isinstance(item, BaseModel) and isinstance(step, str):
            name, field = next(
                ((name, field) for name, field in type(item).model_fields.items() if (field.alias or name) == step),
                ("", None),
            )
            if field is None or (field.default_factory is not None and name not in item.model_fields_set):
                return ABSENT
            item = getattr(item, name)
        elif isinstance(item, list) and isinstance(step, Named):
            item = next((each for each in item if getattr(each, "name", None) == step.name), None)
        else:
            return ABSENT
    return item if isinstance(item, bool | int | float | str) else ABSENT


def _metadata(metadata: Any) -> Json:
    """What people write of it."""
    found = {key: dict(_map(_map(metadata).get(key))) for key in ("labels", "annotations")}
    found["annotations"].pop(LAST_APPLIED, None)
    return found


def _last_applied(live: Json) -> Json | None:
    """What `kubectl apply` wrote last, by its own note; None without one."""
    try:
        found = json.loads(_map(live["metadata"].get("annotations"))[LAST_APPLIED])
    except (LookupError, TypeError, ValueError, RecursionError):
        return None
    return {"metadata": _metadata(found.get("metadata")), "spec": _map(found.get("spec"))} if _map(found) else None


def _without(live: Any, applied: Any, asked: Any) -> Any:
    """The live map without what was applied before and is in the file no more."""
    if not isinstance(live, Mapping) or not isinstance(applied, Mapping):
        return live
    gone = applied.keys() - _map(asked).keys()
    return {
        key: _without(value, applied.get(key), _map(asked).get(key)) for key, value in live.items() if key not in gone
    }


def _merged(live: Any, asked: Any) -> Any:
    """A JSON merge patch, as kubectl applies to objects of kinds that it does not know: lists are replaced."""
    if not isinstance(live, Mapping) or not isinstance(asked, Mapping):
        return asked
    both = {key: _merged(live[key], value) if key in live else value for key, value in asked.items()}
    return {**{key: value for key, value in live.items() if key not in asked}, **both}


def _owned(live: Json) -> list[Json]:
    """The fields of our own commands, as Kubernetes notes them."""
    managers = live["metadata"].get("managedFields")
    return [
        dict(_map(each.get("fieldsV1")))
        for each in (managers if isinstance(managers, list) else [])
        if isinstance(each, Mapping) and str(each.get("manager", "")).startswith(OWN_COMMANDS)
    ]


def _kept(spec: Mapping[str, Any], owned: list[Json]) -> Json:
    kept: Json = {}
    for fields in owned:
        kept = _merged(kept, dict(_picked(spec, _map(fields.get("f:spec")))))
    return kept


def _picked(live: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What of a map these fields name."""
    for field, inner in fields.items():
        key = field.removeprefix("f:")
        if field.startswith("f:") and key in live:
            value = live[key]
            deeper = isinstance(value, Mapping) and inner
            yield key, dict(_picked(value, _map(inner))) if deeper else value


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
