"""Models of many fleets, followed in one process: each fleet by itself, each model with its own credentials."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from registry.stand_in import Reply, StandIn, http, stand_in

from rayfleet_operator.api.status import Condition, ModelDeploymentStatus, ResolvedModel, VersionStatus
from rayfleet_operator.api.types import Metadata, Model, ModelDeployment, ModelDeploymentSpec, Registry
from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_operator.registry.access import Access
from rayfleet_operator.registry.credentials import Credentials
from rayfleet_operator.registry.errors import CredentialsMissing
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.registry.server import Bounds
from rayfleet_operator.resolutions import ModelKey, Resolutions
from rayfleet_serving.config import ModelIdentity

PATIENCE_S = 30.0
A, B = ("vision", "a"), ("vision", "b")
"""Fleets."""
BEFORE = ModelIdentity(version="1", model_id="m-1", artifact_uri="s3://models/1")


class World:
    """A registry, and what is known of its models."""

    def __init__(self, server: StandIn, resolutions: Resolutions) -> None:
        self.server = server
        self.resolutions = resolutions
        self.changed: list[ModelKey] = []

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"{what}: {self.changed}"
            await asyncio.sleep(0.01)

    def asked(self, name: str) -> int:
        return sum(f"name={name}&alias" in head for head in self.server.requests)

    def version(self, name: str, namespace: str = "vision") -> str | None:
        known = self.resolutions.known((namespace, name))
        return known.version if isinstance(known, ModelIdentity) else None

    def problem(self, name: str) -> ResolutionProblem:
        known = self.resolutions.known(("vision", name))
        assert isinstance(known, ResolutionProblem)
        return known


numbers: Counter[str] = Counter()
"""What each model's alias points to."""


def registry(head: str) -> bytes:
    """Who shows the wrong token is refused."""
    if "authorization: bearer wrong" in head.lower():
        return http("401 No", b"")
    if "get-download-uri" in head:
        return http("200 OK", b'{"artifact_uri": "s3://bucket/net"}')
    name = head.partition("name=")[2].partition("&")[0]
    version = {"name": name, "version": numbers[name] + 1, "source": f"s3://bucket/{name}/{numbers[name]}"}
    return http("200 OK", json.dumps({"model_version": version}).encode())


@asynccontextmanager
async def following(reply: Reply = registry) -> AsyncIterator[World]:
    numbers.clear()
    async with stand_in(reply) as server:
        changed: list[ModelKey] = []
        world = World(server, Resolutions(Resolver(share_credentials=False), changed.append))
        world.changed = changed
        task = asyncio.ensure_future(world.resolutions.run())
        try:
            yield world
        finally:
            task.cancel()
            await asyncio.wait([task])


def model(
    server: StandIn, name: str, *, poll: str = "24h", secret: bool = False, namespace: str = "vision"
) -> ModelDeployment:
    registry = {"tracking_uri": server.uri, "poll_interval": poll} | ({"secret_name": "token"} if secret else {})
    spec = ModelDeploymentSpec(model=Model(uri=f"models:/{name}@champion", registry=Registry.model_validate(registry)))
    return ModelDeployment(metadata=Metadata(name=name, namespace=namespace), spec=spec)


def remembering(of: ModelDeployment, uri: str, tracking_uri: str) -> ModelDeployment:
    """With what another process said of a URI."""
    resolved = ResolvedModel(
        uri=uri, tracking_uri=tracking_uri, version="1", model_id=BEFORE.model_id, artifact_uri=BEFORE.artifact_uri
    )
    return of.model_copy(update={"status": ModelDeploymentStatus(resolved=resolved)})


async def test_which_model_changed_is_told() -> None:
    async with following() as world:
        world.resolutions.follow(A, [model(world.server, "x", poll="1s"), model(world.server, "y")])
        await world.until("both are known", lambda: len(world.changed) == 2)
        numbers["x"] += 1
        await world.until("x changed", lambda: len(world.changed) == 3)
        assert world.changed[-1] == ModelKey("vision", "x")
        assert (world.version("x"), world.version("y")) == ("2", "1")


