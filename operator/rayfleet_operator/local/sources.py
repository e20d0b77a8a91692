"""The files that `up` serves, followed as they change.

A file counts only as a whole: while something in it is wrong, what it said before holds, and the mistake is shown. An
edit counts once the files have been the same for two looks, so that half-written files and the moment in which an
editor replaces one are never seen.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rayfleet_operator.api import documents
from rayfleet_operator.api.documents import Identity, Loaded, identity
from rayfleet_operator.api.fleet import ModelFleet, ModelFleetSpec
from rayfleet_operator.api.types import ModelDeployment

LOOK_S = 0.4
"""Between two looks at the files; an edit is taken up within two or three."""

EFFECTIVE = ("routers", "gpu_sharing")
"""Fields of a ModelFleet's spec that mean something on one machine."""

Item = ModelDeployment | ModelFleet
Accepted = Mapping[str, tuple[Item, ...]]
"""By file, what holds of it."""
Signature = frozenset[tuple[str, int, int, int]]


@dataclass(frozen=True)
class Wanted:
    """What the files ask for, as one fleet: this machine's Ray has one router app for all models."""

    fleet: ModelFleet | None
    models: tuple[ModelDeployment, ...]
    """No two of one name."""
    problems: tuple[str, ...]
    """What is wrong now, one line each."""


class Sources:
    """`paths` are YAML files, or folders of them. `fleet` names the ModelFleet to be where there are several."""

    def __init__(self, paths: Sequence[str], fleet: str | None) -> None:
        self._paths = paths
        self._fleet = fleet
        self._seen: Signature | None = signature(paths)
        loaded = documents.load(paths)
        self._accepted = accept(loaded, {})
        self.wanted = choose(self._accepted, [str(problem) for problem in loaded.problems], fleet, None)
        self.read_at = datetime.now(UTC)
        """When the files were last read, which is when they last changed."""
        self.changed = asyncio.Event()

    async def follow(self) -> None:
        """Keep `wanted` up to date, and set `changed` whenever it changed. Runs until cancelled."""
        last = self._seen
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                now = await asyncio.to_thread(signature, self._paths)
                if now == last and now != self._seen:
                    await self._load(now)
                last = now
            except Exception as error:
                # Ending here would end every model; the next look may be one that works.
                self._seen = None
                what = f"looking at the files failed: {type(error).__name__}: {error}"
                self._want(_unchanged(self.wanted, [what]))

    async def _load(self, seen: Signature) -> None:
        loaded = await asyncio.to_thread(documents.load, self._paths)
        self._seen = seen
        self.read_at = datetime.now(UTC)
        held = "; what it said before holds"
        problems = [f"{problem}{held if problem.file in self._accepted else ''}" for problem in loaded.problems]
        problems += [str(note) for note in loaded.notes if _below(note.file, self._accepted)]
        problems += [
            f"{file}: it holds no ModelDeployment or ModelFleet any more; what it said before goes on until the file "
            "is deleted"
            for file in emptied(loaded, self._accepted)
        ]
        self._accepted = accept(loaded, self._accepted)
        self._want(choose(self._accepted, problems, self._fleet, self.wanted))

    def _want(self, wanted: Wanted) -> None:
        if wanted != self.wanted:
            self.wanted = wanted
            self.changed.set()


