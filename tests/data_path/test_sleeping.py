"""A version without replicas: who wakes it, and what routers know of it meanwhile. Links and servers are real; Serve's
list of replicas, and its call that waits for one, are stand-ins."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from rayfleet_serving.config import Classification, Limits, ModelRoute, TrafficTable, Transform, VersionRoute
from rayfleet_serving.link.call import Call, Reply, Timing
from rayfleet_serving.link.server import LinkServer
from rayfleet_serving.metrics import RouterMetrics
from rayfleet_serving.protocol.message import InferenceRequest
from rayfleet_serving.router import inference, version
from rayfleet_serving.router.exchange import Exchange
from rayfleet_serving.router.traffic import Traffic
from rayfleet_serving.router.version import LiveVersion
from rayfleet_serving.signature import Field, ModelMetadata, Signature

SIGNATURE = Signature(form="tensor", inputs=(Field(name="x", dtype="float64", shape=(-1, 1)),))
LOOK_BACK_S = 1.0


class Fleet:
    """One application in Serve, with at most one replica, and routers that ask each other."""

    def __init__(self) -> None:
        self.listed: dict[str, Any] = {}
        self.waiting = 0
        """Calls that wait in Serve for a replica: each would have one started."""
        self.silent = False
        """Its replica does not say what it takes."""
        self.asked_peers = 0
        self.go = asyncio.Event()
        self.go.set()
        self.routers: list[Traffic] = []
        self._replica: Any = None
        self.app_name = "digits-a"
        self._router = SimpleNamespace(
            _asyncio_router=SimpleNamespace(request_router=SimpleNamespace(curr_replicas=self.listed))
        )
        self.metadata = SimpleNamespace(remote=self._metadata)

    async def __aenter__(self) -> Fleet:
        self._server = LinkServer(self._infer, replica="r1", host="127.0.0.1")
        endpoint = list(await self._server.start())
        self._replica = SimpleNamespace(
            replica_id=SimpleNamespace(unique_id="r1"), replica_metadata={"endpoint": endpoint}
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        for router in self.routers:
            for each in router.live_versions():
                await each.close()
        self._server.close()

    def start(self) -> None:
        self.listed["r1"] = self._replica

    def stop(self) -> None:
        self.listed.clear()

    def router(self, labels_file: str | None = None) -> Traffic:
        """One more."""
        traffic = Traffic(f"r{len(self.routers)}", RouterMetrics(f"r{len(self.routers)}"), self._peers)
        self.routers.append(traffic)
        traffic.apply(table(labels_file))
        return traffic

    async def shutdown_async(self) -> None: ...

    async def _infer(self, call: Call) -> Reply:
        await self.go.wait()
        rows = sum(call.sizes)
        return Reply({"y": np.zeros((rows, 1))}, list(call.sizes), "array", {}, Timing(0.0, 0.0, 0.0))

    async def _metadata(self, labels_file: str | None) -> ModelMetadata:
        self.waiting += 1
        try:
            while self.silent or not self.listed:
                await asyncio.sleep(0.01)
        finally:
            self.waiting -= 1
        labels = (labels_file,) if labels_file else ()
        return ModelMetadata(
            name="digits", version="1", model_id="a", flavor="onnx", signature=SIGNATURE, labels=labels
        )

    async def _peers(self, app: str, labels_file: str | None) -> ModelMetadata | None:
        """As a router asks: all of them, itself among them."""
        self.asked_peers += 1
        answers = [router.known(app, labels_file) for router in self.routers]
        return next((answer for answer in answers if answer is not None), None)


def table(labels_file: str | None = None, max_queued_requests: int = 400) -> TrafficTable:
    transform = Transform(classification=Classification(labels_file=labels_file) if labels_file else None)
    route = VersionRoute(
        app="digits-a", version="1", model_id="a", weight=100, sleeps=True, max_batch_size=1, transform=transform
    )
    limits = Limits(request_timeout_s=20, max_queued_requests=max_queued_requests)
    return TrafficTable(models={"digits": ModelRoute(versions=[route], limits=limits, look_back_s=LOOK_BACK_S)})


@pytest.fixture
async def fleet(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    async with Fleet() as found:
        monkeypatch.setattr(version, "deployment_handle", lambda deployment, app: found)
        yield found


def only(router: Traffic) -> LiveVersion:
    (found,) = router.live_versions()
    return found


async def until(met: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not met():
            await asyncio.sleep(0.01)


async def ask(live: LiveVersion) -> None:
    request = InferenceRequest({"x": np.zeros((1, 1))}, 1, "tensors")
    with live.held():
        live.wake()
        await live.coalescer.infer(request, time.monotonic() + 20)


async def test_requests_that_queue_when_the_last_replica_goes_have_another_one_started(fleet: Fleet) -> None:
    fleet.start()
    live = only(fleet.router())
    await until(lambda: live.ready and live.awake)
    fleet.go.clear()
    requests = [asyncio.ensure_future(ask(live)) for _ in range(5)]
    await until(lambda: live.coalescer.queued)
    fleet.stop()
    await until(lambda: not live.awake)
    fleet.go.set()
    await until(lambda: fleet.waiting)
    fleet.start()
    async with asyncio.timeout(20):
        await asyncio.gather(*requests)


async def test_requests_that_wait_to_know_what_it_takes_have_another_one_started(fleet: Fleet) -> None:
    """The replica went before it said so."""
    fleet.silent = True
    fleet.start()
    live = only(fleet.router())
    await until(lambda: live.awake and fleet.waiting)

    async def learn() -> None:
        with live.held():
            await live.known(20)

    request = asyncio.ensure_future(learn())
    await until(lambda: live._unknowing)
    live._metadata_task.cancel()
    await until(lambda: not fleet.waiting)
    fleet.stop()
    fleet.silent = False
    await until(lambda: fleet.waiting)
    fleet.start()
    await request


async def test_labels_that_are_edited_while_it_sleeps_are_those_it_wakes_with(fleet: Fleet) -> None:
    """Routers know the old ones, and must not tell each other those."""
    fleet.start()
    routers = [fleet.router("old.txt"), fleet.router("old.txt")]
    lives = [only(router) for router in routers]
    await until(lambda: all(live.ready and live.awake for live in lives))
    fleet.stop()
    await until(lambda: not any(live.awake for live in lives))
    for router in routers:
        router.apply(table("new.txt"))
    asked = fleet.asked_peers
    await until(lambda: fleet.asked_peers >= asked + 2)
    assert [router.known("digits-a", "new.txt") for router in routers] == [None, None]
    assert all(live.ready for live in lives), "what is known stays in use"
    fleet.start()
    await until(lambda: [live.metadata and live.metadata.labels for live in lives] == [("new.txt",)] * 2)


async def test_a_router_that_knows_nothing_of_what_sleeps_still_takes_requests(fleet: Fleet) -> None:
    """A balancer that waits for it to be ready would never send the request that wakes a model."""
    router = fleet.router()
    assert router.ready
    assert not router.models["digits"].ready, "what it takes is not known"
    fleet.start()
    live = only(router)
    await until(lambda: live.awake and live.metadata is not None)
    assert router.ready


async def test_routers_ask_each_other_more_and_more_seldom(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    asked_at: list[float] = []
    monkeypatch.setattr(version, "METADATA_RETRY_S", 0.0)
    monkeypatch.setattr(version, "time", SimpleNamespace(monotonic=lambda: now[0]))
    live = only(fleet.router())
    while now[0] < 600:
        before = fleet.asked_peers
        for _ in range(3):
            await asyncio.sleep(0)
        if fleet.asked_peers > before:
            asked_at.append(now[0])
        now[0] += 0.5
    pauses = np.diff(asked_at)
    assert pauses[0] <= 3.0
    assert max(pauses) <= version.MOST_PEERS_S + 2.0
    assert len(asked_at) < 20
    assert live.metadata is None


@pytest.mark.parametrize(
    ("state", "may_wait", "held"), [("asleep", 5, 5), ("asleep", 0, 1), ("awake", 5, 55), ("awake", 0, 50)]
)
async def test_of_those_that_come_while_nothing_is_known_so_many_are_held_as_are_answered(
    state: str, may_wait: int, held: int, fleet: Fleet
) -> None:
    """The others are refused as they come: nothing can run where no replica does."""
    router = fleet.router()
    router.apply(table(max_queued_requests=may_wait))
    live = only(router)
    if state == "awake":
        fleet.silent = True
        fleet.start()
        await until(lambda: live.awake)

    async def asked() -> int:
        try:
            return (await inference.answer(exchange_of(orjson.dumps([[1.0]]))[0], router.models["digits"])).status
        except version.RequestError as error:
            return error.status

    requests = [asyncio.ensure_future(asked()) for _ in range(60)]
    await until(lambda: fleet.waiting and sum(each.done() for each in requests) == 60 - held)
    assert {each.result() for each in requests if each.done()} == {429}
    assert live.held_now == held
    fleet.silent = False
    fleet.start()
    async with asyncio.timeout(20):
        answers = Counter(await asyncio.gather(*requests))
    if state == "asleep" and may_wait == 0:
        # One is let in to wake it, and refused where it would have to wait for the replica to be reached.
        assert answers[200] + answers[429] == 60
    else:
        assert answers == Counter({429: 60 - held, 200: held})


def exchange_of(body: bytes) -> tuple[Exchange, asyncio.Event]:
    """A request without Serve in between, and what makes its client leave."""
    messages = [{"type": "http.request", "body": body}]
    left = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    exchange = Exchange.of({"headers": [], "path": "/digits/predict", "method": "POST"}, receive)
    exchange.direct = True
    return exchange, left


async def test_a_client_that_leaves_while_a_model_wakes_is_waited_for_no_longer(fleet: Fleet) -> None:
    router = fleet.router()
    live = only(router)
    exchange, left = exchange_of(orjson.dumps([[1.0]]))
    request = asyncio.ensure_future(inference.answer(exchange, router.models["digits"]))
    await until(lambda: fleet.waiting)
    left.set()
    await until(request.done)
    assert request.cancelled()
    assert exchange.client_gone
    await until(lambda: live.idle and not fleet.waiting)


async def test_bodies_that_no_model_can_take_keep_none_awake(fleet: Fleet) -> None:
    fleet.start()
    router = fleet.router()
    live = only(router)
    await until(lambda: live.ready and live.awake)
    for _ in range(5):
        exchange, _ = exchange_of(b"no JSON")
        with pytest.raises(version.RequestError):
            await inference.answer(exchange, router.models["digits"])
    told = live.load.seen(1)
    assert told is not None
    assert (told.ongoing, told.latency) == (0.0, {})
    exchange, _ = exchange_of(orjson.dumps([[1.0]]))
    assert (await inference.answer(exchange, router.models["digits"])).status == 200
    told = live.load.seen(1)
    assert told is not None
    assert told.ongoing > 0
