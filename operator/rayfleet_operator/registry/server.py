"""One MLflow server over HTTP: bounded requests, typed answers, and its failures in words.

Nothing here knows what a model is; `mlflow` asks the questions. An error that MLflow itself answers is a `Rejection`
for the asker to understand. Everything else that goes wrong is a `RegistryError`.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from rayfleet_operator.registry.credentials import Credentials
from rayfleet_operator.registry.errors import NotAllowed, RegistryUnreachable

API = "/api/2.0/mlflow/"
FIELD = "spec.model.registry.trackingUri"
"""Where people name the server; errors point to it."""

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
"""An error_code, as RESOURCE_DOES_NOT_EXIST."""

Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long and how much one resolution may take. MLflow's own client waits minutes for a server that is down."""

    connect_s: float = 2.0
    """For each TCP and TLS handshake."""
    total_s: float = 5.0
    """For one URI, all its requests and retries together."""
    pause_s: float = 0.2
    """Before the one retry."""
    body_bytes: int = 4 * 1024 * 1024
    """Of one answer, as it comes: none is unpacked. Real answers are a few kilobytes."""


class Rejection(Exception):  # noqa: N818 - an answer, and an error only where the asker did not expect it
    """MLflow understood the request and said no."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        """MLflow's error_code, as RESOURCE_DOES_NOT_EXIST."""
        self.message = message


class NoSuchEndpoint(RegistryUnreachable):
    """404 without MLflow's error body: an older MLflow, or another kind of server."""