async def test_one_fleet_does_not_disturb_another() -> None:
    async with following() as world:
        x, y = model(world.server, "x"), model(world.server, "y")
        world.resolutions.follow(A, [x])
        world.resolutions.follow(B, [y, model(world.server, "x", namespace="other")])
        await world.until("all are known", lambda: len(world.changed) == 3)
        asked = len(world.server.requests)

        world.resolutions.follow(A, [])
        assert world.version("x") is None
        assert (world.version("y"), world.version("x", "other")) == ("1", "1")

        world.resolutions.follow(A, [x, y])  # y moves
        world.resolutions.forget(B)
        assert world.version("y") == "1"
        assert world.version("x", "other") is None
        await world.until("x is known again", lambda: world.version("x") == "1")
        assert len(world.server.requests) == asked + 1, "only x was asked for, and what it is was known"

        world.resolutions.forget(A)
        assert (world.version("x"), world.version("y")) == (None, None)


async def test_a_secret_that_is_not_there_yet_keeps_its_model_from_being_asked_for() -> None:
    async with following() as world:
        x, y = model(world.server, "x", secret=True), model(world.server, "y")
        world.resolutions.follow(A, [x, y])
        await world.until("y is known", lambda: world.version("y") == "1")
        world.resolutions.follow(A, [x, y], {"x": CredentialsMissing("no Secret 'token'")})
        assert world.problem("x") == ResolutionProblem("CredentialsMissing", "no Secret 'token'", None)
        assert world.asked("x") == 0

        world.resolutions.follow(A, [x, y], {"x": Access(Credentials(token="right"))})
        await world.until("x is known", lambda: world.version("x") == "1")
        heads = [head.lower() for head in world.server.requests]
        assert all(("authorization: bearer right" in head) == ("name=x" in head) for head in heads)

        world.resolutions.follow(A, [x, y], {"x": CredentialsMissing("no Secret 'token'")})
        problem = world.problem("x")
        assert problem.last is not None
        assert problem.last.version == "1", "what it was still holds"


async def test_changed_credentials_are_asked_with_at_once() -> None:
    async with following() as world:
        x = model(world.server, "x", secret=True)
        world.resolutions.follow(A, [x], {"x": Access(Credentials(token="right"))})
        await world.until("x is known", lambda: world.version("x") == "1")
        world.resolutions.follow(A, [x], {"x": Access(Credentials(token="wrong"))})
        assert world.version("x") == "1", "until the answer"
        await world.until("x is refused", lambda: world.version("x") is None)
        problem = world.problem("x")
        assert (problem.reason, problem.last and problem.last.version) == ("NotAllowed", "1")
        world.resolutions.follow(A, [x], {"x": Access(Credentials(token="right"))})
        await world.until("x is known", lambda: world.version("x") == "1")
        asked = world.asked("x")
        world.resolutions.follow(A, [x], {"x": Access(Credentials(token="right"))})
        world.resolutions.follow(A, [x, model(world.server, "y")], {"x": Access(Credentials(token="right"))})
        await world.until("y is known", lambda: world.version("y") == "1")
        assert world.asked("x") == asked, "the same credentials ask nothing"


async def test_what_a_process_before_this_one_knew_holds_while_the_registry_is_silent() -> None:
    resolver = Resolver(bounds=Bounds(connect_s=0.2, total_s=0.2, pause_s=0.0))
    changed: list[ModelKey] = []
    resolutions = Resolutions(resolver, changed.append)
    async with stand_in(lambda _: None) as silent:
        of = {name: model(silent, name) for name in ("same", "other-uri", "other-server", "new")}
        uri = of["same"].spec.model.uri
        models = [
            remembering(of["same"], uri, silent.uri),
            remembering(of["other-uri"], "models:/before@champion", silent.uri),
            remembering(of["other-server"], of["other-server"].spec.model.uri, "http://before"),
            of["new"],
        ]
        resolutions.follow(A, models)
        assert all(resolutions.known(("vision", name)) is None for name in of), "nothing was asked yet"
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(resolutions.run())
            while len(changed) < len(of):
                await asyncio.sleep(0.01)
            task.cancel()
    last = {}
    for name in of:
        known = resolutions.known(("vision", name))
        assert isinstance(known, ResolutionProblem)
        assert known.reason == "RegistryUnreachable"
        last[name] = known.last
    assert last == {"same": BEFORE, "other-uri": None, "other-server": None, "new": None}


