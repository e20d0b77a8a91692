"""Prometheus' HTTP API, or what speaks it: one question, one number.

Whatever goes wrong is an `Answer` with a problem: a rollout waits and says why, and nothing else depends on it.
"""

from __future__ import annotations

from pathlib import Path

import httpx

from rayfleet_operator.exchange import MIB, BadAnswer, Client
from rayfleet_operator.plan.measured import Answer
from rayfleet_operator.prometheus import reading

QUERY_PATH = "/api/v1/query"
WITHIN_S = 5.0
"""For a whole exchange. A query that is asked every few seconds should take less."""
LONGEST = MIB
"""Bytes of an answer. One number takes about a hundred; with more come the labels of series that are to be one."""

NOT_CONFIGURED = Answer(
    problem="no Prometheus is named in RAYFLEET_PROMETHEUS_URL (prometheus.url of the operator's chart)"
)


class Prometheus(Client):
    """Keep one for as long as the process runs. Made inside the event loop."""

    def __init__(self, url: str | None, token_file: Path | None = None, *, within_s: float = WITHIN_S) -> None:
        """
        Args:
            url: like http://prometheus.monitoring:9090, or with a path before Prometheus' own; None: there is none.
            token_file: holds a bearer token; read for each question, because a token may be replaced.
            within_s: seconds for a whole exchange.
        """
        super().__init__(url or "", timeout_s=within_s)
        self._url = url
        self._token_file = token_file
        self._within_s = within_s

    async def value(self, promql: str) -> Answer:
        """What the query means now."""
        if self._url is None:
            return NOT_CONFIGURED
        try:
            answer = await self._exchange(
                "POST",
                QUERY_PATH,
                at_most=LONGEST,
                within_s=self._within_s,
                headers=self._authorization(),
                # What nobody waits for any more need not be computed.
                data={"query": promql, "timeout": f"{1000 * self._within_s:.0f}ms"},
            )
        except NoToken as error:
            return Answer(problem=str(error))
        except BadAnswer as error:
            return Answer(problem=f"{error} ({self._url})")
        except httpx.HTTPError as error:
            return Answer(problem=f"Prometheus is unreachable: {self._url}: {str(error) or type(error).__name__}")
        return reading.read(answer)

    def _authorization(self) -> dict[str, str]:
        """Raises NoToken."""
        if self._token_file is None:
            return {}
        try:
            token = self._token_file.read_bytes().strip()
        except OSError as error:
            raise NoToken(f"no token: {self._token_file} cannot be read: {error.strerror}") from None
        # Found out here, because the HTTP client's error for it repeats the token.
        if not token.isascii() or not token.decode().isprintable():
            raise NoToken(f"no token: {self._token_file} holds characters that HTTP forbids in a header")
        if not token:
            raise NoToken(f"no token: {self._token_file} is empty")
        return {"authorization": f"Bearer {token.decode()}"}


class NoToken(Exception):  # noqa: N818 - the name says it
    """Why the token cannot be shown."""
