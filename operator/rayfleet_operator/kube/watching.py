"""List, then follow each change from there; list again when the way from there is lost."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rayfleet_operator.kube import errors
from rayfleet_operator.kube.kinds import Kind
from rayfleet_operator.kube.transport import Request, Transport, of_status

SERVER_S = 300
"""After which the API server ends a watch; a new one goes on from there."""
SILENCE_S = 90.0
"""Bookmarks come about once a minute, so a connection that is silent for longer is dead."""
RECONNECT_S = 0.1
"""Before a watch that ended as it should goes on."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0

logger = logging.getLogger(__name__)


class Listed(NamedTuple):
    """All objects; what was known before and is not here is gone."""

    objects: list[dict[str, Any]]
    version: str
    """resourceVersion of the list."""


class Changed(NamedTuple):
    """One object was added, changed or deleted."""

    object: dict[str, Any]
    deleted: bool


@dataclass(frozen=True)
class Source:
    """What is watched."""

    transport: Transport
    kind: Kind
    path: str
    params: dict[str, str]
    about: str


FINAL = (errors.Forbidden, errors.Unauthorized, errors.NotFound, errors.Invalid)
"""To try again at once would change nothing."""


async def follow(source: Source, relist: Callable[[], Awaitable[Listed]]) -> AsyncGenerator[Listed | Changed]:
    """See `KubeClient.watch`."""
    version: str | None = None
    failures = 0
    while True:
        try:
            if version is None:
                listed = await relist()
                version, failures = listed.version, 0
                yield listed
            async for event in _stream(source, version):
                failures = 0
                version = event.object["metadata"]["resourceVersion"]
                if not event.bookmark:
                    yield Changed(event.object, event.deleted)
            await asyncio.sleep(RECONNECT_S)
        except errors.Gone:
            logger.debug("Listing again: %s is too old to %s from", version, source.about)
            version = None
        except FINAL:
            raise
        except errors.KubeError as error:
            failures += 1
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
            pause = max(pause * random.uniform(0.8, 1.2), error.retry_after_s or 0.0)  # noqa: S311 - spreads retries
            logger.log(logging.WARNING if failures == 3 else logging.DEBUG, "%s; again in %.1f s", error, pause)
            await asyncio.sleep(pause)


class _Event(NamedTuple):
    object: dict[str, Any]
    deleted: bool
    bookmark: bool


async def _stream(source: Source, version: str) -> AsyncGenerator[_Event]:
    """The changes after `version`, until the API server ends the stream, which it does every few minutes."""
    request = Request(
        method="GET",
        path=source.path,
        about=source.about,
        params={
            **source.params,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            # Not all at the same time.
            "timeoutSeconds": str(int(SERVER_S * random.uniform(0.8, 1.2))),  # noqa: S311
        },
    )
    async with source.transport.stream(request, silence_s=SILENCE_S) as lines:
        async for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                # The connection broke in the middle of a line.
                raise errors.Unreachable(f"cannot {source.about}: the API server broke off") from None
            obj = event["object"]
            if event["type"] == "ERROR":
                raise of_status(obj, code=int(obj.get("code") or 500), about=source.about)
            # Events of core kinds say what they are; for symmetry with lists it is filled in anyway.
            obj.setdefault("apiVersion", source.kind.api_version)
            obj.setdefault("kind", source.kind.name)
            yield _Event(obj, deleted=event["type"] == "DELETED", bookmark=event["type"] == "BOOKMARK")