def without_version(head: str) -> bytes:
    """The alias is gone, and the version that it meant."""
    if "registered-models/get" in head:
        return http("200 OK", b'{"registered_model": {"name": "x"}}')
    code = b"RESOURCE_DOES_NOT_EXIST" if "model-versions/get" in head else b"INVALID_PARAMETER_VALUE"
    return http("400 No", b'{"error_code": "' + code + b'", "message": "none"}')


async def test_a_version_that_was_deleted_is_told_for_as_long_as_it_is_so() -> None:
    gone = False
    async with following(lambda head: without_version(head) if gone else registry(head)) as world:
        of = model(world.server, "x", poll="1s")
        world.resolutions.follow(A, [of])
        await world.until("x is known", lambda: world.version("x") == "1")
        gone = True
        await world.until("x is gone", lambda: world.version("x") is None)
        asked = world.asked("x")
        await world.until("x is asked for again", lambda: world.asked("x") > asked + 1)
        problem = world.problem("x")
        assert (problem.reason, problem.last) == ("VersionDeleted", None)
        assert "Version 1 of 'x', which the alias 'champion' meant, was deleted" in problem.message
        gone = False
        await world.until("x is known again", lambda: world.version("x") == "1")


@pytest.mark.parametrize(("generation", "reason"), [(4, "VersionDeleted"), (5, "AliasNotFound")])
async def test_what_the_process_before_this_one_said_of_a_deleted_version(generation: int, reason: str) -> None:
    """Of another generation nobody knows whether the version that serves is what this URI meant."""
    told = Condition(
        type="Degraded", status="True", reason="VersionDeleted", observed_generation=4, last_transition_time="then"
    )
    status = ModelDeploymentStatus(conditions=[told], versions=[VersionStatus(name="1", app="x-1", weight=100)])
    async with following(without_version) as world:
        of = model(world.server, "x")
        metadata = of.metadata.model_copy(update={"generation": generation})
        world.resolutions.follow(A, [of.model_copy(update={"status": status, "metadata": metadata})])
        await world.until("x is answered for", lambda: len(world.changed) == 1)
        assert world.problem("x").reason == reason


async def test_many_models_of_one_server_share_a_few_connections() -> None:
    def keep_alive(head: str) -> bytes:
        return registry(head).replace(b"Connection: close", b"Connection: keep-alive")

    numbers.clear()
    changed: list[ModelKey] = []
    async with stand_in(keep_alive) as server:
        resolutions = Resolutions(Resolver(all_s=60.0), changed.append)
        task = asyncio.ensure_future(resolutions.run())
        names = [f"m{number}" for number in range(200)]
        for number in range(0, 200, 10):
            resolutions.follow(number, [model(server, name, poll="1s") for name in names[number : number + 10]])
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(changed) < 200 or len(server.requests) < 800:
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert server.connections <= 8
        locations = sum("get-download-uri" in head for head in server.requests)
        assert locations == 200, "what a version is does not change, so it is asked once"


@pytest.mark.parametrize(("uri", "asked"), [("models:/x@y", "http://default"), ("s3://bucket/x", None)])
def test_the_server_that_is_asked(uri: str, asked: str | None) -> None:
    resolutions = Resolutions(Resolver(default_tracking_uri="http://default/"))
    spec = ModelDeploymentSpec(model=Model(uri=uri))
    assert resolutions.tracking_uri(ModelDeployment(metadata=Metadata(name="x"), spec=spec)) == asked
