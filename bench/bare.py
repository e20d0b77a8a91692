"""Lets a checkout's serving package be imported where little but PyTorch is installed: import this before it.

A machine with a GPU to try things on may have no way to install anything. What is missing of what checks settings and
writes JSON is replaced by something that does neither; no benchmark that imports this measures it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

SERVING = Path(__file__).resolve().parent.parent / "serving"


class Values:
    """A pydantic model for those who only read its fields."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


if find_spec("rayfleet_serving") is None:
    sys.path.insert(0, str(SERVING))
for name, members in {"pydantic": {"BaseModel": Values, "ConfigDict": dict}, "orjson": {}}.items():
    if find_spec(name) is None:
        sys.modules[name] = MagicMock(**members)
