"""One fleet's connections to its Ray clusters, kept from pass to pass."""

from __future__ import annotations

from rayfleet_operator.ray.address import AddressClient
from rayfleet_operator.ray.client import Client
from rayfleet_operator.ray.routers import RouterClient
from rayfleet_operator.ray.serve import ServeClient

SERVE_TIMEOUT_S = 5.0
"""A dashboard answers within milliseconds; one that does not is down, and must not hold up the pass."""


class Connections:
    """Clients by address. Those that no pass asked for any more are closed by `tidy`."""

    def __init__(self) -> None:
        self._clients: dict[tuple[str, ...], Client] = {}
        self._used: set[tuple[str, ...]] = set()

    def serve(self, url: str, token: str) -> ServeClient:
        key = ("serve", url, token)
        self._used.add(key)
        client = self._clients.get(key)
        if not isinstance(client, ServeClient):
            client = self._clients[key] = ServeClient(
                url, token=token, timeout_s=SERVE_TIMEOUT_S, within_s=SERVE_TIMEOUT_S
            )
        return client

    def routers(self, url: str) -> RouterClient:
        key = ("routers", url)
        self._used.add(key)
        client = self._clients.get(key)
        if not isinstance(client, RouterClient):
            client = self._clients[key] = RouterClient(url)
        return client

    def address(self, url: str) -> AddressClient:
        key = ("address", url)
        self._used.add(key)
        client = self._clients.get(key)
        if not isinstance(client, AddressClient):
            client = self._clients[key] = AddressClient(url)
        return client

    async def tidy(self) -> None:
        """Close the clients that were not asked for since the last `tidy`."""
        for key in self._clients.keys() - self._used:
            await self._clients.pop(key).close()
        self._used.clear()

    async def close(self) -> None:
        self._used.clear()
        await self.tidy()
