"""One request to the API server: its pace, its retries, its metrics, and what its failure means."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from rayfleet_operator.bucket import TokenBucket
from rayfleet_operator.kube import errors
from rayfleet_operator.kube.config import ConfigError, Connection
from rayfleet_operator.kube.errors import KubeError
from rayfleet_operator.metrics import RequestMetrics

CONNECT_S = 10.0
READ_S = 30.0
"""Between bytes. The API server itself ends what takes a minute."""
READ_PAUSES_S = (0.2, 0.5, 1.5)
"""Before each further try of a request that only reads."""
BUSY_TRIES = 5
"""Of a request that the API server has not looked at, because it was busy."""
BUSY_S = 1.0
"""Between these, where the API server does not say."""
LONGEST_BUSY_S = 15.0
"""A reconcile has a deadline; to wait longer is for the work queue."""
CONNECTIONS = 32
"""Kept for ordinary requests. Watches have a pool of their own, without a limit but that of open files."""
USER_AGENT = "rayfleet-operator"

logger = logging.getLogger(__name__)


class Request(NamedTuple):
    """What is asked."""

    method: str
    path: str
    about: str
    """Completes "not allowed to …" and the like: "get Secret ml/token"."""
    params: Mapping[str, str] | None = None
    body: Any = None
    content_type: str = "application/json"
    accept: str | None = None
    """Another form of the answer than the whole of it as JSON."""


class Transport:
    """Connections to one API server. `bucket` sets the pace; None: as fast as asked."""

    def __init__(
        self, connection: Connection, *, bucket: TokenBucket | None = None, metrics: RequestMetrics | None = None
    ) -> None:
        self._connection = connection
        self._bucket = bucket
        self._metrics = metrics
        self._host = urlsplit(connection.server).netloc
        self._warned: set[str] = set()

        def pool(limits: httpx.Limits) -> httpx.AsyncClient:
            return httpx.AsyncClient(
                base_url=connection.server,
                verify=connection.tls,
                timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
                limits=limits,
                headers={"user-agent": USER_AGENT, "accept": "application/json"},
                # The API server is where the configuration says, not behind the machine's web proxy.
                trust_env=False,
            )

        self._http = pool(httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS))
        self._watches = pool(httpx.Limits(max_connections=None, max_keepalive_connections=0))

    async def close(self) -> None:
        await self._http.aclose()
        await self._watches.aclose()

    async def send(self, request: Request) -> dict[str, Any]:
        """The answer's JSON object. Raises a `KubeError`."""
        pauses = list(READ_PAUSES_S) if request.method == "GET" else []
        busy = 0
        while True:
            await self._pace()
            try:
                return await self._once(request)
            except errors.TooManyRequests as error:
                busy += 1
                wait = error.retry_after_s if error.retry_after_s is not None else BUSY_S
                if busy >= BUSY_TRIES or wait > LONGEST_BUSY_S:
                    raise
            except errors.Unreachable as error:
                if not pauses:
                    raise
                wait = max(pauses.pop(0), error.retry_after_s or 0.0)
                if wait > LONGEST_BUSY_S:
                    raise
            await asyncio.sleep(wait * random.uniform(1.0, 1.2))  # noqa: S311 - spreads retries

    @asynccontextmanager
    async def stream(self, request: Request, *, silence_s: float) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of an answer that goes on for long; `silence_s` is the longest wait for a next one."""
        limits = httpx.Timeout(READ_S, connect=CONNECT_S, read=silence_s)
        try:
            async with self._answer(self._watches, request, limits) as response:
                yield response.aiter_lines()
        except httpx.RequestError as error:
            raise self._broken(error, request) from error

    async def _pace(self) -> None:
        if self._bucket is not None and (wait := self._bucket.take()) > 0:
            await asyncio.sleep(wait)

    async def _once(self, request: Request) -> dict[str, Any]:
        try:
            async with self._answer(self._http, request, self._http.timeout) as response:
                content = await response.aread()
        except httpx.RequestError as error:
            raise self._broken(error, request) from error
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise KubeError(f"cannot {request.about}: {self._connection.server} does not answer as an API server does")
        return answer

    @asynccontextmanager
    async def _answer(
        self, http: httpx.AsyncClient, request: Request, limits: httpx.Timeout
    ) -> AsyncIterator[httpx.Response]:
        """The answer to a request that succeeded, its head read."""
        refused = None
        while True:
            header = await self._header(refused, request)
            async with self._timed(http, request, limits, header) as response:
                if response.is_success:
                    self._pass_on_warnings(response)
                    yield response
                    return
                content = await response.aread()
            # A token that was replaced a moment ago is no reason to fail.
            if response.status_code != httpx.codes.UNAUTHORIZED or header == await self._header(header, request):
                raise failure(request, response, content)
            refused = header

    async def _header(self, refused: str | None, request: Request) -> str | None:
        try:
            return await self._connection.credentials.header(refused=refused)
        except ConfigError as error:
            raise errors.Unauthorized(f"cannot {request.about}: {error}") from error

    @asynccontextmanager
    async def _timed(
        self, http: httpx.AsyncClient, request: Request, limits: httpx.Timeout, header: str | None
    ) -> AsyncIterator[httpx.Response]:
        headers = {"content-type": request.content_type} if request.body is not None else {}
        if request.accept is not None:
            headers["accept"] = request.accept
        if header is not None:
            headers["authorization"] = header
        sent = http.build_request(
            request.method,
            request.path,
            params=request.params,
            content=None if request.body is None else encoded(request.body),
            headers=headers,
            timeout=limits,
        )
        began, code = time.perf_counter(), None
        try:
            response = await http.send(sent, stream=True)
            code = response.status_code
        finally:
            if self._metrics is not None:
                self._metrics.answered(
                    method=request.method, host=self._host, code=code, seconds=time.perf_counter() - began
                )
        try:
            yield response
        finally:
            await response.aclose()

    def _pass_on_warnings(self, response: httpx.Response) -> None:
        """What the API server warns of, like a deprecated field, is said once."""
        for warning in response.headers.get_list("warning"):
            # Like: 299 - "unknown field \\"spec.x\\""
            text = warning.partition('"')[2].rpartition('"')[0].replace('\\"', '"') or warning
            if text not in self._warned and len(self._warned) < 100:
                self._warned.add(text)
                logger.warning("The API server warns: %s", text)

    def _broken(self, error: httpx.RequestError, request: Request) -> errors.Unreachable:
        what = _SILENCES.get(type(error), f"broke off ({str(error) or type(error).__name__})")
        return errors.Unreachable(f"cannot {request.about}: the API server {self._connection.server} {what}")


_NOT_YAML = re.compile("[\x7f-\x9f\ufeff\ufffe\uffff]")
"""Characters that JSON holds as they are and the API server's reader of YAML does not."""
_HALVES = re.compile("[\ud800-\udfff]")
"""Halves of a pair of UTF-16, which are no characters."""


