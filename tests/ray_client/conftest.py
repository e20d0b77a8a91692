from __future__ import annotations

from collections.abc import Iterator

import pytest

from .stand_in import StandIn, stand_in


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as found:
        yield found


@pytest.fixture
def closed_port() -> str:
    """An address where nobody listens any more."""
    with stand_in() as found:
        return found.url
