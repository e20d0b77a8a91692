"""What the clients of one HTTP server share: a connection pool with a beginning and an end, and answers with a bound.

Who answers may be a pod in which somebody else's code runs: it must cost neither memory nor time without an end.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import cache
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx

MIB = 2**20


class BadAnswer(Exception):  # noqa: N818 - the name says it
    """The answer was not read to its end; the text completes "<where>: "."""


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    phrase: str
    """The status in words, as the server gives them."""
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


@cache
def _authorities() -> ssl.SSLContext:
    """For every client: one takes a megabyte and tens of milliseconds to make, and httpx makes one for each client,
    though Ray's addresses are http:// and use none."""
    return httpx.create_ssl_context(trust_env=False)


class Client:
    """Requests below `base_url`; `timeout_s` bounds each of connecting, writing and each wait for data."""

    def __init__(self, base_url: str, *, timeout_s: float, headers: Mapping[str, str] | None = None) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url,
            verify=_authorities(),
            # What is not packed cannot become a thousand times as large.
            headers={**(headers or {}), "accept-encoding": "identity"},
            timeout=timeout_s,
            # Somebody else's server does not choose whom the operator asks next.
            follow_redirects=False,
            # The cluster is never behind the machine's web proxy.
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def _exchange(self, method: str, path: str, *, at_most: int, within_s: float, **options: Any) -> Answer:
        """One request and its whole answer.

        Args:
            at_most: bytes of the answer's body.
            within_s: seconds for all of it, from connecting to the last byte.

        Raises:
            BadAnswer: it is too long or takes too long, is packed although asked not to be, or sends elsewhere.
            httpx.HTTPError: there is none.
        """
        content = bytearray()
        try:
            async with asyncio.timeout(within_s), self._http.stream(method, path, **options) as response:
                if response.is_redirect:
                    raise BadAnswer(f"{response.status_code}: it sends elsewhere, where nobody follows")
                packed = response.headers.get("content-encoding", "identity").strip().lower()
                if packed not in ("", "identity"):
                    raise BadAnswer(f"the answer is packed ({packed[:32]!r}), although it should not be")
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > at_most:
                        raise BadAnswer(f"the answer is longer than {at_most / MIB:g} MiB")
        except TimeoutError:
            raise BadAnswer(f"Timeout: no whole answer within {within_s:g} s") from None
        return Answer(response.status_code, response.reason_phrase, bytes(content))
