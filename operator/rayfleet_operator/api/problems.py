"""A problem in a file: where it is, what is wrong, and what would be right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rayfleet_operator.api.base import RULE
from rayfleet_operator.api.forms import shown
from rayfleet_operator.api.yamltree import plain_type


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    file: str
    """Its path as the system knows it; printable only in the text of the problem."""
    line: int
    """From 1; 0 when it is the file as a whole."""
    kind: str
    """"" when the problem is not in one object; so too `name` and `field`."""
    name: str
    field: str
    """Path in camelCase: `spec.transform.input.image.std[0]`."""
    message: str
    right: str

    def __str__(self) -> str:
        where = position(self.file, self.line)
        thing = f"{self.kind}/{self.name}" if self.name else self.kind
        what = " ".join(part for part in (thing, self.field) if part)
        return f"{where}: {f'{what}: ' if what else ''}{self.message}{f'; {self.right}' if self.right else ''}"


def position(file: str, line: int) -> str:
    """`a.yaml:3` as it may stand in a line of output; the file alone for line 0."""
    where = file if file.isprintable() else repr(file)
    return f"{where}:{line}" if line else where


def printable(text: str) -> str:
    """Text from a file as it may stand in a line of output: escaped when it has control characters, and shortened."""
    return text if text.isprintable() and len(text) <= 80 else shown(text)


def harmless(text: str) -> str:
    """What another program said, as it may be shown: lines stay, and what a terminal would obey is escaped."""
    flat = text.replace("\t", " ")
    return "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in flat)


def dotted(path: tuple[str | int, ...]) -> str:
    """`("spec", "std", 0)` as `spec.std[0]`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{printable(step)}" for step in path)
    return "".join(steps).removeprefix(".")


def described(error: ValidationError) -> str:
    """Every problem, one a line."""
    lines = []
    for detail in error.errors(include_url=False):
        message, right = describe(detail)
        lines.append(f"{dotted(detail['loc'])}: {message}" + (f"; {right}" if right else ""))
    return "\n".join(lines)


def describe(detail: Any) -> tuple[str, str]:
    """What is wrong and what would be right, of one pydantic error (`ValidationError.errors()[i]`)."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    match kind:
        case "missing":
            return "missing", "this field is required"
        case "int_type" | "float_type" | "bool_type":
            noun, fits = {
                "int_type": ("a whole number", {"int"}),
                "float_type": ("a number", {"int", "float"}),
                "bool_type": ("true or false", {"bool"}),
            }[kind]
            # Only quotes make text of it.
            quoted = isinstance(value, str) and plain_type(value) in fits
            return f"{shown(value)} is not {noun}", "write it without quotes" if quoted else f"write {noun}"
        case "string_type":
            return f"{shown(value)} is not text", "put it in quotes"
        case "list_type":
            return f"{shown(value)} is not a list", "write [first, second] or lines that begin with -"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{shown(value)} is not a mapping", "write fields below it"
        case "literal_error":
            return f"{shown(value)} is not known", f"write {context['expected']}"
        case "greater_than_equal":
            return f"{shown(value)} is too small", f"at least {context['ge']}"
        case "greater_than":
            return f"{shown(value)} is too small", f"more than {context['gt']}"
        case "less_than_equal":
            return f"{shown(value)} is too large", f"at most {context['le']}"
        case "string_too_short":
            return "empty", f"at least {context['min_length']} character"
        case "string_too_long":
            return f"{len(value)} characters are too many", f"at most {context['max_length']}"
        case "too_short":
            return f"too few: {context['actual_length']}", f"at least {context['min_length']}"
        case "too_long":
            return f"too many: {len(value)}", f"at most {context['max_length']}"
        case "finite_number":
            return f"{shown(value)} is not a finite number", "write a number"
        case _ if kind == RULE:
            return str(context["message"]), str(context["right"])
    return str(detail["msg"]), ""
