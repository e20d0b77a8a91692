"""What the clients of one HTTP server share: a connection pool with a beginning and an end."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx


class Client:
    """Requests below `base_url`; `timeout_s` bounds each of connecting, writing and each wait for data."""

    def __init__(self, base_url: str, *, timeout_s: float, headers: Mapping[str, str] | None = None) -> None:
        # The cluster is never behind the machine's web proxy.
        self._http = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=timeout_s, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()
