"""ModelDeployments and ModelFleets from YAML files, with every problem of every file in one list.

`load` never raises for what a file can hold. Objects of other API groups are skipped with a note, and so are files of
a folder that are no Kubernetes objects at all.
"""

from __future__ import annotations

import difflib
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pydantic import ValidationError

from rayfleet_operator.api import yamltree
from rayfleet_operator.api.fleet import ModelFleet
from rayfleet_operator.api.forms import shown
from rayfleet_operator.api.problems import Problem, describe, dotted, position, printable
from rayfleet_operator.api.types import API_VERSION, GROUP, ModelDeployment
from rayfleet_operator.api.yamltree import Tree

MAX_FILE_BYTES = 1 << 20
"""etcd takes no object above 1.5 MiB; a larger file is something else."""

KINDS: Mapping[str, type[ModelDeployment] | type[ModelFleet]] = MappingProxyType(
    {"ModelDeployment": ModelDeployment, "ModelFleet": ModelFleet}
)


class Identity(NamedTuple):
    """What names one object, as it may be printed; made by `identity`."""

    kind: str
    namespace: str
    name: str


def identity(kind: object, namespace: object, name: object) -> Identity:
    """The identity of an object, valid or not: what is no text is left empty."""
    return Identity(*(printable(text) if isinstance(text, str) else "" for text in (kind, namespace, name)))


class Place(NamedTuple):
    """Where an object begins."""

    file: str
    """Its path as the system knows it."""
    line: int

    def __str__(self) -> str:
        return position(self.file, self.line)


@dataclass(frozen=True)
class Loaded:
    """What the files hold. Objects with a problem are left out of `models` and `fleets`."""

    models: tuple[ModelDeployment, ...]
    fleets: tuple[ModelFleet, ...]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()
    """What was skipped, and why."""
    places: Mapping[Identity, Place] = field(default_factory=dict)
    """Where each object begins, those with problems included; of several with one name, the first."""

    def place(self, item: ModelDeployment | ModelFleet) -> Place:
        """Where one of `models` or `fleets` begins."""
        return self.places[identity(item.kind, item.metadata.namespace, item.metadata.name)]


def load(paths: Sequence[str | os.PathLike[str]]) -> Loaded:
    """Read files, and the .yaml and .yml files at any depth of folders, in sorted order."""
    objects: list[_Object] = []
    problems: list[Problem] = []
    notes: list[Problem] = []
    for file, named in _files(paths, problems, notes):
        try:
            for tree in _trees(file):
                if _is_foreign(tree):
                    skipped = f"skipped: {shown(tree.value.get('kind'))} is not of {GROUP}"
                    notes.append(Problem(str(file), tree.line(()), "", "", "", skipped, ""))
                elif _is_object(tree):
                    objects.append(_read(str(file), tree))
                else:
                    what = f"{'' if named else 'skipped: '}not a Kubernetes object"
                    right = f"it has no apiVersion: {API_VERSION}"
                    (problems if named else notes).append(Problem(str(file), tree.line(()), "", "", "", what, right))
        except yamltree.UnreadableError as error:
            problems.append(Problem(str(file), error.line, "", "", "", str(error), ""))
    return _together(objects, problems, notes)


def _files(
    paths: Sequence[str | os.PathLike[str]], problems: list[Problem], notes: list[Problem]
) -> Iterator[tuple[Path, bool]]:
    """Each file once, and whether it was named itself; what cannot be one goes to `problems` or `notes`."""
    seen: set[str] = set()
    for given in map(Path, paths):
        # Not Path.is_dir: before Python 3.14 it raises where a folder on the way may not be entered.
        if os.path.isdir(given):
            found = _in_folder(given, problems, notes)
        elif os.path.isfile(given):
            found = [given]
        else:
            problems.append(Problem(str(given), 0, "", "", "", *_not_there(given)))
            continue
        for file in found:
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                yield file, file is given


def _not_there(path: Path) -> tuple[str, str]:
    """What is wrong with a path that is neither a file nor a folder, and what would be right."""
    right = "name YAML files or folders"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return "no such file", right
    except OSError as error:
        return f"cannot be read: {error.strerror}", ""
    return "not a regular file", right


def _in_folder(folder: Path, problems: list[Problem], notes: list[Problem]) -> list[Path]:
    """A folder that cannot be read is a problem where it is `folder`; others may be none of ours."""
    files, unreadable = yaml_files(folder)
    for error in unreadable:
        where = Path(error.filename)
        what = f"this folder cannot be read: {error.strerror}"
        (problems if where == folder else notes).append(Problem(str(where), 0, "", "", "", what, ""))
    return sorted(files)


def yaml_files(folder: Path) -> tuple[list[Path], list[OSError]]:
    """The .yaml and .yml files at any depth, and why other folders could not be looked into.

    Hidden folders are no part of a project: .git, .venv, the ..data of a ConfigMap volume.
    """
    found: list[Path] = []
    unreadable: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in files if name.endswith((".yaml", ".yml")) and not name.startswith(".")]
        found += [path for name in names if _may_be_file(path := Path(parent, name))]
    return found, unreadable


