"""What the chart makes in each of the ways that people install it, made anew for each file of tests."""

from __future__ import annotations

import pytest
from helm_chart import VARIANTS, Json, template


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Json]]:
    return {name: template(values) for name, values in VARIANTS.items()}
