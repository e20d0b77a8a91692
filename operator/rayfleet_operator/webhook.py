"""The endpoint of MLflow's webhooks: whoever moves an alias there has the operator ask the registry at once.

Nothing of a delivery is believed but that it is time to ask. What is missed costs a `pollInterval` and nothing else,
so whatever is not sure is refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from rayfleet_operator import listening
from rayfleet_operator.listening import Limits
from rayfleet_operator.metrics import WebhookMetrics
from rayfleet_operator.registry import deliveries
from rayfleet_operator.registry.deliveries import Delivery, Malformed, Refused, Seen

PATH = "/mlflow"
BODY_BYTES = 64 * 1024
"""MLflow's events have some hundred bytes; a version's description and tags may make it more."""
READ_S = 5.0
"""For a whole body."""
LIMITS = Limits(connections=64, connection_s=10.0)
"""MLflow delivers in ten threads, and each connection is for one delivery."""
SAID_S = 60.0
"""Between two lines of the log with the same reason: anybody may call."""

logger = logging.getLogger(__name__)


class TooLarge(Refused):
    reason = "too_large"


class Slow(Refused):
    reason = "slow"


class NoKey(Refused):
    """Nobody can be told from anybody else."""

    reason = "no_key"


class StandingBy(Refused):
    """Another operator asks the registry, or none does yet."""

    reason = "standby"


STATUS = {
    "signature": 401,
    "stale": 401,
    "replayed": 409,
    "malformed": 400,
    "too_large": 413,
    "slow": 408,
    # MLflow tries these again: at once, then after about 2 and 4 s. Retry-After would keep it from the first of them.
    "no_key": 503,
    "standby": 503,
}
"""Of a refusal, by reason."""


class Webhook:
    """Of one operator process. Until `leads` is told whom to wake, it stands by."""

    def __init__(
        self, key_file: Path, metrics: WebhookMetrics, clock: Callable[[], float] = time.time, seen: Seen | None = None
    ) -> None:
        """
        Args:
            key_file: the key that MLflow signs with, or several, one a line. Read for each delivery.
            clock: Unix seconds.
        """
        self._key_file = key_file
        self._metrics = metrics
        self._clock = clock
        self._seen = Seen() if seen is None else seen
        self._wake: Callable[[str], None] | None = None
        self._said: dict[str, float] = {}

    def leads(self, wake: Callable[[str], None] | None) -> None:
        """From now on tell `wake` the name of each registered model that changed; None: stand by."""
        self._wake = wake

    def problem(self) -> str | None:
        """Why every delivery is refused, if so."""
        try:
            self._keys()
        except NoKey as error:
            return str(error)
        return None

    @asynccontextmanager
    async def serve(self, port: int) -> AsyncIterator[int]:
        """POST /mlflow: 204, or a status of `STATUS` and why in a line. Gives the port.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_post(PATH, self._answer)
        async with listening.serve(app, port, LIMITS) as bound:
            yield bound

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            self._take(Delivery.of(request.headers, await _body(request)))
        except Refused as refusal:
            self._metrics.delivered(refusal.reason)
            self._say(refusal)
            response = web.Response(status=STATUS[refusal.reason], text=f"{refusal}\n")
        else:
            self._metrics.delivered("accepted")
            response = web.Response(status=204)
        # The next try comes by a connection of its own, so a Service may bring it to the operator that leads.
        response.force_close()
        return response

    def _take(self, delivery: Delivery) -> None:
        """Raises Refused."""
        now = self._clock()
        at = deliveries.verify(delivery, self._keys(), now)
        name = deliveries.model(delivery.body)
        # Before it is remembered: this process may lead by the time it is tried again.
        if self._wake is None:
            raise StandingBy("this operator does not ask the registry now; another one does, or will")
        self._seen.take(delivery.id, at, now)
        if name is not None:
            self._wake(name)

    def _keys(self) -> tuple[bytes, ...]:
        try:
            found = deliveries.keys(self._key_file.read_bytes())
        except OSError as error:
            raise NoKey(f"the key cannot be read from {self._key_file}: {error.strerror}") from None
        if not found:
            raise NoKey(f"there is no key in {self._key_file}")
        return found

    def _say(self, refusal: Refused) -> None:
        """Tell the log, without a word of what was delivered."""
        now = time.monotonic()
        if isinstance(refusal, StandingBy) or now < self._said.get(refusal.reason, now):
            return
        self._said[refusal.reason] = now + SAID_S
        logger.warning("A webhook's delivery was refused: %s", refusal)


async def _body(request: web.Request) -> bytes:
    """Raises Refused."""
    too_large = TooLarge(f"the body is larger than {BODY_BYTES} bytes")
    if request.content_length is not None and request.content_length > BODY_BYTES:
        raise too_large
    try:
        async with asyncio.timeout(READ_S):
            return await request.read()
    except TimeoutError:
        raise Slow(f"the body did not come within {READ_S:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except web.RequestPayloadError:
        raise Malformed("the body cannot be read") from None
