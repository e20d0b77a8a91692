"""Models are asked for in the background, each at its own pace."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from model_files import write_model

from rayfleet_operator.api import documents
from rayfleet_operator.api.types import Model, ModelDeployment
from rayfleet_operator.local.resolutions import Resolutions
from rayfleet_operator.plan.observed import Resolution, ResolutionProblem
from rayfleet_operator.registry.access import Access
from rayfleet_operator.registry.errors import AliasNotFound, NotAllowed, RegistryError, RegistryUnreachable
from rayfleet_operator.registry.resolver import Outcome, Resolver
from rayfleet_operator.registry.server import Bounds
from rayfleet_operator.resolutions import _after_failure, _interval
from rayfleet_serving.config import ModelIdentity

PATIENCE_S = 60.0
"""Longer than any wait below, so that a silent server stays unanswered for."""
FIRST = ModelIdentity(version="1", model_id="m-1", artifact_uri="s3://models/1")


@pytest.fixture
async def resolutions() -> AsyncIterator[Resolutions]:
    resolutions = Resolutions(Resolver(bounds=Bounds(total_s=PATIENCE_S), all_s=PATIENCE_S))
    task = asyncio.ensure_future(resolutions.run())
    yield resolutions
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def wanted(folder: Path) -> tuple[ModelDeployment, ...]:
    loaded = documents.load([folder])
    assert not loaded.problems
    return loaded.models


async def change(resolutions: Resolutions) -> None:
    async with asyncio.timeout(PATIENCE_S / 2):
        await resolutions.changed.wait()
    resolutions.changed.clear()


async def test_a_silent_registry_holds_up_nobody_else(
    resolutions: Resolutions, tmp_path: Path, models: dict[int, Path], silent_server: str
) -> None:
    write_model(tmp_path, "silent", "models:/m@champion", registry={"trackingUri": silent_server})
    resolutions.follow(wanted(tmp_path))
    write_model(tmp_path, "local", models[1])
    resolutions.follow(wanted(tmp_path))
    await change(resolutions)
    assert list(resolutions.known) == ["local"]


async def test_a_model_that_changes_in_its_folder_is_seen(
    resolutions: Resolutions, tmp_path: Path, models: dict[int, Path]
) -> None:
    model = shutil.copytree(models[1], tmp_path / "model")
    write_model(tmp_path, "local", model)
    resolutions.follow(wanted(tmp_path))
    await change(resolutions)
    before = resolutions.known["local"]
    shutil.copytree(models[2], model, dirs_exist_ok=True)
    await change(resolutions)
    after = resolutions.known["local"]
    assert isinstance(before, ModelIdentity)
    assert isinstance(after, ModelIdentity)
    assert before.version != after.version


async def test_another_uri_is_asked_for_at_once_and_nothing_of_the_old_one_is_kept(
    resolutions: Resolutions, tmp_path: Path, models: dict[int, Path]
) -> None:
    write_model(tmp_path, "local", models[1])
    resolutions.follow(wanted(tmp_path))
    await change(resolutions)
    before = resolutions.known["local"]
    resolutions.follow(wanted(tmp_path))
    assert resolutions.known == {"local": before}, "the same files change nothing"
    write_model(tmp_path, "local", models[2])
    resolutions.follow(wanted(tmp_path))
    assert resolutions.known == {}
    await change(resolutions)
    assert resolutions.known["local"] != before


async def test_what_is_not_there_is_a_problem_until_it_is(
    resolutions: Resolutions, tmp_path: Path, models: dict[int, Path]
) -> None:
    write_model(tmp_path, "local", tmp_path / "model")
    resolutions.follow(wanted(tmp_path))
    await change(resolutions)
    problem = resolutions.known["local"]
    assert isinstance(problem, ResolutionProblem)
    assert problem.reason == "ArtifactNotFound"
    shutil.copytree(models[1], tmp_path / "new")
    (tmp_path / "new").rename(tmp_path / "model")
    await change(resolutions)
    assert isinstance(resolutions.known["local"], ModelIdentity)


class Scripted(Resolver):
    """Says what it is told to say."""

    def __init__(self) -> None:
        super().__init__()
        self.says: ModelIdentity | RegistryError = RegistryUnreachable("silence")

    async def resolve_all(
        self, models: Mapping[Any, Model], access: Mapping[Any, Access] = {}, before: Mapping[Any, str] = {}
    ) -> dict[Any, Outcome]:
        return dict.fromkeys(models, self.says)


async def test_a_registry_that_says_nothing_leaves_what_it_said_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayfleet_operator.resolutions.AFTER_FAILURE_S", 0.05)
    resolver = Scripted()
    resolutions = Resolutions(resolver)
    task = asyncio.ensure_future(resolutions.run())
    poll = {"pollInterval": "1s", "trackingUri": "http://mlflow:5000"}
    write_model(tmp_path, "m", "models:/m@champion", registry=poll)
    resolutions.follow(wanted(tmp_path))

    async def says(said: ModelIdentity | RegistryError) -> Resolution:
        resolver.says = said
        await change(resolutions)
        return resolutions.known["m"]

    try:
        assert await says(RegistryUnreachable("silence")) == ResolutionProblem("RegistryUnreachable", "silence", None)
        assert await says(FIRST) == FIRST
        for said in (RegistryUnreachable("silence"), NotAllowed("403"), RegistryUnreachable("silence again")):
            assert await says(said) == ResolutionProblem(said.reason, said.message, FIRST)
        # An answer is an answer: there is no such version any more.
        gone = ResolutionProblem("AliasNotFound", "no alias", None)
        assert await says(AliasNotFound("no alias")) == gone
        assert await says(RegistryUnreachable("silence")) == ResolutionProblem("RegistryUnreachable", "silence", None)

        # Other fields of the model decide nothing about its version.
        assert await says(FIRST) == FIRST
        poll = {**poll, "pollInterval": "2s"}
        write_model(tmp_path, "m", "models:/m@champion", registry=poll)
        resolver.says = RegistryUnreachable("silence")
        resolutions.follow(wanted(tmp_path))
        assert resolutions.known["m"] == FIRST
        await change(resolutions)
        assert resolutions.known["m"] == ResolutionProblem("RegistryUnreachable", "silence", FIRST)

        # Another URI was never resolved, whatever the one before was.
        assert await says(FIRST) == FIRST
        write_model(tmp_path, "m", "models:/m/7", registry=poll)
        resolver.says = RegistryUnreachable("silence")
        resolutions.follow(wanted(tmp_path))
        await change(resolutions)
        assert resolutions.known["m"] == ResolutionProblem("RegistryUnreachable", "silence", None)
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("uri", "seconds"),
    [("models:/m@champion", 60), ("s3://bucket/m", 30), ("file:///models/m", 5), ("/models/m", 5)],
)
def test_how_often_each_kind_of_uri_is_asked_for(uri: str, seconds: float) -> None:
    registry = {"registry": {"pollInterval": "60s"}} if uri.startswith("models:") else {}
    assert _interval(Model.model_validate({"uri": uri, **registry})) == seconds


@pytest.mark.parametrize(
    ("interval", "failing", "seconds"), [(60, 0, 5), (60, 5, 5), (60, 10, 10), (60, 40, 40), (60, 80, 60), (1, 0, 1)]
)
def test_what_fails_is_asked_for_ever_later_up_to_its_interval(interval: float, failing: float, seconds: float) -> None:
    assert _after_failure(interval, failing) == seconds