def signature(paths: Sequence[str]) -> Signature:
    """What changes whenever one of the files does: it is only compared."""
    found: set[tuple[str, int, int, int]] = set()
    for path in map(Path, paths):
        files, unreadable = documents.yaml_files(path) if os.path.isdir(path) else ([path], [])
        found |= {(str(error.filename), 0, 0, 0) for error in unreadable}
        for file in files:
            try:
                stat = file.stat()
            except OSError:
                found.add((str(file), 0, 0, 0))
                continue
            found.add((str(file), stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return frozenset(found)


def accept(loaded: Loaded, before: Accepted) -> Accepted:
    """What holds of each file now that they were loaded again."""
    now: dict[str, tuple[Item, ...]] = {}
    items: tuple[Item, ...] = (*loaded.fleets, *loaded.models)
    for item in items:
        file = loaded.place(item).file
        now[file] = (*now.get(file, ()), item)
    for wrong in {problem.file for problem in loaded.problems}:
        now.pop(wrong, None)
        # One that was named and is gone is a mistake, too. What is gone from a folder is no problem, but a deletion.
        if wrong in before:
            now[wrong] = before[wrong]
    now |= emptied(loaded, before)
    # A folder that is gone as a whole, or cannot be read, was not emptied.
    for problem in (*loaded.problems, *loaded.notes):
        now |= {file: before[file] for file in _below(problem.file, before)}
    return now


def emptied(loaded: Loaded, before: Accepted) -> dict[str, tuple[Item, ...]]:
    """Files that are there and say nothing any more, as a full disk, a redirection and some editors leave them, each
    with what it said; but for what another file says now: that was moved."""
    items: tuple[Item, ...] = (*loaded.fleets, *loaded.models)
    files = {loaded.place(item).file for item in items} | {problem.file for problem in loaded.problems}
    # What cannot be looked into is another matter.
    hidden = {file for each in (*loaded.problems, *loaded.notes) for file in _below(each.file, before)}
    there = {_identity(item) for item in items}
    held = {
        file: tuple(item for item in before[file] if _identity(item) not in there)
        for file in before
        if file not in files | hidden and os.path.exists(file)
    }
    return {file: left for file, left in held.items() if left}


def _below(folder: str, accepted: Accepted) -> list[str]:
    """Files that lie in `folder`."""
    return [file for file in accepted if Path(folder) in Path(file).parents]


def choose(accepted: Accepted, problems: list[str], name: str | None, before: Wanted | None) -> Wanted:
    """One fleet of what holds. Where that is not possible, what was wanted before stays, and `problems` says why."""
    items = [item for _, each in sorted(accepted.items()) for item in each]
    if before is not None:
        # Of two with one name, the one that is served goes on.
        served = {_identity(item): item for item in (before.fleet, *before.models) if item is not None}
        items.sort(key=lambda item: (_identity(item) not in served, item != served.get(_identity(item))))
    fleets = [item for item in items if isinstance(item, ModelFleet)]
    try:
        fleet = pick_fleet(fleets, name)
    except LookupError as error:
        return _unchanged(before, [*problems, str(error)])
    models: dict[str, ModelDeployment] = {}
    for item in items:
        if not isinstance(item, ModelDeployment) or (name is not None and item.spec.fleet != name):
            continue
        first = models.setdefault(item.metadata.name, item)
        # Two in one namespace are a problem of their files, and shown as that.
        if first.metadata.namespace != item.metadata.namespace:
            problems = [
                *problems,
                f"two ModelDeployments are named {item.metadata.name}, in namespaces {first.metadata.namespace} and "
                f"{item.metadata.namespace}; both would answer at /{item.metadata.name}, so the first one is served",
            ]
    return Wanted(fleet, tuple(models.values()), tuple(problems))


def _identity(item: Item) -> Identity:
    return identity(item.kind, item.metadata.namespace, item.metadata.name)


def pick_fleet(fleets: Sequence[ModelFleet], name: str | None) -> ModelFleet | None:
    """The fleet that is meant; None, for one with every default, where there is none and none is asked for.

    Raises `LookupError`, with what would be right.
    """
    there = {_identity(fleet): fleet for fleet in reversed(fleets)}
    found = [fleet for fleet in there.values() if name is None or fleet.metadata.name == name]
    known = ", ".join(sorted(each.name for each in there))
    if name is not None and not found:
        raise LookupError(f"there is no ModelFleet {name}; the files have {known or 'none'}")
    if name is not None and len(found) > 1:
        spaces = " and ".join(sorted(fleet.metadata.namespace for fleet in found))
        raise LookupError(f"there are several ModelFleets named {name}, in namespaces {spaces}; give each its own name")
    if len(found) > 1:
        raise LookupError(f"there are several ModelFleets: {known}; choose one with --fleet NAME")
    return found[0] if found else None


def on_one_machine(fleet: ModelFleet | None) -> ModelFleet | None:
    """The fleet with no more than has an effect here."""
    if fleet is None:
        return None
    return fleet.model_copy(
        update={"spec": ModelFleetSpec(**{field: getattr(fleet.spec, field) for field in EFFECTIVE})}
    )


def of_any_kind(model: ModelDeployment) -> ModelDeployment:
    """The model without the kind of GPU that it asks for: the GPUs are those of this machine."""
    if model.spec.resources.accelerator is None:
        return model
    resources = model.spec.resources.model_copy(update={"accelerator": None})
    return model.model_copy(update={"spec": model.spec.model_copy(update={"resources": resources})})


def without_effect(wanted: Wanted) -> list[str]:
    """What the files say that only Kubernetes takes up: a line for each object."""
    lines = []
    if wanted.fleet is not None:
        spec = wanted.fleet.spec
        given = [
            f"spec.{field.alias}"
            for name, field in type(spec).model_fields.items()
            if name in spec.model_fields_set and name not in EFFECTIVE
        ]
        if given:
            why = "this machine is the fleet"
            lines.append(_no_effect(wanted.fleet, given, why))
    for model in wanted.models:
        registry = model.spec.model.registry
        given = [
            f"spec.model.registry.{field.alias}"
            for name, field in type(registry).model_fields.items()
            if name in ("secret_name", "ca_config_map_name") and getattr(registry, name) is not None
        ]
        if given:
            why = "credentials and certificates come from MLflow's variables and those of the artifact store"
            lines.append(_no_effect(model, given, why))
        if model.spec.resources.accelerator is not None:
            why = "the GPUs are those of this machine, of whatever kind"
            lines.append(_no_effect(model, ["spec.resources.accelerator"], why))
    return lines


def _no_effect(item: Item, given: list[str], why: str) -> str:
    verb = "has" if len(given) == 1 else "have"
    return f"{item.kind}/{item.metadata.name}: {', '.join(given)} {verb} no effect here, only on Kubernetes: {why}"


def _unchanged(before: Wanted | None, problems: list[str]) -> Wanted:
    if before is None:
        return Wanted(None, (), tuple(problems))
    return Wanted(before.fleet, before.models, tuple(problems))
