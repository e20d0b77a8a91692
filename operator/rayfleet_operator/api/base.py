"""What every API type has in common: camelCase outside, unknown fields refused, and rules that hold in two places.

A rule is written once, as a Python check and as the CEL expression that the API server runs, so `rayfleet validate`
and `kubectl apply` refuse the same documents. All broken rules are reported together with the field errors.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

Item = TypeVar("Item")

BY_NAME = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
"""Schema of a list whose items have a `name`, by which it is merged."""

RULE = "rule"
"""Type of the errors made by `failure`."""
UNKNOWN_FIELD = "unknown field"
"""Message of the error for a field that there is not."""


def failure(message: str, right: str = "") -> PydanticCustomError:
    """A validation error that says what is wrong and, in its context, what would be right."""
    return PydanticCustomError(RULE, "{message}", {"message": message, "right": right})


def each_once(items: list[Item]) -> list[Item]:
    """Refuse the second of two items that are equal, or have one name where they have names, as the API server does.

    A validator for lists of type set, and of type map with the key `name`.
    """
    seen: set[Any] = set()
    errors: list[InitErrorDetails] = []
    for index, item in enumerate(items):
        key = getattr(item, "name", item)
        if key in seen:
            kind = failure(f"{key!r} is there twice", "each one once")
            errors.append(InitErrorDetails(type=kind, loc=(index,), input=key))
        seen.add(key)
    if errors:
        raise ValidationError.from_exception_data("list", errors)
    return items


@dataclass(frozen=True)
class Rule:
    """A condition on several fields of one object."""

    cel: str
    """The condition for the API server; `self` is the object. The fields it names are those the check reads."""
    check: Callable[[Any], bool]
    """The same condition for Python, on the validated object."""
    message: str
    right: str
    field: str
    """Field to blame, relative to the object, in camelCase with dots."""

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(re.findall(r"\bself\.(\w+)", self.cel))


def add_rules(schema: dict[str, Any], api_type: type[BaseModel]) -> None:
    """Put the type's rules into its JSON schema."""
    if rules := getattr(api_type, "rules", ()):
        schema["x-kubernetes-validations"] = [
            {"rule": rule.cel, "message": f"{rule.message}; {rule.right}", "fieldPath": f".{rule.field}"}
            for rule in rules
        ]


class ApiModel(BaseModel):
    """Base of every API type: camelCase outside, unknown fields refused, instances immutable.

    Numbers and booleans are strict, as they are for the API server: "32" is no integer.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        json_schema_extra=add_rules,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="wrap")
    @classmethod
    def _hold_to_rules(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Validate fields and rules; raise all their errors at once, where pydantic stops at the fields."""
        errors: list[InitErrorDetails] = []
        bad: set[str] = set()
        value: Self | None
        try:
            value = handler(data)
        except ValidationError as error:
            errors = [cls._restate(detail) for detail in error.errors(include_url=False)]
            bad = {str(detail["loc"][0]) for detail in errors if detail["loc"]}
            value = cls._without(data, bad, handler)
        if value is not None:
            for rule in cls.rules:
                if not rule.reads & bad and not rule.check(value):
                    kind = failure(rule.message, rule.right)
                    errors.append(InitErrorDetails(type=kind, loc=tuple(rule.field.split(".")), input=data))
        if errors or value is None:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return value

    @classmethod
    def _without(cls, data: Any, bad: set[str], handler: ModelWrapValidatorHandler[Self]) -> Self | None:
        """The object without its bad fields, so that rules on the others can run; None when a required one is bad."""
        if not isinstance(data, dict) or not bad:
            return None
        try:
            return handler({key: value for key, value in data.items() if key not in bad})
        except ValidationError:
            return None

    @classmethod
    def _restate(cls, detail: Any) -> InitErrorDetails:
        """One pydantic error, ready to be raised again; an unknown field gets the names it may have meant."""
        kind, loc, context = detail["type"], detail["loc"], detail.get("ctx", {})
        if kind == "extra_forbidden" and len(loc) == 1:
            kind = failure(UNKNOWN_FIELD, cls.suggest(str(loc[0])))
        elif kind == RULE:
            kind = failure(context["message"], context["right"])
        return InitErrorDetails(type=kind, loc=loc, input=detail["input"], ctx=context)

    @classmethod
    def suggest(cls, name: str) -> str:
        """What a person who wrote the unknown field `name` may have meant."""
        known = [field.alias or key for key, field in cls.model_fields.items()]
        close = difflib.get_close_matches(to_camel(name).lower(), [key.lower() for key in known], n=1)
        if close:
            return f"did you mean {next(key for key in known if key.lower() == close[0])}?"
        return f"the fields here are {', '.join(known)}"
