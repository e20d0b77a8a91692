"""Leader election on a real API server: at most one leads, and somebody does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from closed_loop import until
from cluster.control_plane import ControlPlane
from fake_clock import Clock

from rayfleet_operator.kube import config
from rayfleet_operator.kube.client import KubeClient
from rayfleet_operator.kube.kinds import LEASE, Kind
from rayfleet_operator.kube.lease import Lease, LeaseLost, Pace

PACE = Pace(lease_s=60, renew_s=40, retry_s=0.2, attempt_s=20)
"""By a clock that a test moves: beside other tests, an API server may think for seconds about one request."""
NAMESPACE = "default"
Json = dict[str, Any]
Candidate = Callable[..., Lease]


class Reader(KubeClient):
    """Counts what has been read, or tried in vain."""

    reads = 0

    async def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        try:
            return await super().get(kind, namespace, name)
        finally:
            self.reads += 1

    async def has_read_again(self) -> None:
        """The first one to end may have begun earlier."""
        before = self.reads
        await until("it reads again", lambda: self.reads >= before + 2)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient(config.load(str(control_plane.kubeconfig))) as client:
        yield client


@pytest.fixture
async def reader(control_plane: ControlPlane) -> AsyncIterator[Reader]:
    """Of the candidate that waits."""
    async with Reader(config.load(str(control_plane.kubeconfig))) as client:
        yield client


@pytest.fixture
def name() -> str:
    return f"lease-{os.urandom(4).hex()}"


@pytest.fixture
def candidate(client: KubeClient, name: str, clock: Clock) -> Candidate:
    def make(identity: str, client: KubeClient = client) -> Lease:
        return Lease(client, namespace=NAMESPACE, name=name, identity=identity, pace=PACE, clock=clock)

    return make


async def spec(client: KubeClient, name: str) -> Json:
    found = await client.get(LEASE, NAMESPACE, name)
    assert found is not None
    return dict(found["spec"])


async def written(client: KubeClient, name: str, **spec: Any) -> None:
    """The Lease as somebody else writes it."""
    found = await client.get(LEASE, NAMESPACE, name)
    metadata = found["metadata"] if found is not None else {"namespace": NAMESPACE, "name": name}
    obj = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
    await (client.replace(obj) if found is not None else client.create(obj))


async def test_of_many_who_ask_at_once_one_leads(candidate: Candidate, client: KubeClient, name: str) -> None:
    asking = [asyncio.create_task(candidate(f"c{number}").acquire()) for number in range(6)]
    await asyncio.wait(asking, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    done, waiting = await asyncio.wait(asking, timeout=2)
    for each in waiting:
        each.cancel()

    assert len(done) == 1
    assert (await spec(client, name))["holderIdentity"].startswith("c")


async def test_a_lease_that_is_given_up_is_taken_before_it_runs_out(
    candidate: Candidate, client: KubeClient, reader: Reader, name: str
) -> None:
    first, second = candidate("first"), candidate("second", reader)
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await reader.has_read_again()
    assert not waiting.done()

    await first.release()
    async with asyncio.timeout(60):
        await waiting
    after = await spec(client, name)
    assert after["holderIdentity"] == "second"
    assert after["leaseTransitions"] == 1
    await first.release()
    assert (await spec(client, name))["holderIdentity"] == "second", "what is no longer ours is not given up"


async def test_a_lease_that_is_kept_is_not_taken_and_one_whose_holder_died_is(
    candidate: Candidate, client: KubeClient, reader: Reader, name: str, clock: Clock
) -> None:
    first, second = candidate("first"), candidate("second", reader)
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    waiting = asyncio.create_task(second.acquire())
    for _ in range(6):
        before = (await spec(client, name))["renewTime"]
        clock.forward(PACE.lease_s / 3)
        async with asyncio.timeout(60):
            while (await spec(client, name))["renewTime"] == before:
                await asyncio.sleep(0.02)
        await reader.has_read_again()
        assert not waiting.done()
        assert not keeping.done()

    keeping.cancel()
    await asyncio.wait([keeping])
    await reader.has_read_again()
    clock.forward(PACE.lease_s - 1)
    await reader.has_read_again()
    assert not waiting.done()
    clock.forward(1)
    async with asyncio.timeout(60):
        await waiting
    assert (await spec(client, name))["holderIdentity"] == "second"


@pytest.mark.parametrize("year", ["1970", "2099"])
async def test_the_holders_clock_does_not_matter(
    candidate: Candidate, client: KubeClient, reader: Reader, name: str, clock: Clock, year: str
) -> None:
    def renewal(second: int) -> Json:
        when = f"{year}-01-01T00:00:{second:02}.000000Z"
        return {"holderIdentity": "skewed", "leaseDurationSeconds": PACE.lease_s, "renewTime": when}

    await written(client, name, **renewal(0))
    waiting = asyncio.create_task(candidate("second", reader).acquire())
    for second in range(1, 10):
        await reader.has_read_again()
        clock.forward(PACE.lease_s / 3)
        await written(client, name, **renewal(second))
    await reader.has_read_again()
    assert not waiting.done(), "it is renewed, whatever the date says"
    clock.forward(PACE.lease_s)
    async with asyncio.timeout(60):
        await waiting
    assert (await spec(client, name))["holderIdentity"] == "second"


async def test_who_finds_another_holder_stops_at_once(client: KubeClient, name: str) -> None:
    # Whoever stops at its deadline only, stops after this test.
    patient = Pace(lease_s=120, renew_s=100, retry_s=0.2)
    first = Lease(client, namespace=NAMESPACE, name=name, identity="first", pace=patient)
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    await written(client, name, holderIdentity="thief", leaseDurationSeconds=PACE.lease_s)

    async with asyncio.timeout(30):
        with pytest.raises(LeaseLost, match="thief holds the Lease"):
            await keeping
    await first.release()
    assert (await spec(client, name))["holderIdentity"] == "thief"


async def test_a_lease_that_somebody_deletes_is_made_again(candidate: Candidate, client: KubeClient, name: str) -> None:
    first = candidate("first")
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    await client.delete(LEASE, NAMESPACE, name)
    async with asyncio.timeout(30):
        while await client.get(LEASE, NAMESPACE, name) is None:
            await asyncio.sleep(0.05)
    assert not keeping.done()
    keeping.cancel()


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One to stop."""
    with ControlPlane(tmp_path_factory.mktemp("lease")) as started:
        yield started


