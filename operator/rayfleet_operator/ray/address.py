"""A fleet's own address, asked as its users ask it."""

from __future__ import annotations

import httpx

from rayfleet_operator.exchange import MIB, BadAnswer, Client

LIVE_PATH = "/v2/health/live"
"""What any router answers at once."""
TIMEOUT_S = 2.0
"""For the whole exchange, which otherwise takes milliseconds."""


class AddressClient(Client):
    """`endpoint` is a Service, like http://10.96.0.17:8000. No connection is kept: the way that a Service leads is
    chosen anew for each, and it may lead nowhere while one that was made before goes on."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint, timeout_s=TIMEOUT_S, headers={"connection": "close"})

    async def answers(self) -> bool:
        """Whether a router answers there now."""
        try:
            answer = await self._exchange("GET", LIVE_PATH, at_most=MIB, within_s=TIMEOUT_S)
        except (httpx.HTTPError, BadAnswer):
            return False
        return answer.is_success
