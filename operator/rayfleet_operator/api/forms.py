"""The forms that text fields take: durations, sizes, counts, names, addresses.

A form is an annotation on `str`. It checks the value in Python and puts the same bounds into the JSON schema: a short
`pattern` for tools, and a CEL rule with a readable message where a pattern does not say enough. Ranges of quantities
are regular expressions in both places, because CEL outside Kubernetes has no arithmetic on quantities.

Quantities may also be written as whole numbers, as Kubernetes allows. A bare fraction may not: the API server's
int-or-string has no place for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from rayfleet_operator.api import quantity
from rayfleet_operator.api.base import failure
from rayfleet_operator.api.patterns import LABEL

WORDS = "x-rayfleet-words"
"""JSON schema keyword: a form in words, for descriptions."""


@dataclass(frozen=True)
class Form:
    """Annotation of a `str` field: what it looks like, and what is said when it does not."""

    what: str
    """Completes "… is not": "a duration from 1ms to 1h"."""
    example: str
    max_length: int
    pattern: str | None = None
    """Regular expression for Go and Python, searched, so anchored where it has to be."""
    cel: str | None = None
    """Condition on `self` beyond the pattern."""
    check: Callable[[str], bool] | None = None
    """The same condition in Python, asked only when the pattern matches."""
    integers: tuple[int, int] | None = None
    """Smallest and largest whole number accepted in place of the text."""

    @property
    def right(self) -> str:
        return f"{self.what}, like {self.example}"

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        result: dict[str, Any] = {"type": "string", "maxLength": self.max_length, WORDS: self.right}
        if self.pattern:
            result["pattern"] = self.pattern
        rule = self.cel
        if self.integers:
            del result["type"]
            result |= {"x-kubernetes-int-or-string": True, "minimum": self.integers[0], "maximum": self.integers[1]}
            rule = rule and f"type(self) == int || {rule}"
        if rule:
            result["x-kubernetes-validations"] = [{"rule": rule, "message": f"must be {self.right}"}]
        return result

    def _validate(self, value: object) -> str:
        if self.integers and type(value) is int:
            if not self.integers[0] <= value <= self.integers[1]:
                raise self._failure(value)
            return str(value)
        if self.integers and isinstance(value, float):
            raise failure(f"{value} is a bare fraction", f'write it in quotes, like "{value}"')
        if not isinstance(value, str):
            raise failure(f"{shown(value)} is not text", f"write {self.right}")
        if len(value) > self.max_length:
            raise failure(f"{len(value)} characters are too many", f"at most {self.max_length}")
        if not self._fits_pattern(value) or (self.check and not self.check(value)):
            raise self._failure(value)
        return value

    def _fits_pattern(self, value: str) -> bool:
        # Go's $ is the very end; Python's also stands before a last newline.
        return self.pattern is None or bool(re.search(re.sub(r"\$$", r"\\Z", self.pattern), value, re.ASCII))

    def _failure(self, value: object) -> Exception:
        return failure(f"{shown(value)} is not {self.what}", f"write it like {self.example}")


CREDENTIALS = re.compile(r"(?<=://)[^/]*@")


def shown(value: object) -> str:
    """The value in a message, shortened, and without what stands before the @ of an address; nothing for a null."""
    whole = "nothing" if value is None else CREDENTIALS.sub("***@", repr(value))
    return whole if len(whole) <= 80 else f"{whole[:77]}..."


def _cel_text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def text(pattern: str, *, what: str, example: str, max_length: int) -> Form:
    """Text that matches `pattern`, anchored by itself; the API server says `what` instead of showing the pattern."""
    compiled = re.compile(pattern, re.ASCII)
    return Form(
        what=what,
        example=example,
        max_length=max_length,
        cel=f"self.matches({_cel_text(f'^({pattern})$')})",
        check=lambda value: compiled.fullmatch(value) is not None,
    )


def object_name(example: str) -> Form:
    """The name of a Kubernetes object of another kind: an RFC 1123 subdomain."""
    what = "the name of a Kubernetes object: lower-case letters, digits, inner hyphens and dots"
    return text(rf"{LABEL}(\.{LABEL})*", what=what, example=example, max_length=253)


DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
IS_DURATION = f"matches({_cel_text(DURATION)})"
"""CEL: what is no duration is refused for that alone, so a rule that compares two asks this first."""


def duration(low: str, high: str, *, example: str) -> Form:
    """A duration between two others, both included."""
    bounds = quantity.parse_duration(low), quantity.parse_duration(high)
    return Form(
        what=f"a duration from {low} to {high}",
        example=example,
        pattern=DURATION,
        max_length=16,
        cel=f"duration(self) >= duration('{low}') && duration(self) <= duration('{high}')",
        check=lambda value: bounds[0] <= quantity.parse_duration(value) <= bounds[1],
    )


# Quantities are int-or-string, and API servers before 1.34 ignore maxLength there when they estimate what a CEL rule
# costs. Their ranges are therefore in the pattern, which costs nothing, as far as digits can tell.

_DECIMALS = r"(\.[0-9]{1,3})?"
_HUNDREDTHS = r"0\.(0[1-9]|[1-9][0-9]?)[0-9]?"
_THOUSANDTHS = r"0\.[0-9]{0,2}[1-9]0{0,2}"
_TEN_THOUSANDTHS = r"0\.([1-9][0-9]{0,3}|0[1-9][0-9]{0,2}|00[1-9][0-9]?|000[1-9])"
"""More than 0 and less than 1 in the steps that Ray's scheduler counts in."""


