"""Every case of the API."""

from __future__ import annotations

import re
from typing import Any

from .case import Case
from .fleet_cases import FLEETS
from .model_cases import MODELS

__all__ = ["CASES", "FLEETS", "MODELS", "Case", "merged", "same_field"]

CASES = [*MODELS, *FLEETS]


def same_field(path: str, field: str) -> bool:
    """Whether a path of the API server means the field that validate names.

    It writes the keys of a map in brackets. Where an object stands in place of a text or a list, it names the fields in
    it.
    """
    plain = re.sub(r"\[([^]]*[^]0-9][^]]*)]", r".\1", path)
    return plain == field or plain.startswith(f"{field}.")


def merged(first: Any, second: Any) -> Any:
    """Both objects as one; where they contradict each other, the second."""
    if isinstance(first, dict) and isinstance(second, dict):
        common = {key: merged(first[key], second[key]) for key in first.keys() & second.keys()}
        return {**first, **second, **common}
    return second
