"""What should be written into the registry, when it is tried, and what is told of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from registry.stand_in import http, stand_in

from rayfleet_operator import write_back
from rayfleet_operator.api.status import WrittenBack
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.reconcile.followed import FollowedModels
from rayfleet_operator.registry.access import Access
from rayfleet_operator.registry.credentials import Credentials
from rayfleet_operator.registry.errors import CredentialsMissing, NotAllowed
from rayfleet_operator.registry.resolver import Resolver
from rayfleet_operator.registry.server import TrackingServer
from rayfleet_operator.resolutions import ModelKey
from rayfleet_operator.write_back import WriteBacks, wanted

SERVER = "http://mlflow:5000"
URI = "models:/digits@champion"
KEY = ModelKey("vision", "digits")
PATIENCE_S = 10.0


def entry(version: int, outcome: str = "Succeeded", uri: str = URI) -> dict[str, Any]:
    return {
        "version": str(version),
        "modelId": f"m-{version}",
        "artifactUri": "s3://models",
        "uri": uri,
        "outcome": outcome,
        "ended": "2026-03-01T12:00:00Z",
    }


def model(
    *history: dict[str, Any],
    uri: str = URI,
    stands: WrittenBack | None = None,
    server: str = SERVER,
    secret: str | None = None,
    **asked: str,
) -> ModelDeployment:
    registry = {"trackingUri": server, "writeBack": asked, "secretName": secret}
    registry = {name: value for name, value in registry.items() if value}
    return ModelDeployment.model_validate(
        {
            "metadata": {"name": "digits", "namespace": "vision"},
            "spec": {"model": {"uri": uri, "registry": registry}},
            "status": {"history": history, "writtenBack": stands.model_dump(by_alias=True) if stands else None},
        }
    )


def written(version: int, alias: str = "live", tag: str = "", model: str = "digits") -> WrittenBack:
    return WrittenBack(
        tracking_uri=SERVER, model=model, version=str(version), model_id=f"m-{version}", alias=alias, tag=tag
    )


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (model(entry(1)), None),
        (model(alias="live"), None),
        (model(entry(1), alias="live"), written(1)),
        (model(entry(1), tag="live"), written(1, "", "live")),
        (model(entry(2), entry(1), alias="live", tag="t"), written(2, "live", "t")),
        # What was given up, or nobody wanted any more, changes nothing.
        (model(entry(3, "RolledBack"), entry(2), alias="live"), written(2)),
        (model(entry(3, "Superseded"), entry(2), alias="live"), written(2)),
        (model(entry(3, "RolledBack"), alias="live"), None),
        (model(entry(1, "WentBack"), entry(2), entry(1), alias="live"), written(1)),
        # The number of another model's version, of an older release's status, of what is no version.
        (model(entry(2, uri="models:/faces@champion"), alias="live"), None),
        (model(entry(2, uri="models:/digits/2"), alias="live"), written(2)),
        (model(entry(2, uri="models:/faces/2"), entry(1), alias="live"), None),
        (model(entry(2, uri=""), alias="live"), None),
        (model({**entry(2), "version": "m-2"}, alias="live"), None),
    ],
)
def test_what_should_stand_there(of: ModelDeployment, expected: WrittenBack | None) -> None:
    assert wanted(of, SERVER) == expected
    assert wanted(of, None) is None


@pytest.mark.parametrize(("failing", "seconds"), [(0, 5), (3, 5), (20, 20), (299, 299), (3600, 300)])
def test_what_fails_is_tried_ever_later(failing: float, seconds: float) -> None:
    assert write_back.after_failure(failing) == seconds


class World:
    """A registry that takes what it is given, or says why not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.marked: list[tuple[WrittenBack, tuple[WrittenBack, ...], str]] = []
        self.says: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.changed: list[ModelKey] = []
        self.writes = WriteBacks(Resolver(), self.changed.append, shared=False)

        async def mark(server: TrackingServer, wanted: WrittenBack, before: Sequence[WrittenBack], value: str) -> None:
            await self.open.wait()
            self.marked.append((wanted, tuple(before), value))
            if self.says is not None:
                raise self.says

        monkeypatch.setattr("rayfleet_operator.registry.marking.mark", mark)

    def follow(self, of: ModelDeployment, access: Access | CredentialsMissing | None = None) -> ModelDeployment:
        """The model as its status is told then."""
        (told,), self.notices = self.writes.follow("fleet", [of], {"digits": access} if access is not None else {})
        return told

    async def looked(self) -> None:
        """What was due after the last `follow` has been tried."""
        await self.until(lambda: not (self.writes._wake.is_set() or self.writes._busy))

    async def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, (self.marked, self.changed)
            await asyncio.sleep(0.01)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    world = World(monkeypatch)
    async with running(world.writes):
        yield world


