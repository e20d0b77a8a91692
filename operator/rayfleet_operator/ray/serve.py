"""Ray Serve's REST API: read what is deployed, give a config, delete everything."""

from __future__ import annotations

import json
from typing import Any

import httpx

from rayfleet_operator.exchange import MIB, Answer, BadAnswer, Client
from rayfleet_operator.plan.observed import ObservedApp
from rayfleet_operator.ray import observe

APPLICATIONS_PATH = "/api/serve/applications/"
LONGEST = 16 * MIB
"""Bytes of an answer. A replica takes about a thousand of them, a failed application a few tracebacks."""


class ServeError(Exception):
    """Base of both errors; the text says what was asked, where, and what came back."""


class ServeUnreachable(ServeError):  # noqa: N818 - the name says it
    """No useful answer: refused, silence, or an error that says nothing about the request. Asking again may help."""


class ServeRejected(ServeError):  # noqa: N818 - the name says it
    """Serve understood and refused. Asking the same again will not help."""


class ServeClient(Client):
    """One Ray dashboard.

    `base_url` is the dashboard's, like http://127.0.0.1:8265. `token` is the cluster's auth token where it has one.
    `timeout_s` bounds each of connecting, writing and each wait for data; a PUT that also starts Serve takes seconds.
    `within_s` bounds a whole call, however steadily its answer drips.
    """

    def __init__(
        self, base_url: str, *, token: str | None = None, timeout_s: float = 30.0, within_s: float = 60.0
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(base_url, timeout_s=timeout_s, headers=headers)
        self._within_s = within_s

    async def applications(self) -> dict[str, ObservedApp]:
        """Every application by name, {} when Serve is not running. Raises ServeError."""
        answer = await self._call("GET")
        try:
            return observe.applications(json.loads(answer.content))
        # Brackets within brackets without end are valid JSON, too.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            text = f"{self._where('GET')} is not answered as Ray Serve does: {repr(error)[:200]}"
            raise ServeUnreachable(text) from error

    async def put(self, config: bytes) -> None:
        """Make Serve run exactly this config; starts Serve when it is not running. Raises ServeError."""
        await self._call("PUT", content=config, headers={"Content-Type": "application/json"})

    async def delete(self) -> None:
        """Stop Serve and everything on it. Raises ServeError."""
        await self._call("DELETE")

    async def _call(self, method: str, **options: Any) -> Answer:
        where = self._where(method)
        try:
            answer = await self._exchange(
                method, APPLICATIONS_PATH, at_most=LONGEST, within_s=self._within_s, **options
            )
        except BadAnswer as error:
            raise ServeUnreachable(f"{where}: {error}") from error
        except httpx.HTTPError as error:
            raise ServeUnreachable(f"{where}: {str(error) or type(error).__name__}") from error
        if answer.status in (401, 403):
            raise ServeRejected(f"{where}: {answer.status}; the Ray cluster asks for its auth token")
        if answer.is_success:
            return answer
        # A refused config is answered 400 with the validation error, or with a traceback that ends in it.
        text = answer.content.decode(errors="replace").strip()
        refused = 400 <= answer.status < 500
        kind = ServeRejected if refused else ServeUnreachable
        raise kind(f"{where}: {answer.status} {text[-2000:] or answer.phrase}")

    def _where(self, method: str) -> str:
        return f"{method} {self._http.base_url.join(APPLICATIONS_PATH)}"