class TrackingServer:
    """Asks one MLflow server, over connections that are not its own to close."""

    def __init__(
        self, client: httpx.AsyncClient, uri: str, credentials: Credentials, bounds: Bounds, permission: str = "READ"
    ) -> None:
        """
        Args:
            permission: what MLflow calls the one that is needed; errors name it.
        """
        self.uri = uri.rstrip("/")
        """The tracking URI without a slash at the end; free of credentials, so fit for messages."""
        self.bounds = bounds
        self._client = client
        self._credentials = credentials
        self._permission = permission

    async def get(self, path: str, params: Mapping[str, str | int], answer: type[Answer]) -> Answer:
        """
        Args:
            path: below /api/2.0/mlflow/.
            answer: shape of the JSON object that is expected; other keys in it are ignored.

        Raises:
            Rejection: MLflow answered with an error of its own.
            NotAllowed, RegistryUnreachable: see there.
        """
        return self._parse(await self._exchange("GET", API + path, params=params), answer)

    async def post(self, path: str, body: Mapping[str, Any], answer: type[Answer]) -> Answer:
        """Like `get`, with a JSON body. Whatever is asked here may be done twice, so it is retried as well."""
        return self._parse(await self._exchange("POST", API + path, body=body), answer)

    async def delete(self, path: str, body: Mapping[str, Any]) -> None:
        """Like `post`."""
        await self._exchange("DELETE", API + path, body=body)

    async def run_artifact(self, run_id: str, path: str) -> bytes:
        """The bytes of one file among a run's artifacts, through the server. Raises as `get` does."""
        return await self._exchange("GET", "/get-artifact", params={"run_uuid": run_id, "path": path})

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> bytes:
        """One request, and one more if the first met no working server, unless that asks to be left alone."""
        try:
            return await self._exchange_once(method, path, params, body)
        except NoSuchEndpoint:
            raise
        except RegistryUnreachable as error:
            if error.retry_after_s is not None:
                raise
            await asyncio.sleep(self.bounds.pause_s)
        return await self._exchange_once(method, path, params, body)

    async def _exchange_once(
        self, method: str, path: str, params: Mapping[str, str | int] | None, body: Mapping[str, Any] | None
    ) -> bytes:
        try:
            # What is not packed cannot become a thousand times as large.
            headers = {"accept-encoding": "identity", **self._credentials.headers()}
        except ValueError:
            raise NotAllowed(
                f"The credentials for MLflow at {self.uri} ({self._credentials}) cannot be sent: "
                f"they hold a line break or another character that HTTP forbids."
            ) from None
        try:
            async with self._client.stream(
                method, self.uri + path, params=params, json=body, headers=headers
            ) as response:
                content = await self._read(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._broken(error) from error
        if response.status_code == httpx.codes.OK:
            return content
        raise self._failure(response, content)

    async def _read(self, response: httpx.Response) -> bytes:
        packed = response.headers.get("content-encoding", "identity").strip().lower()
        if packed not in ("", "identity"):
            raise RegistryUnreachable(
                f"MLflow at {self.uri}, or a proxy in front of it, packs its answers (content-encoding "
                f"{packed[:32]!r}, status {response.status_code}) although it was asked not to. They are not unpacked, "
                f"because nobody knows how large they become. Switch compression off there, or put an address "
                f"without that proxy in {FIELD}."
            )
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self.bounds.body_bytes:
                raise self._stranger(f"an answer of more than {self.bounds.body_bytes} bytes")
        return bytes(content)

    def _parse(self, content: bytes, answer: type[Answer]) -> Answer:
        try:
            return answer.model_validate_json(content)
        except ValidationError as error:
            raise self._stranger("an answer in another form") from error

    def _failure(self, response: httpx.Response, content: bytes) -> Exception:
        """What a status other than 200 means."""
        status = response.status_code
        code, message = _error_body(content)
        match status:
            case 401:
                return NotAllowed(self._unauthorized())
            case 403 if b"Invalid Host header" in content:
                host = response.request.headers["host"]
                return NotAllowed(
                    f"MLflow at {self.uri} refuses requests for the host {host!r} (Invalid Host header). "
                    f'Start it with --allowed-hosts "{host},…" or MLFLOW_SERVER_ALLOWED_HOSTS; the port is part of the '
                    f"name, and /health answers even while every other request is refused."
                )
            case 403:
                return NotAllowed(
                    f"MLflow at {self.uri} knows {self._credentials} and does not permit "
                    f"{'reading' if self._permission == 'READ' else 'changing'} this model"
                    f"{f': {message}' if message else ''}. Grant {self._permission} on it."
                )
            case _ if 300 <= status < 400:
                target = response.headers.get("location", "another address").split("?")[0]
                return RegistryUnreachable(
                    f"{self.uri} redirects to {target!r}, and credentials are not carried elsewhere. "
                    f"If MLflow is there, put that address in {FIELD}; if it is a login page, "
                    f"name an address of MLflow that needs none."
                )
            case _ if status >= 500 or status == 429:
                return RegistryUnreachable(
                    f"MLflow at {self.uri} answered {status}{f': {message}' if message else ''}. See the server's log.",
                    _retry_after_s(response),
                )
            case _ if code:
                return Rejection(code, message)
            case 404:
                return NoSuchEndpoint(self._stranger("404, without an MLflow error").message)
            case _:
                return self._stranger(str(status))

    def _unauthorized(self) -> str:
        if self._credentials.headers():
            return f"MLflow at {self.uri} refuses {self._credentials}: wrong or expired."
        return (
            f"MLflow at {self.uri} asks for credentials and got none. Set MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN: in the environment, from where they are sent only "
            f"to MLFLOW_TRACKING_URI where that is set, path included, and for no model with a caConfigMapName; or on "
            f"Kubernetes in the Secret that spec.model.registry.secretName names."
        )

    def _broken(self, error: Exception) -> RegistryUnreachable:
        """What an exchange without an answer means."""
        causes = list(_causes(error))
        check = f"Check that it runs, and its address: {FIELD} or, where that is left out, MLFLOW_TRACKING_URI."
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            return RegistryUnreachable(f"{self.uri} is not a usable address. {check}")
        if certificate := next((c for c in causes if isinstance(c, ssl.SSLError)), None):
            return RegistryUnreachable(
                f"No secure connection to MLflow at {self.uri}: {certificate.reason or certificate}. Trust its "
                f"certificate's authority with MLFLOW_TRACKING_SERVER_CERT_PATH, or on Kubernetes with "
                f"spec.model.registry.caConfigMapName, or check that the server speaks TLS."
            )
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return RegistryUnreachable(f"The host of {self.uri} is unknown to the name service. {check}")
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return RegistryUnreachable(f"MLflow at {self.uri} refuses connections: nothing listens there. {check}")
        if isinstance(error, httpx.ConnectTimeout):
            seconds = self.bounds.connect_s
            return RegistryUnreachable(f"MLflow at {self.uri} took no connection within {seconds:g} s. {check}")
        if isinstance(error, httpx.TimeoutException):
            return self.silent()
        if isinstance(error, httpx.ConnectError):
            return RegistryUnreachable(f"No connection to MLflow at {self.uri}. {check}")
        return RegistryUnreachable(f"{self.uri} broke off the answer, or speaks something other than HTTP. {check}")

    def silent(self) -> RegistryUnreachable:
        """The error for a server that let `total_s` pass."""
        seconds = self.bounds.total_s
        return RegistryUnreachable(
            f"MLflow at {self.uri} gave no full answer within {seconds:g} s. Check the server's load and log."
        )

    def _stranger(self, got: str) -> RegistryUnreachable:
        return RegistryUnreachable(
            f"{self.uri} answers, but not as an MLflow server does: {got}. Check that {FIELD} "
            f"names the MLflow server itself, with its path prefix if it has one."
        )


def _error_body(content: bytes) -> tuple[str, str]:
    """MLflow's error_code and message, the latter shortened; both empty when the body is no error of MLflow's. Whoever
    names a server must not read through the message what others answer that only the operator reaches."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    code, message = body.get("error_code"), body.get("message")
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return "", ""
    return code, (message[:300] if isinstance(message, str) else "")


def _retry_after_s(response: httpx.Response) -> float | None:
    """The answer's Retry-After, a number of seconds or a date; as `RegistryUnreachable` has it."""
    text = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0 if response.status_code == httpx.codes.TOO_MANY_REQUESTS else None
    # A date without a zone is in UTC, as every date of HTTP.
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and everything that led to it; connection attempts to several addresses come as a group."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                yield from _causes(each)
        error = error.__cause__ or error.__context__
