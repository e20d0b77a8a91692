"""When a model is asked for again: after an answer, after a failure, and when the registry asks to be left alone."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
from registry.stand_in import http
from registry.test_resolutions import A, B, following, model, registry

from rayfleet_operator.api.types import Metadata, Model, ModelDeployment, ModelDeploymentSpec, Registry
from rayfleet_operator.registry.access import Access
from rayfleet_operator.registry.errors import (
    AliasNotFound,
    InvalidUri,
    NotAllowed,
    RegistryUnreachable,
    ResolverFailed,
    VersionNotReady,
)
from rayfleet_operator.registry.resolver import Outcome, Resolver
from rayfleet_operator.resolutions import ModelKey, Resolutions
from rayfleet_serving.config import ModelIdentity

AWAY = http("503 No", b"", "Retry-After: 0")
"""Without the second try that a question has otherwise."""
FIRST = ModelIdentity(version="1", model_id="m-1", artifact_uri="s3://models/1")


async def test_a_registry_that_stays_away_is_asked_ever_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayfleet_operator.resolutions.AFTER_FAILURE_S", 0.05)
    asked: list[float] = []

    def away(head: str) -> bytes:
        asked.append(time.monotonic())
        return AWAY

    async with following(away) as world:
        world.resolutions.follow(A, [model(world.server, "x")])
        await world.until("x is asked for", lambda: len(asked) >= 7)
    # Each wait is as long as it has failed, less a tenth; the second question came after the first answer.
    for before, after in pairwise(asked[1:7]):
        assert after - before >= 0.9 * (before - asked[1])


async def test_a_registry_that_asks_to_be_left_alone_is_but_for_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayfleet_operator.resolutions.AFTER_FAILURE_S", 0.05)
    asked: list[float] = []

    def busy(head: str) -> bytes:
        asked.append(time.monotonic())
        return http("429 Slow", b"", "Retry-After: 1" if "name=x&" in head else "Retry-After: 999999")

    async with following(busy) as world:
        world.resolutions.follow(A, [model(world.server, "x")])
        await world.until("x is asked for again", lambda: len(asked) == 2)
        assert asked[1] - asked[0] >= 1.0

        wrong = model(world.server, "y")
        world.resolutions.follow(B, [wrong])
        await world.until("y is answered for", lambda: ModelKey("vision", "y") in world.changed)
        right = Model(uri="models:/z@champion", registry=wrong.spec.model.registry)
        spec = wrong.spec.model_copy(update={"model": right})
        world.resolutions.follow(B, [wrong.model_copy(update={"spec": spec})])
        await world.until("the other URI is asked for", lambda: world.asked("z") == 1)


async def test_what_the_registry_says_for_sure_is_asked_for_at_the_usual_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayfleet_operator.resolutions.AFTER_FAILURE_S", 0.05)

    def reply(head: str) -> bytes:
        if "registered-models/search" in head:
            return http("200 OK", b"{}")
        if "name=gone" in head:
            return http("404 No", b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}')
        return AWAY if "name=away" in head else registry(head)

    async with following(reply) as world:
        world.resolutions.follow(A, [model(world.server, "gone"), model(world.server, "away")])
        await world.until("one is asked for again", lambda: world.asked("away") >= 5)
        assert world.problem("gone").reason == "ModelNotFound"
        assert world.asked("gone") == 1


class Hurried(asyncio.SelectorEventLoop):
    """Whenever it would wait for a moment to come, it is that moment."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self.now = 0.0
        select = self._selector.select

        def at_once(timeout: float | None = None) -> Any:
            self.now += timeout or 0.0
            return select(0)

        self._selector.select = at_once

    def time(self) -> float:
        return self.now


class Scripted(Resolver):
    """Says of each model what it is told to say, and keeps when it was asked."""

    def __init__(self, says: Callable[[str, float], Outcome]) -> None:
        super().__init__()
        self.says = says
        self.asked: dict[str, list[float]] = {}

    async def resolve_all(
        self, models: Mapping[Any, Model], access: Mapping[Any, Access] = {}, before: Mapping[Any, str] = {}
    ) -> dict[Any, Outcome]:
        now = asyncio.get_running_loop().time()
        for key in models:
            self.asked.setdefault(key.name, []).append(now)
        return {key: self.says(key.name, now) for key in models}

    def between(self, name: str, begin: float, end: float) -> int:
        return sum(begin <= at < end for at in self.asked[name])