def _may_be_file(path: Path) -> bool:
    """Whether it is a regular file, or cannot be looked at: reading it then says why."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def _trees(file: Path) -> Iterator[Tree]:
    """The documents of one file; a `kind: List`, as `kubectl get -o yaml` prints it, is taken apart."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise yamltree.UnreadableError(0, "larger than 1 MiB")
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise yamltree.UnreadableError(0, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise yamltree.UnreadableError(data.count(b"\n", 0, error.start) + 1, "not UTF-8 text") from error
    for tree in yamltree.read(text):
        value = tree.value
        if isinstance(value, dict) and (value.get("apiVersion"), value.get("kind")) == ("v1", "List"):
            for fault in tree.faults:
                if len(fault.path) < 2:  # of the List itself, so that nobody knows what its items are
                    raise yamltree.UnreadableError(fault.line, f"{dotted(fault.path)}: {fault.message}; {fault.right}")
            yield from tree.items("items")
        else:
            yield tree


def _is_object(tree: Tree) -> bool:
    return isinstance(tree.value, dict) and ("apiVersion" in tree.value or "kind" in tree.value)


def _is_foreign(tree: Tree) -> bool:
    """Of another API group, and not of a misspelt one."""
    version = tree.value.get("apiVersion") if isinstance(tree.value, dict) else None
    if not isinstance(version, str):
        return False
    group = version.rpartition("/")[0]
    misspelt = tree.value.get("kind") in list(KINDS) and bool(difflib.get_close_matches(group, [GROUP], cutoff=0.7))
    return group != GROUP and not misspelt


@dataclass(frozen=True)
class _Object:
    """One document that means to be of ours."""

    identity: Identity
    file: str
    tree: Tree
    item: ModelDeployment | ModelFleet | None
    problems: list[Problem]

    @property
    def place(self) -> Place:
        return Place(self.file, self.tree.line(()))

    @property
    def fleet(self) -> str | None:
        spec = self.tree.value.get("spec")
        fleet = spec.get("fleet") if self.identity.kind == "ModelDeployment" and isinstance(spec, dict) else None
        return fleet if isinstance(fleet, str) else None

    def problem(self, path: yamltree.Path, message: str, right: str, line: int | None = None) -> None:
        where = line or self.tree.line(path)
        kind, _, name = self.identity
        self.problems.append(Problem(self.file, where, kind, name, dotted(path), message, right))


def _read(file: str, tree: Tree) -> _Object:
    value = tree.value
    kind, version, metadata = value.get("kind"), value.get("apiVersion"), value.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    api_type = KINDS.get(kind) if isinstance(kind, str) else None
    item: ModelDeployment | ModelFleet | None = None
    errors = []
    if api_type:
        # A person does not write the status, and a wrong apiVersion is said below.
        asked = {key: field for key, field in value.items() if key not in ("apiVersion", "status")}
        try:
            item = api_type.model_validate(asked, by_alias=True, by_name=False)
        except ValidationError as error:
            errors = error.errors(include_url=False)
    names = identity(kind, known.get("namespace", "default"), known.get("name"))
    result = _Object(names, file, tree, item, [])
    for fault in tree.faults:
        result.problem(fault.path, fault.message, fault.right, fault.line)
    if version != API_VERSION:
        message = "missing" if version is None else f"{shown(version)} is not known"
        result.problem(("apiVersion",), message, f"write {API_VERSION}")
    if not api_type:
        close = difflib.get_close_matches(kind, KINDS, n=1) if isinstance(kind, str) else []
        right = f"did you mean {close[0]}?" if close else f"write {' or '.join(KINDS)}"
        result.problem(("kind",), "missing" if kind is None else f"{shown(kind)} is not known", right)
    for detail in errors:
        result.problem(detail["loc"], *describe(detail))
    return result


def _together(objects: list[_Object], problems: list[Problem], notes: list[Problem]) -> Loaded:
    """What no object can tell alone: names given twice, and fleets that are not there."""
    named: dict[Identity, list[_Object]] = {}
    for item in objects:
        if item.identity.name:
            named.setdefault(item.identity, []).append(item)
    for same in named.values():
        # Which of them is the mistake, only a person can tell.
        for item in same if len(same) > 1 else ():
            other = same[1] if item is same[0] else same[0]
            message = f"the name of another {item.identity.kind} in {other.place}"
            item.problem(("metadata", "name"), message, "give each its own name")
    places = {key: same[0].place for key, same in named.items()}
    fleets = {each for each in places if each.kind == "ModelFleet"}
    for item in objects:
        if item.fleet is None or not fleets:
            continue
        wanted = identity("ModelFleet", item.identity.namespace, item.fleet)
        if wanted not in fleets:
            there = sorted(each.name for each in fleets if each.namespace == wanted.namespace)
            right = f"write {' or '.join(there)}" if there else f"add one to namespace {wanted.namespace}"
            item.problem(("spec", "fleet"), f"there is no ModelFleet {shown(item.fleet)}", right)
    problems += [problem for item in objects for problem in item.problems]
    good = [item.item for item in objects if not item.problems]
    return Loaded(
        models=tuple(item for item in good if isinstance(item, ModelDeployment)),
        fleets=tuple(item for item in good if isinstance(item, ModelFleet)),
        problems=tuple(sorted(problems, key=lambda problem: (problem.file, problem.line))),
        notes=tuple(notes),
        places=places,
    )
