"""Ray Serve's REST API: read what is deployed, give a config, delete everything."""

from __future__ import annotations

from typing import Any

import httpx

from rayfleet_operator.plan.observed import ObservedApp
from rayfleet_operator.ray import observe
from rayfleet_operator.ray.client import Client

APPLICATIONS_PATH = "/api/serve/applications/"


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
    """

    def __init__(self, base_url: str, *, token: str | None = None, timeout_s: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(base_url, timeout_s=timeout_s, headers=headers)

    async def applications(self) -> dict[str, ObservedApp]:
        """Every application by name, {} when Serve is not running. Raises ServeError."""
        response = await self._call("GET")
        try:
            return observe.applications(response.json())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServeUnreachable(f"{response.url} does not answer as Ray Serve does: {error!r}") from error

    async def put(self, config: bytes) -> None:
        """Make Serve run exactly this config; starts Serve when it is not running. Raises ServeError."""
        await self._call("PUT", content=config, headers={"Content-Type": "application/json"})

    async def delete(self) -> None:
        """Stop Serve and everything on it. Raises ServeError."""
        await self._call("DELETE")

    async def _call(self, method: str, **options: Any) -> httpx.Response:
        where = f"{method} {self._http.base_url.join(APPLICATIONS_PATH)}"
        try:
            response = await self._http.request(method, APPLICATIONS_PATH, **options)
        except httpx.HTTPError as error:
            raise ServeUnreachable(f"{where}: {str(error) or type(error).__name__}") from error
        if response.status_code in (401, 403):
            raise ServeRejected(f"{where}: {response.status_code}; the Ray cluster asks for its auth token")
        if response.is_success:
            return response
        # A refused config is answered 400 with the validation error, or with a traceback that ends in it.
        text = response.text.strip()
        refused = 400 <= response.status_code < 500
        kind = ServeRejected if refused else ServeUnreachable
        raise kind(f"{where}: {response.status_code} {text[-2000:] or response.reason_phrase}")
