"""The routers' own reports, read through the endpoint that serves the models."""

from __future__ import annotations

import httpx
from pydantic import ValidationError

from rayfleet_operator.exchange import MIB, BadAnswer, Client
from rayfleet_serving.config import TRAFFIC_PATH, RouterState, TrafficReport

TIMEOUT_S = 3.0
"""For the whole exchange, in which a router waits up to two seconds for a silent one. Otherwise it takes milliseconds;
no answer only means that nothing is moved in this pass."""
LONGEST = 8 * MIB
"""Bytes of a report. Each router tells of each version, in about a hundred."""


class RouterClient(Client):
    """`endpoint` is where models are served, like http://127.0.0.1:8000."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint, timeout_s=TIMEOUT_S)

    async def states(self) -> tuple[RouterState, ...]:
        """One state for each router that answered in time; () when none did."""
        try:
            answer = await self._exchange("GET", TRAFFIC_PATH, at_most=LONGEST, within_s=TIMEOUT_S)
            return tuple(TrafficReport.model_validate_json(answer.content).routers) if answer.is_success else ()
        except (httpx.HTTPError, BadAnswer, ValidationError):
            return ()