def encoded(body: object) -> bytes:
    """JSON that is YAML as well, as the API server reads it (sigs.k8s.io/yaml): that reader refuses JSON's way to
    escape what lies beyond U+FFFF, so such characters stand as they are, and those that it refuses raw are escaped.
    Halves of characters, which nothing can read, become U+FFFD."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    text = _NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return _HALVES.sub("\ufffd", text).encode()


_SILENCES: dict[type[httpx.RequestError], str] = {
    httpx.ConnectError: "takes no connection",
    httpx.ConnectTimeout: f"took no connection within {CONNECT_S:g} s",
    httpx.ReadTimeout: "fell silent",
    httpx.PoolTimeout: "keeps every connection busy",
}

_BY_CODE: dict[int, type[KubeError]] = {
    400: errors.Invalid,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.Gone,
    413: errors.Invalid,
    422: errors.Invalid,
    429: errors.TooManyRequests,
    500: errors.Unreachable,
    502: errors.Unreachable,
    503: errors.Unreachable,
    504: errors.Unreachable,
}

_NO_TYPE = re.compile(r"failed to create typed \w+ object|failed to convert \w+ object \(.*?\) to smd typed")
"""How server-side apply refuses what its schema cannot read, like a text where a list of maps should be. It answers 500
although the API server works well, and trying the same again ends the same."""
_PORT = re.compile(r"(\d|\]):\d+->")
"""The near end of a broken connection, in Go's words. It is another each time, and would make one fault look new."""
_NO_SCHEMA = "no corresponding type for"


def failure(request: Request, response: httpx.Response, content: bytes) -> KubeError:
    """What an answer other than 2xx means."""
    try:
        status = json.loads(content)
    except ValueError:
        status = None
    retry_after = response.headers.get("retry-after", "")
    return of_status(
        status if isinstance(status, dict) else {},
        code=response.status_code,
        about=request.about,
        retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
    )


def of_status(status: Mapping[str, Any], *, code: int, about: str, retry_after_s: float | None = None) -> KubeError:
    """The error for an object of kind Status; `about` says what was tried."""
    message = _PORT.sub(r"\1->", str(status.get("message") or f"the API server answered {code}"))
    error = _BY_CODE.get(code, KubeError)
    # That there is no schema at all is another matter: a kind that was defined a moment ago has none yet.
    if code == httpx.codes.INTERNAL_SERVER_ERROR and _NO_TYPE.match(message) and _NO_SCHEMA not in message:
        error = errors.Invalid
    if status.get("reason") == "AlreadyExists":
        error = errors.AlreadyExists
    lead = "not allowed to" if error is errors.Forbidden else "cannot"
    return error(f"{lead} {about}: {message}", status=code, retry_after_s=retry_after_s)
