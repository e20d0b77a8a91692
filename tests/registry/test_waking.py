"""When a model is asked for because somebody says that it changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
from registry.test_pace import FIRST, Hurried, Scripted, polled, watch
from registry.test_resolutions import A, B, following, model, numbers

from rayfleet_operator.api.types import Metadata, Model, ModelDeployment, ModelDeploymentSpec, Registry
from rayfleet_operator.registry.access import Access
from rayfleet_operator.registry.errors import AliasNotFound, NotAllowed, RegistryUnreachable
from rayfleet_operator.registry.resolver import Outcome
from rayfleet_operator.resolutions import Resolutions

Story = Callable[[Resolutions], Awaitable[None]]


def named(name: str, uri: str) -> ModelDeployment:
    at = Registry(tracking_uri=f"http://{name}:5000", poll_interval="24h")
    spec = ModelDeploymentSpec(model=Model(uri=uri, registry=at))
    return ModelDeployment(metadata=Metadata(name=name, namespace="vision"), spec=spec)


def waking(*models: ModelDeployment, every_s: float, times: int, names: tuple[str, ...] = ("x",)) -> Story:
    """Followed for an hour, and then woken in turn."""

    async def story(resolutions: Resolutions) -> None:
        resolutions.follow(A, models)
        await asyncio.sleep(3600)
        for number in range(times):
            resolutions.wake(names[number % len(names)])
            await asyncio.sleep(every_s)
        await asyncio.sleep(30)

    return story


async def test_a_model_that_is_woken_is_asked_for_at_once() -> None:
    async with following() as world:
        world.resolutions.follow(A, [model(world.server, "x", poll="24h"), model(world.server, "y", poll="24h")])
        await world.until("both are known", lambda: len(world.changed) == 2)
        numbers["x"] += 1
        numbers["y"] += 1
        world.resolutions.wake("x")
        await world.until("x changed", lambda: world.version("x") == "2")
        assert world.version("y") == "1"
        assert world.asked("y") == 1


@pytest.mark.parametrize(
    ("uri", "woken"),
    [
        ("models:/net/3", True),
        ("models:/net@champion", True),
        ("models:/net/Production", True),
        ("models:/net/latest", True),
        ("models:/net@latest", True),
        ("models:/Net@champion", False),
        ("models:/net 2@champion", False),
        ("models:/%6eet@champion", False),
        ("models:/m-00000000000000000000000000000000", False),
        ("runs:/0123456789abcdef0123456789abcdef/net", False),
    ],
)
def test_which_uris_are_meant(uri: str, woken: bool) -> None:
    resolver = watch(lambda name, now: FIRST, waking(named("n", uri), every_s=1, times=1, names=("net",)))
    other = watch(lambda name, now: FIRST, waking(named("n", uri), every_s=1, times=1, names=("other",)))
    more = resolver.between("n", 3599, 3602) - other.between("n", 3599, 3602)
    assert (more > 0) == woken


def test_the_models_of_every_fleet_and_registry_are_asked_for() -> None:
    async def story(resolutions: Resolutions) -> None:
        resolutions.follow(A, [named("one", "models:/x@champion"), named("two", "models:/x/latest")])
        resolutions.follow(B, [named("three", "models:/x/1")])
        await asyncio.sleep(3600)
        resolutions.wake("x")
        await asyncio.sleep(1)

    asked = watch(lambda name, now: FIRST, story).asked
    assert {name: len(times) for name, times in asked.items()} == {"one": 2, "two": 2, "three": 2}


def test_nobody_is_disturbed_by_a_model_that_nobody_follows() -> None:
    resolver = watch(lambda name, now: FIRST, waking(polled("x", "24h"), every_s=1, times=50, names=("y",)))
    assert len(resolver.asked["x"]) == 1


def test_a_burst_is_a_question_a_second_and_the_last_one_comes_after_it() -> None:
    resolver = watch(lambda name, now: FIRST, waking(polled("x", "24h"), every_s=0.01, times=1000))
    times = [at for at in resolver.asked["x"] if at >= 3600]
    assert 9 <= len(times) <= 12
    assert all(after - before >= 1.0 for before, after in pairwise(times))
    assert times[0] == pytest.approx(3600, abs=0.1), "at once"
    assert times[-1] >= 3610 - 0.02


def test_a_burst_for_several_models_asks_for_none_of_them_more_often() -> None:
    story = waking(polled("x", "24h"), polled("y", "24h"), every_s=0.3, times=100, names=("x", "y"))
    for times in watch(lambda name, now: FIRST, story).asked.values():
        assert all(after - before >= 1.0 for before, after in pairwise(times))


def test_a_server_that_asks_to_be_left_alone_is() -> None:
    def says(name: str, now: float) -> Outcome:
        return RegistryUnreachable("no", 90.0) if now >= 3600 else FIRST

    times = watch(says, waking(polled("x", "24h"), every_s=1, times=300)).asked["x"]
    asked = [at for at in times if at >= 3600]
    assert 3 <= len(asked) <= 5
    assert all(90 <= after - before <= 101 for before, after in pairwise(asked))


def test_it_is_left_alone_for_no_longer_than_it_asks() -> None:
    def says(name: str, now: float) -> Outcome:
        return RegistryUnreachable("no", 10.0)

    # By then the model fails for an hour, and would not be asked for again for about as long.
    times = watch(says, waking(polled("x", "24h"), every_s=1, times=60)).asked["x"]
    assert sum(at >= 3600 for at in times) >= 5


@pytest.mark.parametrize("kind", [RegistryUnreachable, NotAllowed, AliasNotFound])
def test_who_fails_and_asks_for_nothing_is_asked_at_once(
    kind: type[RegistryUnreachable | NotAllowed | AliasNotFound],
) -> None:
    resolver = watch(lambda name, now: kind("no"), waking(polled("x", "24h"), every_s=1, times=1))
    assert resolver.between("x", 3600, 3600.1) == 1


def test_to_be_woken_puts_nothing_off() -> None:
    def story(woken: bool) -> Story:
        return waking(polled("x", "10s"), every_s=7, times=100, names=("x" if woken else "y",))

    woken, alone = (len(watch(lambda name, now: FIRST, story(each)).asked["x"]) for each in (True, False))
    assert woken >= alone


def test_who_is_woken_while_asked_for_is_asked_for_again() -> None:
    """The answer may be from before."""

    class Slow(Scripted):
        async def resolve_all(
            self, models: Mapping[Any, Model], access: Mapping[Any, Access] = {}, before: Mapping[Any, str] = {}
        ) -> dict[Any, Outcome]:
            answer = await super().resolve_all(models, access, before)
            await asyncio.sleep(10)
            return answer

    resolver = Slow(lambda name, now: FIRST)

    async def play() -> None:
        resolutions = Resolutions(resolver)
        task = asyncio.ensure_future(resolutions.run())
        resolutions.follow(A, [polled("x", "24h")])
        await asyncio.sleep(5)
        resolutions.wake("x")
        await asyncio.sleep(60)
        task.cancel()
        await asyncio.wait([task])

    with asyncio.Runner(loop_factory=Hurried) as runner:
        runner.run(play())
    first, second = resolver.asked["x"]
    assert second - first == pytest.approx(11, abs=0.2)