async def test_who_cannot_renew_stops_before_another_may_lead(
    own: ControlPlane, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for pace in (PACE, Pace()):
        assert pace.retry_s + pace.renew_s < pace.lease_s
    told: list[bool] = []
    async with KubeClient(config.load(str(own.kubeconfig))) as client:
        lease = Lease(
            client, namespace=NAMESPACE, name="l", identity="first", leads=told.append, pace=PACE, clock=clock
        )
        await lease.acquire()
        caplog.clear()
        keeping = asyncio.create_task(lease.keep())
        await asyncio.to_thread(own.kill_part, "kube-apiserver")
        await until("it tries in vain", lambda: "tried again and again" in caplog.text)
        clock.forward(PACE.renew_s - 1)
        await asyncio.wait([keeping], timeout=1)
        assert told == [True]
        clock.forward(1)
        async with asyncio.timeout(60):
            with pytest.raises(LeaseLost, match="could not be renewed for 40 s"):
                await keeping
        assert told == [True, False]
        await lease.release()  # says that it could not, and raises nothing


async def test_an_outage_shorter_than_the_deadline_loses_nothing(own: ControlPlane) -> None:
    async with KubeClient(config.load(str(own.kubeconfig))) as client:
        patient = Pace(lease_s=60, renew_s=50, retry_s=0.2)
        lease = Lease(client, namespace=NAMESPACE, name="l", identity="first", pace=patient)
        await lease.acquire()
        before = (await spec(client, "l"))["renewTime"]
        keeping = asyncio.create_task(lease.keep())
        await asyncio.to_thread(own.kill_part, "kube-apiserver")
        await asyncio.to_thread(own.start_part, "kube-apiserver")
        async with asyncio.timeout(40):
            while (await spec(client, "l"))["renewTime"] == before:
                await asyncio.sleep(0.1)
        assert not keeping.done()
        keeping.cancel()


async def test_trouble_that_lasts_is_said_once(control_plane: ControlPlane, caplog: pytest.LogCaptureFixture) -> None:
    async with Reader(config.load(str(control_plane.kubeconfig_for("nobody")))) as client:
        asking = asyncio.create_task(
            Lease(client, namespace=NAMESPACE, name="forbidden", identity="first", pace=PACE).acquire()
        )
        await until("it has tried several times", lambda: client.reads >= 5)
        asking.cancel()

    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "not allowed to get Lease forbidden in namespace default" in warnings[0]