def polled(name: str, poll: str = "60s") -> ModelDeployment:
    at = Registry(tracking_uri="http://mlflow:5000", poll_interval=poll)
    spec = ModelDeploymentSpec(model=Model(uri=f"models:/{name}@champion", registry=at))
    return ModelDeployment(metadata=Metadata(name=name, namespace="vision"), spec=spec)


def watch(says: Callable[[str, float], Outcome], story: Callable[[Resolutions], Awaitable[None]]) -> Scripted:
    """The resolver after the story, which takes no time in truth."""
    resolver = Scripted(says)

    async def play() -> None:
        resolutions = Resolutions(resolver)
        task = asyncio.ensure_future(resolutions.run())
        await story(resolutions)
        task.cancel()
        await asyncio.wait([task])

    with asyncio.Runner(loop_factory=Hurried) as runner:
        runner.run(play())
    return resolver


def follow(*models: ModelDeployment, for_s: float = 3600.0) -> Callable[[Resolutions], Awaitable[None]]:
    async def story(resolutions: Resolutions) -> None:
        resolutions.follow(A, models)
        await asyncio.sleep(for_s)

    return story


@pytest.mark.parametrize("kind", [RegistryUnreachable, NotAllowed, ResolverFailed, VersionNotReady])
def test_what_may_pass_is_asked_for_soon_and_then_no_more_often_than_usual(
    kind: type[RegistryUnreachable | NotAllowed | ResolverFailed | VersionNotReady],
) -> None:
    for others in (False, True):
        answered = FIRST if others else kind("no")
        resolver = watch(
            lambda name, now, answered=answered: kind("no") if name == "x" else answered,
            follow(polled("x"), polled("y", "7s"), polled("z", "24h")),
        )
        assert 3 <= resolver.between("x", 0, 60) <= 7
        assert 50 <= resolver.between("x", 60, 3600) <= 66


@pytest.mark.parametrize("kind", [AliasNotFound, InvalidUri])
def test_what_does_not_pass_is_asked_for_as_usual(kind: type[AliasNotFound | InvalidUri]) -> None:
    resolver = watch(lambda name, now: kind("no"), follow(polled("x")))
    assert 54 <= len(resolver.asked["x"]) <= 70


def test_after_an_answer_the_next_failure_is_the_first() -> None:
    def says(name: str, now: float) -> Outcome:
        return RegistryUnreachable("no") if now < 1000 or now > 2000 else FIRST

    asked = watch(says, follow(polled("x"))).asked["x"]
    first = next(at for at in asked if at > 2000)
    assert asked[asked.index(first) + 1] - first <= 5.5


def test_a_model_that_is_new_at_a_silent_place_takes_its_pace() -> None:
    async def story(resolutions: Resolutions) -> None:
        resolutions.follow(A, [polled("old")])
        await asyncio.sleep(600)
        resolutions.follow(B, [polled("new")])
        await asyncio.sleep(600)

    resolver = watch(lambda name, now: RegistryUnreachable("no"), story)
    assert resolver.asked["new"][0] == pytest.approx(600, abs=0.1), "at once"
    assert resolver.between("new", 600, 1200) <= 13

    resolver = watch(lambda name, now: RegistryUnreachable("no") if name == "new" else FIRST, story)
    assert resolver.between("new", 600, 620) >= 3, "where others are answered, the failure is the model's own"


@pytest.mark.parametrize(
    ("poll", "asks_for", "gets"),
    [("60s", 90.0, 90.0), ("60s", 1e9, 300.0), ("1h", 600.0, 600.0), ("1h", 1e9, 3600.0), ("60s", 0.0, 0.5)],
)
def test_for_how_long_a_server_may_ask_to_be_left_alone(poll: str, asks_for: float, gets: float) -> None:
    neighbours = [polled(f"n{number}", "10s") for number in range(5)]
    resolver = watch(
        lambda name, now: RegistryUnreachable("no", asks_for) if name == "x" else FIRST,
        follow(polled("x", poll), *neighbours, for_s=1.2 * gets + 10),
    )
    first, second = resolver.asked["x"][:2]
    assert gets <= second - first <= max(1.1 * gets, 5.0)
