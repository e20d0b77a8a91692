"""One fleet's connections to its Ray clusters, kept from pass to pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rayfleet_operator.exchange import Client
from rayfleet_operator.ray.address import AddressClient
from rayfleet_operator.ray.routers import RouterClient
from rayfleet_operator.ray.serve import ServeClient

Kind = TypeVar("Kind", bound=Client)

SERVE_TIMEOUT_S = 5.0
"""A dashboard answers within milliseconds; one that does not is down, and must not hold up the pass."""


class Connections:
    """Clients by kind and address. Those that no pass asked for any more are closed by `tidy`."""

    def __init__(self) -> None:
        self._clients: dict[tuple[type[Client], str, str], Client] = {}
        self._used: set[tuple[type[Client], str, str]] = set()

    def serve(self, url: str, token: str) -> ServeClient:
        def connect() -> ServeClient:
            return ServeClient(url, token=token, timeout_s=SERVE_TIMEOUT_S, within_s=SERVE_TIMEOUT_S)

        return self._kept(ServeClient, url, connect, token)

    def routers(self, url: str) -> RouterClient:
        return self._kept(RouterClient, url, lambda: RouterClient(url))

    def address(self, url: str) -> AddressClient:
        return self._kept(AddressClient, url, lambda: AddressClient(url))

    def _kept(self, kind: type[Kind], url: str, connect: Callable[[], Kind], token: str = "") -> Kind:
        key = (kind, url, token)
        self._used.add(key)
        client = self._clients.get(key)
        if not isinstance(client, kind):
            client = self._clients[key] = connect()
        return client

    async def tidy(self) -> None:
        """Close the clients that were not asked for since the last `tidy`."""
        for key in self._clients.keys() - self._used:
            await self._clients.pop(key).close()
        self._used.clear()

    async def close(self) -> None:
        self._used.clear()
        await self.tidy()