LEAST_BYTES = 10**6
"""Of memory: less is a forgotten suffix."""


def memory() -> Form:
    """1M (10^6 bytes) to just below 10Ti: less is a forgotten suffix."""
    return Form(
        what="a size from 1M to 9.99Ti",
        example="512Mi or 4Gi",
        pattern=rf"^([1-9][0-9]{{6,12}}|[1-9][0-9]{{3,9}}(k|Ki)|(97[7-9]|9[89][0-9])Ki|[1-9][0-9]{{0,6}}{_DECIMALS}(M|Mi)"
        rf"|([1-9][0-9]{{0,3}}{_DECIMALS}|{_THOUSANDTHS})(G|Gi)|([1-9]{_DECIMALS}|{_THOUSANDTHS})(T|Ti))$",
        max_length=16,
        integers=(LEAST_BYTES, 10**13 - 1),
    )


def request_size() -> Form:
    """1Ki to 1Gi."""
    low, high = 2**10, 2**30
    return Form(
        what="a size from 1Ki to 1Gi",
        example="512Ki or 16Mi",
        pattern=rf"^([1-9][0-9]{{3,9}}|[1-9][0-9]{{0,5}}Ki|([1-9][0-9]{{0,2}}{_DECIMALS}|{_HUNDREDTHS})(M|Mi)"
        rf"|10([01][0-9]|2[0-4])Mi|(1|{_THOUSANDTHS})(G|Gi))$",
        max_length=16,
        cel=f"!self.matches('^[0-9]+$') || (int(self) >= {low} && int(self) <= {high})",
        check=lambda value: not value.isdigit() or low <= int(value) <= high,
        integers=(low, high),
    )


def cpus() -> Form:
    """More than 0, in steps of a ten-thousandth."""
    return Form(
        what="more than 0 and less than 1000 CPUs",
        example='"1", "0.5" or "500m"',
        pattern=rf"^([1-9][0-9]{{0,2}}(\.[0-9]{{1,4}})?|{_TEN_THOUSANDTHS}|[1-9][0-9]{{0,5}}m)$",
        max_length=8,
        integers=(1, 999),
    )


def gpus() -> Form:
    """A share of one GPU, or whole GPUs: nothing can be placed on one and a half."""
    return Form(
        what="a share of one GPU or a whole number of GPUs up to 99",
        example='"0.33" or "2"',
        pattern=rf"^([1-9][0-9]?|{_TEN_THOUSANDTHS}|[1-9][0-9]{{0,2}}m)$",
        max_length=8,
        integers=(1, 99),
    )
