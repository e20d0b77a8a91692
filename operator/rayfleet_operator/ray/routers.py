"""The routers' own reports, read through the endpoint that serves the models."""

from __future__ import annotations

import asyncio

import httpx
from pydantic import ValidationError

from rayfleet_operator.ray.client import Client
from rayfleet_serving.config import TRAFFIC_PATH, RouterState, TrafficReport

TIMEOUT_S = 3.0
"""For the whole exchange, in which a router waits up to two seconds for a silent one. Otherwise it takes milliseconds;
no answer only means that nothing is moved in this pass."""


class RouterClient(Client):
    """`endpoint` is where models are served, like http://127.0.0.1:8000."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint, timeout_s=TIMEOUT_S)

    async def states(self) -> tuple[RouterState, ...]:
        """One state for each router that answered in time; () when none did."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await self._http.get(TRAFFIC_PATH)
            response.raise_for_status()
            return tuple(TrafficReport.model_validate_json(response.content).routers)
        except (httpx.HTTPError, TimeoutError, ValidationError):
            return ()
