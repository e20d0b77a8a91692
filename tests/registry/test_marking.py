"""What a real MLflow server says of a version after it was told that the version has every request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from registry.models import Logged, register

from rayfleet_operator.api.status import WrittenBack
from rayfleet_operator.api.types import Model
from rayfleet_operator.registry import marking
from rayfleet_operator.registry.access import Access
from rayfleet_operator.registry.errors import ModelNotFound, VersionNotFound
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.registry.server import Answer, TrackingServer

OURS, THEIRS = "vision/digits", "vision/faces"


def written(server: MlflowServer, name: str, version: int, model_id: str, **what: str) -> WrittenBack:
    return WrittenBack(tracking_uri=server.uri, model=name, version=str(version), model_id=model_id, **what)


async def mark(resolver: Resolver, wanted: WrittenBack, *before: WrittenBack, value: str = OURS) -> None:
    async with resolver.written_to(Model.model_construct(uri="models:/any/1"), Access(), shared=False) as server:
        await marking.mark(server, wanted, before, value)


def tags(client: MlflowClient, name: str, version: int) -> dict[str, str]:
    return dict(client.get_model_version(name, str(version)).tags)


def aliases(client: MlflowClient, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


async def test_the_alias_and_the_tag_move_from_version_to_version(
    server: MlflowServer, client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "moved", f"models:/{logged.first}", f"models:/{logged.second}")
    client.set_registered_model_alias("moved", "champion", "2")
    both = {"alias": "live", "tag": "rayfleet.live"}
    first = written(server, "moved", 1, logged.first, **both)
    await mark(resolver, first)
    assert aliases(client, "moved") == {"champion": "2", "live": "1"}
    assert (tags(client, "moved", 1), tags(client, "moved", 2)) == ({"rayfleet.live": OURS}, {})
    second = written(server, "moved", 2, logged.second, **both)
    await mark(resolver, second, first)
    assert aliases(client, "moved") == {"champion": "2", "live": "2"}
    assert (tags(client, "moved", 1), tags(client, "moved", 2)) == ({}, {"rayfleet.live": OURS})
    await mark(resolver, first, second)
    assert aliases(client, "moved") == {"champion": "2", "live": "1"}
    assert (tags(client, "moved", 1), tags(client, "moved", 2)) == ({"rayfleet.live": OURS}, {})


async def test_what_stands_there_is_not_written_again(
    server: MlflowServer,
    client: MlflowClient,
    resolver: Resolver,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(client, "once", f"models:/{logged.first}")
    wanted = written(server, "once", 1, logged.first, alias="live", tag="live")
    posted: list[str] = []
    post = TrackingServer.post

    async def recorded(self: TrackingServer, path: str, body: Mapping[str, Any], answer: type[Answer]) -> Answer:
        posted.append(path)
        return await post(self, path, body, answer)

    monkeypatch.setattr(TrackingServer, "post", recorded)
    await mark(resolver, wanted)
    assert posted == ["registered-models/alias", "model-versions/set-tag"]
    await mark(resolver, wanted, wanted)
    assert len(posted) == 2


async def test_another_models_tag_stays(
    server: MlflowServer, client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "shared", f"models:/{logged.first}", f"models:/{logged.second}")
    first, second = (
        written(server, "shared", number, model_id, tag="live")
        for number, model_id in ((1, logged.first), (2, logged.second))
    )
    await mark(resolver, first)
    await mark(resolver, first, value=THEIRS)
    await mark(resolver, second, first)
    assert (tags(client, "shared", 1), tags(client, "shared", 2)) == ({"live": THEIRS}, {"live": OURS})


async def test_what_was_written_elsewhere_or_under_another_name(
    server: MlflowServer, client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    """A tag under its old name goes, an alias stays; a version that is gone, and another server, are no obstacle."""
    register(client, "named", f"models:/{logged.first}")
    old = written(server, "named", 1, logged.first, alias="old", tag="old")
    await mark(resolver, old)
    new = written(server, "named", 1, logged.first, alias="new", tag="new")
    gone = written(server, "named", 9, logged.first, tag="old")
    elsewhere = WrittenBack(**{**new.model_dump(), "tracking_uri": "http://elsewhere:1", "tag": "old"})
    await mark(resolver, new, old, gone, elsewhere)
    assert aliases(client, "named") == {"old": "1", "new": "1"}
    assert tags(client, "named", 1) == {"new": OURS}


async def test_a_version_that_is_another_one_now_is_left_alone(
    server: MlflowServer, client: MlflowClient, resolver: Resolver, logged: Logged
) -> None:
    register(client, "anew", f"models:/{logged.second}")
    with pytest.raises(VersionNotFound, match="has other files than the one that is served"):
        await mark(resolver, written(server, "anew", 1, logged.first, alias="live", tag="live"))
    with pytest.raises(VersionNotFound, match="has no version 2"):
        await mark(resolver, written(server, "anew", 2, logged.first, alias="live"))
    with pytest.raises(ModelNotFound):
        await mark(resolver, written(server, "nobody's", 1, logged.first, alias="live"))
    assert (aliases(client, "anew"), tags(client, "anew", 1)) == ({}, {})
