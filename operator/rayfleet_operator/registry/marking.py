"""An alias and a tag that tell, in MLflow, which version has every request.

What stands there is read first, and only what differs is written: MLflow's webhooks tell of each alias that is set,
also where it was set before. A tag is taken off only where its value says that it is ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from rayfleet_operator.api.status import WrittenBack
from rayfleet_operator.plan.observed import identity_of
from rayfleet_operator.registry.answers import Answer, TaggedAnswer, VersionAnswer
from rayfleet_operator.registry.errors import RegistryUnreachable, VersionNotFound
from rayfleet_operator.registry.mlflow import MlflowRegistry
from rayfleet_operator.registry.server import Rejection, TrackingServer
from rayfleet_operator.registry.uri import VersionUri

Given = TypeVar("Given", bound=Answer)

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""A missing version is a 404 to MLflow, a missing alias a 400."""


async def mark(server: TrackingServer, wanted: WrittenBack, before: Sequence[WrittenBack], value: str) -> None:
    """Give the version its alias and its tag, and take the tag off those before.

    Args:
        before: what may have been written since; on other servers nothing is done.
        value: of the tag.

    Raises:
        RegistryError: it could not be done, or the version is another one now; what was done stays.
    """
    meant = identity_of(await MlflowRegistry(server).resolve(VersionUri(wanted.model, int(wanted.version))))
    if meant is None or meant.model_id != wanted.model_id:
        raise VersionNotFound(
            f"Version {wanted.version} of {wanted.model!r} at MLflow {server.uri} has other files than the one that is "
            f"served."
        )
    try:
        async with asyncio.timeout(server.bounds.total_s):
            if wanted.alias and await _bearer(server, wanted) != wanted.version:
                body = {"name": wanted.model, "alias": wanted.alias, "version": wanted.version}
                await server.post("registered-models/alias", body, Answer)
            if wanted.tag and await _tag(server, wanted, wanted.tag) != value:
                body = {"name": wanted.model, "version": wanted.version, "key": wanted.tag, "value": value}
                await server.post("model-versions/set-tag", body, Answer)
            for old in before:
                if _stale(old, wanted) and await _tag(server, old, old.tag) == value:
                    body = {"name": old.model, "version": old.version, "key": old.tag}
                    await server.delete("model-versions/delete-tag", body)
    except TimeoutError:
        raise server.silent() from None
    except Rejection as rejection:
        raise RegistryUnreachable(f"MLflow at {server.uri} answered {rejection}") from None


def _stale(old: WrittenBack, wanted: WrittenBack) -> bool:
    """Whether the old tag is one that must not be there."""
    there = (old.model, old.version, old.tag) != (wanted.model, wanted.version, wanted.tag)
    return bool(old.tag) and there and old.tracking_uri == wanted.tracking_uri


async def _bearer(server: TrackingServer, wanted: WrittenBack) -> str | None:
    """The version that has the alias; None where none has."""
    where = {"name": wanted.model, "alias": wanted.alias}
    found = await _found(server.get("registered-models/alias", where, VersionAnswer))
    return str(found.model_version.version) if found is not None else None


async def _tag(server: TrackingServer, of: WrittenBack, key: str) -> str | None:
    """The version's tag; None where it has none, or is gone."""
    where = {"name": of.model, "version": of.version}
    found = await _found(server.get("model-versions/get", where, TaggedAnswer))
    tags = found.model_version.tags if found is not None else []
    return next((tag.value for tag in tags if tag.key == key), None)


async def _found(asked: Awaitable[Given]) -> Given | None:
    """What MLflow answers; None where it says that there is none. Raises `Rejection` where it says something else."""
    try:
        return await asked
    except Rejection as rejection:
        if rejection.code not in ABSENT:
            raise
        return None