@asynccontextmanager
async def running(writes: WriteBacks) -> AsyncIterator[None]:
    task = asyncio.ensure_future(writes.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_it_is_written_once_and_the_status_remembers(world: World) -> None:
    assert world.follow(model(entry(1), alias="live")).status.written_back is None
    await world.until(lambda: bool(world.changed))
    for _ in range(3):
        # The status was not written yet.
        assert world.follow(model(entry(1), alias="live")).status.written_back == written(1)
    assert world.follow(model(entry(1), stands=written(1), alias="live")).status.written_back == written(1)
    assert world.follow(model(entry(2), entry(1), stands=written(1), alias="live")).status.written_back == written(1)
    await world.until(lambda: len(world.changed) == 2)
    told = world.follow(model(entry(2), entry(1), stands=written(1), alias="live"))
    assert told.status.written_back == written(2)
    value = "vision/digits"
    assert world.marked == [(written(1), (), value), (written(2), (written(1),), value)]


async def test_what_stands_is_not_written_by_another_process(world: World) -> None:
    assert world.follow(model(entry(1), stands=written(1), alias="live")).status.written_back == written(1)
    await world.looked()
    assert world.marked == []


async def test_who_takes_it_out_and_in_again_has_it_written_again(world: World) -> None:
    assert world.follow(model(entry(1), stands=written(1))).status.written_back is None
    world.follow(model(entry(1), alias="live"))
    await world.until(lambda: bool(world.marked))


async def test_a_failure_is_told_until_it_is_over_and_never_changes_what_stands(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_back, "AFTER_FAILURE_S", 0.05)
    world.says = NotAllowed("MLflow knows nobody.")
    of = model(entry(2), entry(1), stands=written(1), alias="live")
    world.follow(of)
    await world.until(lambda: len(world.marked) >= 2)
    assert world.changed == [KEY], "the same failure is no news"
    assert world.follow(of).status.written_back == written(1)
    (notice,) = world.notices.values()
    assert notice.reason == "WriteBackFailed"
    assert notice.message == (
        "The registry does not say that version 2 has every request: MLflow knows nobody. Only credentials of the "
        "Secret that spec.model.registry.secretName names are used for this."
    )
    world.says = ValueError("odd")
    await world.until(lambda: len(world.changed) == 2)
    world.follow(of)
    assert world.notices["digits"].message.endswith("Writing failed: ValueError: odd")
    world.says = None
    await world.until(lambda: len(world.changed) == 3)
    assert world.follow(of).status.written_back == written(2)
    assert world.notices == {}


async def test_nothing_waits_for_a_silent_registry_and_a_later_version_is_written_last(world: World) -> None:
    world.open.clear()
    world.follow(model(entry(1), alias="live"))
    await world.until(lambda: bool(world.writes._busy))
    world.follow(model(entry(2), entry(1), alias="live"))
    await world.until(lambda: not world.writes._wake.is_set())
    world.open.set()
    await world.until(lambda: len(world.marked) == 2)
    # What was under way may stand there.
    assert [(wanted, before) for wanted, before, _ in world.marked] == [(written(1), ()), (written(2), (written(1),))]
    await world.until(lambda: bool(world.changed))
    assert world.follow(model(entry(2), entry(1), alias="live")).status.written_back == written(2)


FORTH = (entry(2), entry(1))
BACK = (entry(1, "WentBack"), *FORTH)


async def gone_back(world: World) -> None:
    """The first version stands in the registry again, and every other one is asked for our tag."""
    of = model(*BACK, stands=written(1), alias="live")
    assert world.follow(of).status.written_back is None, "who restarts now must not believe that it stands there"
    world.follow(of)
    await world.until(lambda: bool(world.marked) and world.marked[-1][0] == written(1))
    assert written(2) in world.marked[-1][1]
    await world.until(lambda: world.follow(of).status.written_back == written(1))
    assert world.notices == {}
    assert world.writes._entries == {}


async def test_what_was_written_in_part_is_taken_back(world: World) -> None:
    """Who may not take the tag off the version before has given alias and tag to the new one by then."""
    world.says = NotAllowed("no")
    world.follow(model(*FORTH, stands=written(1), alias="live"))
    await world.until(lambda: bool(world.changed))
    of = model(*BACK, stands=written(1), alias="live")
    world.follow(of)
    await world.until(lambda: len(world.changed) == 2)
    for _ in range(2):
        world.follow(of)
        assert "does not say that version 1 has every request" in world.notices["digits"].message
    world.says = None
    # The wait after a failure is over once the credentials are others.
    access = Access(Credentials(token="new"))
    world.follow(of, access)
    await world.until(lambda: len(world.changed) == 3)
    assert [(wanted, before) for wanted, before, _ in world.marked] == [
        (written(2), (written(1),)),
        *[(written(1), (written(1), written(2)))] * 2,
    ]
    assert world.follow(of, access).status.written_back == written(1)


async def test_what_is_under_way_is_awaited_and_taken_back(world: World) -> None:
    world.open.clear()
    world.follow(model(*FORTH, stands=written(1), alias="live"))
    await world.until(lambda: bool(world.writes._busy))
    world.follow(model(*BACK, stands=written(1), alias="live"))
    await world.until(lambda: not world.writes._wake.is_set())
    world.open.set()
    await gone_back(world)
    assert [wanted for wanted, _, _ in world.marked] == [written(2), written(1)]


async def test_what_the_status_does_not_say_yet_is_taken_back(world: World) -> None:
    world.follow(model(*FORTH, stands=written(1), alias="live"))
    await world.until(lambda: bool(world.changed))
    await gone_back(world)


@pytest.mark.parametrize(
    "between",
    [
        model(*BACK, stands=written(1), secret="mlflow", alias="live"),
        model(*FORTH, stands=written(1), uri="models:/faces@champion", alias="live"),
    ],
)
async def test_what_is_to_be_taken_back_is_remembered_while_nothing_can_be_written(
    world: World, between: ModelDeployment
) -> None:
    world.says = NotAllowed("no")
    world.follow(model(*FORTH, stands=written(1), alias="live"))
    await world.until(lambda: bool(world.changed))
    world.says = None
    for _ in range(2):
        assert world.follow(between).status.written_back is None, "version 2 may stand there"
        assert world.notices == {}
        await world.looked()
    assert len(world.marked) == 1, "what is not wanted any more is not written"
    await gone_back(world)


async def test_what_the_secret_holds_is_waited_for_and_changed_credentials_are_tried_at_once(world: World) -> None:
    of = model(entry(1), secret="mlflow", alias="live")
    world.follow(of)
    world.follow(of, CredentialsMissing("no Secret"))
    await world.looked()
    assert world.marked == []
    world.says = NotAllowed("wrong")
    world.follow(of, Access(Credentials(token="old")))
    await world.until(lambda: len(world.changed) == 1)
    world.says = None
    world.follow(of, Access(Credentials(token="new")))
    await world.until(lambda: len(world.changed) == 2)
    assert world.follow(of, Access(Credentials(token="new"))).status.written_back == written(1)


async def test_a_fleet_that_is_gone_and_a_model_that_is_deleted_write_nothing(world: World) -> None:
    world.says = NotAllowed("no")
    world.follow(model(entry(1), alias="live"))
    await world.until(lambda: bool(world.changed))
    world.writes.follow("another", [])
    assert world.follow(model(entry(1), alias="live"))
    assert world.notices
    world.writes.follow("fleet", [])
    assert world.writes._entries == {}
    world.follow(model(entry(1), alias="live"))
    world.writes.forget("fleet")
    assert world.writes._entries == {}


@pytest.mark.parametrize(
    ("access", "shared", "shown"),
    [
        (Access(), False, ""),
        (Access(), True, "Bearer operators"),
        (Access(Credentials(token="models")), False, "Bearer models"),
        (Access(Credentials(token="models")), True, "Bearer models"),
    ],
)
async def test_on_kubernetes_the_operators_own_credentials_write_nothing(
    access: Access, shared: bool, shown: str
) -> None:
    async with stand_in(lambda head: http("403 No", b"")) as server:
        resolver = Resolver(default_tracking_uri=server.uri, credentials=Credentials(token="operators"))
        told: list[ModelKey] = []
        writes = WriteBacks(resolver, told.append, shared=shared)
        of = model(entry(1), server=server.uri, secret="mlflow", alias="live")
        async with running(writes):
            writes.follow("fleet", [of], {"digits": access})
            async with asyncio.timeout(PATIENCE_S):
                while not told:
                    await asyncio.sleep(0.01)
        _, notices = writes.follow("fleet", [of], {"digits": access})
    assert "does not permit changing this model. Grant EDIT" in notices["digits"].message
    heads = {line.lower() for head in server.requests for line in head.splitlines() if "uthorization" in line}
    assert heads == ({f"authorization: {shown}".lower()} if shown else set())


async def test_what_cannot_be_read_keeps_what_its_status_says() -> None:
    """On Kubernetes a spec may be one that today's rules do not allow."""
    followed = FollowedModels(lambda fleet: None)
    try:
        of = model(entry(1), stands=written(1))
        told, notices = followed.write_back(FleetKey("vision", "digits"), [of], {}, but={"digits"})
        assert (told, notices) == ([of], {})
        (other,), _ = followed.write_back(FleetKey("vision", "digits"), [of], {}, but=())
        assert other.status.written_back is None
        followed.check()
        followed.forget(FleetKey("vision", "digits"))
    finally:
        await followed.close()
