"""YAML text as plain JSON-like values together with the line of every field.

Stricter than a YAML loader, as an API object has to be: keys are text and stand once, values are JSON's types. An empty
value is dropped, as the API server drops a null. Whatever the text, reading it ends soon: the number of nodes is
counted with aliases expanded, and the depth is limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

Path = tuple[str | int, ...]

MAX_NODES = 200_000
"""Of one text, each alias counted as often as it is used."""
MAX_DEPTH = 64

_PREFIX = "tag:yaml.org,2002:"
_TEXT_TAGS = {"str", "timestamp"}
_NUMBER_TAGS = {"bool", "int", "float"}


class _Loader(yaml.SafeLoader):
    """PyYAML's, with the numbers of sigs.k8s.io/yaml, kubectl's reader: 1e-3 is one, and 1:30 is text."""


_Loader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0] not in (f"{_PREFIX}int", f"{_PREFIX}float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_PREFIX}int",
    re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)\Z"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    f"{_PREFIX}float",
    re.compile(
        r"([-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
    ),
    list("-+0123456789."),
)


class UnreadableError(Exception):
    """The text is not YAML, or not of a reasonable size, from `line` on."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Fault:
    """Something that YAML allows and an API object does not."""

    path: Path
    line: int
    message: str
    right: str


@dataclass
class Tree:
    """One YAML document."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    nodes: int = 0
    """Values read so far, those of documents before this one among them."""

    def line(self, path: Path) -> int:
        """Line of a field, or of the nearest object around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def items(self, key: str) -> list[Tree]:
        """A tree for each item of the list at `key`; none where there is no list.

        Sorts the lines out once for all items: a look at all of them for each would take minutes for the largest text.
        """
        listed = self.value.get(key) if isinstance(self.value, dict) else None
        if not isinstance(listed, list):
            return []
        trees = [Tree(item) for item in listed]
        for path, line in self.lines.items():
            if len(path) > 1 and path[0] == key:
                trees[int(path[1])].lines[path[2:]] = line
        for fault in self.faults:
            if len(fault.path) > 1 and fault.path[0] == key:
                trees[int(fault.path[1])].faults.append(replace(fault, path=fault.path[2:]))
        return trees


def plain_type(text: str) -> str:
    """What the text is where it stands without quotes: "str", "int", "float", "bool", …"""
    resolvers = _Loader.yaml_implicit_resolvers.get(text[:1], [])
    return next((tag.removeprefix(_PREFIX) for tag, pattern in resolvers if pattern.match(text)), "str")


def read(text: str) -> Iterator[Tree]:
    """Each document of the text that is not empty; UnreadableError when there is no going on."""
    loader: Any = None
    nodes = 0
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            tree = Tree(nodes=nodes)
            tree.value = _value(loader, node, (), tree, ())
            nodes = tree.nodes
            if tree.value is not None or tree.faults:
                yield tree
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        parts = [part for part in (error.context, error.problem) if part]
        raise UnreadableError(mark.line + 1 if mark else 1, f"not YAML: {', '.join(parts)}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UnreadableError(line, f"not YAML: character {error.character!r} is not allowed") from error
    except yaml.YAMLError as error:
        raise UnreadableError(1, f"not YAML: {error}") from error
    except RecursionError as error:
        raise UnreadableError(loader.line + 1 if loader else 1, "nested too deeply") from error
    except (ValueError, OverflowError) as error:  # e.g. a \U escape beyond Unicode
        raise UnreadableError(loader.line + 1 if loader else 1, f"not YAML: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _value(loader: Any, node: yaml.Node, path: Path, tree: Tree, above: tuple[int, ...]) -> Any:
    line = node.start_mark.line + 1
    tree.lines.setdefault(path, line)
    tree.nodes += 1
    if tree.nodes > MAX_NODES:
        raise UnreadableError(line, f"more than {MAX_NODES} values once aliases are expanded")
    if id(node) in above:
        raise UnreadableError(line, "an alias stands inside its own anchor")
    if len(above) > MAX_DEPTH:
        raise UnreadableError(line, f"nested more than {MAX_DEPTH} deep")
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_PREFIX}map":
        return _mapping(loader, node, path, tree, (*above, id(node)))
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_PREFIX}seq":
        inside = (*above, id(node))
        return [_value(loader, item, (*path, index), tree, inside) for index, item in enumerate(node.value)]
    return _scalar(loader, node, path, tree)


def _mapping(loader: Any, node: yaml.MappingNode, path: Path, tree: Tree, above: tuple[int, ...]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag != f"{_PREFIX}str":
            written = key_node.value if isinstance(key_node.value, str) else "this key"
            tree.faults.append(Fault(path, line, f"{written} is not a text key", "put the key in quotes"))
            continue
        key = _scalar(loader, key_node, path, tree)
        if key is None:
            continue
        inside = (*path, key)
        if key in seen:
            tree.faults.append(Fault(inside, line, f"also given in line {seen[key]}", "keep one of them"))
            continue
        seen[key] = tree.lines[inside] = line
        value = _value(loader, value_node, inside, tree, above)
        if value is not None:
            result[key] = value
    return result


def _scalar(loader: Any, node: yaml.Node, path: Path, tree: Tree) -> Any:
    line = node.start_mark.line + 1
    tag = node.tag.removeprefix(_PREFIX)
    if isinstance(node, yaml.ScalarNode):
        if tag == "null":
            return None
        if tag in _NUMBER_TAGS:
            try:
                value = loader.construct_object(node)
                # kubectl hands values on as JSON, where 2.0 and 2e0 are written 2.
                whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**63
                return int(value) if whole else value
            except (ValueError, OverflowError, KeyError, IndexError, yaml.YAMLError):
                tree.faults.append(Fault(path, line, f"no valid {tag}", "put text in quotes"))
                return None
        if tag in _TEXT_TAGS:
            try:
                node.value.encode()
            except UnicodeEncodeError:
                tree.faults.append(Fault(path, line, "half of a surrogate pair is not text", "write the character"))
                return None
            return node.value
    tree.faults.append(Fault(path, line, f"YAML tag {node.tag} has no meaning here", "leave the tag out"))
    return None
