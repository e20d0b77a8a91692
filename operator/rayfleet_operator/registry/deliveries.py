"""What MLflow's webhooks deliver, and how to tell that it comes from MLflow and has not been here before.

MLflow signs the text `<delivery id>.<timestamp>.<body>` by HMAC-SHA256 with a key that both sides know, and sends id,
timestamp (Unix seconds) and `v1,<signature in base64>` as headers. Tries of one delivery carry the same three. Nothing
here reads a clock, a file or the network.
"""

# ruff: noqa: N818 - a class says why, as those of `errors`

from __future__ import annotations

import base64
import hashlib
import heapq
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

ID_HEADER = "X-MLflow-Delivery-Id"
TIMESTAMP_HEADER = "X-MLflow-Timestamp"
SIGNATURE_HEADER = "X-MLflow-Signature"

WINDOW_S = 300
"""How far the timestamp may be from now, before or after: clocks differ, and MLflow tries again for up to a minute."""
REMEMBERED = 4096
"""Deliveries that are told from new ones: what a registry says in five minutes, and less than 2 MB."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""MLflow's are UUIDs. Without a dot, so that the signed text can be read in one way only."""
_TIMESTAMP = re.compile(r"[0-9]{1,15}")


class Refused(Exception):
    """A delivery that must change nothing. The message holds nothing of what was delivered."""

    reason: ClassVar[str]
    """One word, for a metric."""


class WrongSignature(Refused):
    """Who sent it does not know the key."""

    reason = "signature"


class Stale(Refused):
    """It was signed too long ago, or in the future."""

    reason = "stale"


class Replayed(Refused):
    """It has been here before."""

    reason = "replayed"


class Malformed(Refused):
    """It is not in MLflow's form."""

    reason = "malformed"


@dataclass(frozen=True)
class Delivery:
    """As it came."""

    id: str
    timestamp: str
    signature: str
    body: bytes

    @classmethod
    def of(cls, headers: Mapping[str, str], body: bytes) -> Delivery:
        """A header that is not there is empty. `headers` does not mind in which case they are asked for."""
        shown = {"id": ID_HEADER, "timestamp": TIMESTAMP_HEADER, "signature": SIGNATURE_HEADER}
        return cls(body=body, **{field: headers.get(header, "") for field, header in shown.items()})


def keys(text: bytes) -> tuple[bytes, ...]:
    """The keys in a file, one a line. Several are good while the one is replaced by the other."""
    return tuple(line for line in text.splitlines() if line)


def signature(key: bytes, delivery_id: str, timestamp: str, body: bytes) -> str:
    """What MLflow sends as X-MLflow-Signature; see `mlflow/webhooks/delivery.py`."""
    signed = f"{delivery_id}.{timestamp}.".encode("utf-8", "surrogateescape") + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def verify(delivery: Delivery, keys: Iterable[bytes], now: float) -> int:
    """When it was signed, in Unix seconds, like `now`.

    Raises:
        WrongSignature: no key gives this signature; said first, so that who does not know it learns nothing else.
        Malformed: it is signed, and its id or timestamp is none.
        Stale: it was not signed within `WINDOW_S` of `now`.
    """
    shown = delivery.signature.encode("utf-8", "surrogateescape")
    right = (signature(key, delivery.id, delivery.timestamp, delivery.body).encode() for key in keys)
    # Every key is tried, and compared to the end: how long it takes says nothing about how much of it is right.
    if not any([hmac.compare_digest(each, shown) for each in right]):  # noqa: C419
        raise WrongSignature("the signature is not the one of the operator's key; is it the webhook's secret?")
    if not _ID.fullmatch(delivery.id) or not _TIMESTAMP.fullmatch(delivery.timestamp):
        raise Malformed(f"{ID_HEADER} or {TIMESTAMP_HEADER} is not as MLflow writes it")
    at = int(delivery.timestamp)
    if abs(now - at) > WINDOW_S:
        side = "before" if at < now else "after"
        raise Stale(f"it was signed {abs(now - at):.0f} s {side} the operator's time; {WINDOW_S} s may be between them")
    return at


def model(body: bytes) -> str | None:
    """Name of the registered model that the event is about; None where it is about something else.

    Raises:
        Malformed: no event of MLflow's.
    """
    try:
        event = json.loads(body.decode())
    except (ValueError, RecursionError):
        # Without its cause, which quotes the body.
        raise Malformed("the body is not JSON") from None
    data = event.get("data") if isinstance(event, dict) else None
    if not isinstance(data, dict) or not all(isinstance(event.get(key), str) for key in ("entity", "action")):
        raise Malformed("the body is no event: it lacks entity, action or data")
    name = data.get("name")
    if name is not None and not isinstance(name, str):
        raise Malformed("data.name of the event is not text")
    return name


class Seen:
    """Deliveries that were taken, at most `most` of them; the rest is told by when it was signed.

    What is forgotten could come again, so nothing is taken any more that was signed as early as that. It also holds
    where the clock is set back.
    """

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._ids: set[str] = set()
        self._oldest: list[tuple[int, str]] = []
        """A heap."""
        self._forgotten = -1
        """When the youngest of those was signed that were forgotten."""

    def __len__(self) -> int:
        return len(self._ids)

    def take(self, delivery_id: str, at: int, now: float) -> None:
        """Take a delivery that was signed at `at`, both in Unix seconds.

        Raises:
            Replayed: it was taken before.
            Stale: it may have been.
        """
        if delivery_id in self._ids:
            raise Replayed("it was delivered before")
        if at <= self._forgotten:
            raise Stale("deliveries as old as this one are not remembered any more, so it may have been here before")
        self._ids.add(delivery_id)
        heapq.heappush(self._oldest, (at, delivery_id))
        while self._oldest and (self._oldest[0][0] < now - WINDOW_S or len(self._oldest) > self._most):
            forgotten, gone = heapq.heappop(self._oldest)
            self._ids.discard(gone)
            self._forgotten = max(self._forgotten, forgotten)
