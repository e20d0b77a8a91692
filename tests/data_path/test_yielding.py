"""Who goes first where models share a device: requests come in as HTTP, links are real, Serve is a stand-in."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from closed_loop import until
from fake_clock import Clock
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rayfleet_serving.autoscaling.need import REFUSED
from rayfleet_serving.config import Limits, ModelRoute, RolloutMark, Target, TrafficTable, VersionRoute
from rayfleet_serving.link import devices
from rayfleet_serving.link.call import Call, Reply, Timing
from rayfleet_serving.link.server import LinkServer
from rayfleet_serving.metrics import RouterMetrics
from rayfleet_serving.router import version
from rayfleet_serving.router.http import Front
from rayfleet_serving.router.load import Load
from rayfleet_serving.router.restraint import FLOOR, Restraint
from rayfleet_serving.router.traffic import Traffic
from rayfleet_serving.router.version import LiveVersion
from rayfleet_serving.router.yielding import Party, Ranking
from rayfleet_serving.signature import Field, ModelMetadata, Signature

SIGNATURE = Signature(form="tensor", inputs=(Field(name="input", dtype="float64", shape=(-1, 2)),))
CARD, OTHER_CARD, MACHINE = devices.told("n1", ["0"]), devices.told("n1", ["1"]), devices.told("n1", [])
LIMITS = Limits(request_timeout_s=60.0, max_queued_requests=40, max_ongoing_requests=4)
MARK = RolloutMark(stable="lesser", candidate="next", began="2026-01-01T00:00:00Z", stage=0)


class App:
    """One version's replica: it answers once it may, and tells Serve what it computes on."""

    def __init__(self, name: str, told: Any) -> None:
        self.app_name = name
        self.go = asyncio.Event()
        self.go.set()
        self.calls = 0
        self.waited_s = 0.0
        """For how long its device was busy with others before a call, as it says."""
        self.told = told
        self.listed: dict[str, Any] = {}
        self.server: LinkServer | None = None
        self._router = SimpleNamespace(
            _asyncio_router=SimpleNamespace(request_router=SimpleNamespace(curr_replicas=self.listed))
        )
        self.metadata = SimpleNamespace(remote=self._metadata)

    async def _metadata(self, labels_file: str | None) -> ModelMetadata:
        return ModelMetadata(name=self.app_name, version="1", model_id="m", flavor="onnx", signature=SIGNATURE)

    async def start(self) -> None:
        async def infer(call: Call) -> Reply:
            self.calls += 1
            await self.go.wait()
            sums = {"y": call.inputs["input"].sum(axis=1)}
            return Reply(sums, [1] * len(call.sizes), "array", {}, Timing(self.waited_s, 0.0, 0.0))

        self.server = LinkServer(infer, replica=self.app_name, host="127.0.0.1")
        metadata = {"endpoint": list(await self.server.start())}
        if self.told is not None:
            metadata[devices.KEY] = self.told
        self.listed[self.app_name] = SimpleNamespace(
            replica_id=SimpleNamespace(unique_id=self.app_name), replica_metadata=metadata
        )

    async def shutdown_async(self) -> None: ...


class Machine:
    """One router, and the versions that it reaches."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.apps: dict[str, App] = {}
        self.clock = Clock()
        self.metrics = RouterMetrics("router")
        self.traffic = Traffic("router", self.metrics)
        self.front = Front(self.traffic, *([None] * 2))  # type: ignore[arg-type]
        patch.setattr(version, "deployment_handle", lambda deployment, app: self.apps[app])
        patch.setattr(version, "Load", lambda look_back_s: Load(look_back_s, self.clock))

    async def serve(self, **models: tuple[ModelRoute, dict[str, Any]]) -> None:
        """Each model with its route, and what the replicas of its applications compute on."""
        for _, told in models.values():
            for name, where in told.items():
                self.apps[name] = App(name, where)
                await self.apps[name].start()
        self.traffic.apply(TrafficTable(models={name: route for name, (route, _) in models.items()}, routers=1))
        for live in self.traffic.live_versions():
            live.pressure._clock = self.clock
            live.load.seen(1)
            live.restraint = Restraint(self.clock)
        await until("all are reached", lambda: all(live.ready and live.awake for live in self.traffic.live_versions()))
        self.second()
        self.second()

    def live(self, app: str) -> LiveVersion:
        return self.traffic._versions[app]

    def ratio(self, app: str) -> float:
        return self.live(app).restraint.ratio

    def second(self) -> None:
        self.clock.forward(1)
        self.traffic.settle()

    def press(self, app: str) -> None:
        """A second in which its answers were too slow."""
        for _ in range(30):
            self.live(app).pressure.ended(200, 1.0)
        self.second()

    def calm(self, app: str, seconds: int = 1) -> None:
        """Seconds in which its answers were quick enough."""
        for _ in range(seconds):
            for _ in range(30):
                self.live(app).pressure.ended(200, 0.01)
            self.second()

    async def post(self, path: str, **asked: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of an answer; `asked`: headers of the request."""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"[[1.0, 2.0]]"}

        async def send(message: Any) -> None:
            sent.append(message)

        given = [(name.replace("_", "-").encode(), value.encode()) for name, value in asked.items()]
        await self.front({"type": "http", "path": path, "method": "POST", "headers": given}, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, orjson.loads(sent[1]["body"])

    async def ask(self, model: str, times: int = 1) -> Counter[int]:
        """How often which status was answered."""
        answers = await asyncio.gather(*(self.post(f"/{model}/predict") for _ in range(times)))
        return Counter(status for status, _, _ in answers)

    def samples(self, name: str) -> dict[str, float]:
        """By model, version and, where there is one, cause or code."""
        keys = ("model", "version", "cause", "code")
        return {
            "/".join(each.labels[key] for key in keys if key in each.labels): each.value
            for family in text_string_to_metric_families(self.metrics.exposition())
            for each in family.samples
            if each.name == name
        }


@pytest.fixture
async def machine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    machine = Machine(monkeypatch)
    yield machine
    for live in machine.traffic.live_versions():
        await live.close()
    for app in machine.apps.values():
        if app.server is not None:
            app.server.close()


def a_model(app: str, priority: int = 0, *, on: Any = CARD, **row: Any) -> tuple[ModelRoute, dict[str, Any]]:
    entry = VersionRoute(app=app, version="1", model_id="m", weight=100)
    target = Target(percentile=90, seconds=0.5)
    return ModelRoute(versions=[entry], limits=LIMITS, priority=priority, target=target, **row), {app: on}


async def test_a_lesser_model_on_the_same_gpu_yields_and_is_told_why(machine: Machine) -> None:
    await machine.serve(first=a_model("first", 10), lesser=a_model("lesser"))
    assert await machine.ask("lesser", 20) == {200: 20}
    for _ in range(20):
        machine.press("first")
    assert machine.ratio("lesser") == FLOOR
    assert machine.ratio("first") == 1.0
    refused = 0
    while not refused:
        status, headers, body = await machine.post("/lesser/predict")
        refused += status == 429
        machine.press("first")
    assert body["error"] == "Model lesser yields to model first, which has a higher priority on the same GPU."
    assert body["code"] == "Yielded"
    assert headers["retry-after"] == "10"
    assert "x-rayfleet-model-version" not in headers, "no version has had it"
    assert await machine.ask("first", 20) == {200: 20}
    machine.traffic.measure()
    assert machine.samples("rayfleet_admitted_ratio")["lesser/1"] == FLOOR


@pytest.mark.parametrize("why", ["slow", "full", "waits"])
async def test_requests_say_who_is_pressed(machine: Machine, why: str) -> None:
    route, told = a_model("first", 10)
    if why != "slow":
        route = route.model_copy(update={"target": None})
    await machine.serve(first=(route, told), lesser=a_model("lesser"))
    app = machine.apps["first"]
    assert await machine.ask("first", 30) == {200: 30}
    machine.second()
    assert machine.ratio("lesser") == 1.0
    if why == "waits":
        app.waited_s = 40.0
        assert await machine.ask("first", 30) == {200: 30}
    else:
        app.go.clear()
        asking = asyncio.ensure_future(machine.ask("first", 30 if why == "slow" else 80))
        live = machine.live("first")
        await until("they are there", lambda: live.held_now == (30 if why == "slow" else live.coalescer.capacity))
        machine.clock.forward(0.6)
        app.go.set()
        assert (await asking).keys() == ({200} if why == "slow" else {200, 429})
    machine.second()
    assert machine.ratio("lesser") < 1.0


async def test_it_recovers_when_the_other_is_well_again(machine: Machine) -> None:
    await machine.serve(first=a_model("first", 10), lesser=a_model("lesser"))
    for _ in range(20):
        machine.press("first")
    machine.calm("first", 4)
    before = machine.ratio("lesser")
    assert before < 0.5
    machine.calm("first")
    assert machine.ratio("lesser") == pytest.approx(before + 0.1)
    machine.calm("first", 30)
    assert machine.ratio("lesser") == 1.0
    assert await machine.ask("lesser", 30) == {200: 30}


@pytest.mark.parametrize(
    ("other", "on"),
    [
        (10, CARD), (20, CARD), (0, OTHER_CARD), (0, MACHINE), (0, devices.told("n2", ["0"])), (0, None),
        (0, "GPU/n1/0"), (0, [1, None]),
    ],
)  # fmt: skip
async def test_who_does_not_yield(machine: Machine, other: int, on: Any) -> None:
    """Its like, who goes before, who is on another device, and who does not say where it is."""
    await machine.serve(first=a_model("first", 10), other=a_model("other", other, on=on), third=a_model("third", -1))
    for _ in range(5):
        machine.press("first")
    assert machine.ratio("third") < 1.0
    assert machine.ratio("other") == 1.0


async def test_nobody_yields_while_nobody_is_pressed(machine: Machine) -> None:
    await machine.serve(first=a_model("first", 10), lesser=a_model("lesser"))
    for _ in range(3):
        assert await machine.ask("first", 30) == {200: 30}
        machine.second()
    machine.press("lesser")
    assert (machine.ratio("first"), machine.ratio("lesser")) == (1.0, 1.0)


async def test_without_gpus_the_machine_is_what_they_share(machine: Machine) -> None:
    await machine.serve(first=a_model("first", 10, on=MACHINE), lesser=a_model("lesser", on=MACHINE))
    for _ in range(20):
        machine.press("first")
    refused = None
    while refused is None:
        status, _, body = await machine.post("/lesser/predict")
        refused = body["error"] if status == 429 else None
        machine.press("first")
    assert refused.endswith("which has a higher priority on the same machine.")


async def test_a_priority_that_changes_counts_at_once(machine: Machine) -> None:
    await machine.serve(first=a_model("first"), lesser=a_model("lesser"))
    machine.press("first")
    assert machine.ratio("lesser") == 1.0
    rows = {"first": a_model("first", 1)[0], "lesser": a_model("lesser")[0]}
    machine.traffic.apply(TrafficTable(models=rows, routers=1))
    machine.second()
    machine.press("first")
    machine.press("first")
    assert machine.ratio("lesser") < 1.0
    machine.traffic.apply(TrafficTable(models={**rows, "first": a_model("first")[0]}, routers=1))
    for _ in range(30):
        machine.press("first")
    assert machine.ratio("lesser") == 1.0


async def test_a_version_on_its_way_out_presses_nobody(machine: Machine) -> None:
    leaving = VersionRoute(app="old", version="0", model_id="m", weight=0, leaving=True)
    route, told = a_model("first", 10)
    route = route.model_copy(update={"versions": [*route.versions, leaving]})
    await machine.serve(first=(route, {**told, "old": CARD}), lesser=a_model("lesser"))
    machine.press("old")
    assert machine.ratio("lesser") == 1.0


async def test_requests_that_wait_yield_as_well(machine: Machine) -> None:
    """Else a full queue would keep the device busy for long after it has begun."""
    await machine.serve(first=a_model("first", 10), lesser=a_model("lesser"))
    app, queue = machine.apps["lesser"], machine.live("lesser").coalescer
    app.go.clear()
    asking = asyncio.ensure_future(machine.ask("lesser", 40))
    await until("they wait", lambda: app.calls and queue.queued + queue.ongoing == 40)
    before = queue.queued
    for _ in range(6):
        machine.press("first")
    assert queue.queued < before / 2
    app.go.set()
    answered = await asking
    assert answered[200] + answered[429] == 40
    assert answered[429] >= before / 2
    assert (queue.queued, queue.ongoing) == (0, 0)
    assert queue._queued_rows == 0


@pytest.mark.parametrize("waiting", [False, True])
async def test_what_yields_tells_nothing_of_its_version_and_asks_for_no_replicas(
    machine: Machine, waiting: bool
) -> None:
    """Neither for the analysis of a candidate, nor for autoscaling."""
    route, told = a_model("lesser", rollout=MARK, look_back_s=30.0)
    candidate = VersionRoute(app="next", version="2", model_id="n", weight=50)
    stable = route.versions[0].model_copy(update={"weight": 50})
    route = route.model_copy(update={"versions": [candidate, stable]})
    await machine.serve(first=a_model("first", 10), lesser=(route, {**told, "next": CARD}))
    if waiting:
        for app in ("lesser", "next"):
            machine.apps[app].go.clear()
        asking = asyncio.ensure_future(machine.ask("lesser", 60))
        queues = [machine.live(app).coalescer for app in ("lesser", "next")]
        await until("they wait", lambda: sum(queue.queued + queue.ongoing for queue in queues) == 60)
        for _ in range(20):
            machine.press("first")
        for app in ("lesser", "next"):
            machine.apps[app].go.set()
        answered = await asking
    else:
        for _ in range(20):
            machine.press("first")
        answered = await machine.ask("lesser", 60)
        for _ in range(3):
            machine.press("first")
            answered += await machine.ask("lesser", 60)
    assert answered[429] > 10
    assert sum(answered.values()) == answered[200] + answered[429]
    counts = [live.window.count() for live in map(machine.live, ("lesser", "next")) if live.window is not None]
    assert sum(count.requests for count in counts) == answered[200]
    assert sum(count.failed for count in counts) == 0
    told_load = [live.load.seen(1) for live in map(machine.live, ("lesser", "next"))]
    latency = sum((Counter(load.latency) for load in told_load if load is not None), Counter[int]())
    assert latency[REFUSED] == 0
    assert machine.samples("rayfleet_request_errors_total") == {"lesser//yielded": answered[429]}
    assert machine.samples("rayfleet_requests_total")["lesser//429"] == answered[429]


async def test_that_a_number_moves_from_now_on_is_taken_in_place(machine: Machine) -> None:
    await machine.serve(first=a_model("first"))
    told = []
    for look_back in (None, 30.0, None):
        rows = {"first": a_model("first", look_back_s=look_back)[0]}
        machine.traffic.apply(TrafficTable(models=rows, routers=1))
        told.append(machine.live("first").load.seen(1) is not None)
    assert told == [False, True, False]


async def test_who_waited_for_a_replica_to_start_waited_for_no_neighbour(machine: Machine) -> None:
    await machine.serve(first=a_model("first", 10), lesser=a_model("lesser"))
    app, live = machine.apps["first"], machine.live("first")
    there = dict(app.listed)
    app.listed.clear()
    await until("it is gone", lambda: not live.awake)
    machine.second()
    app.listed.update(there)
    await until("it is back", lambda: live.awake)
    machine.press("first")
    assert machine.ratio("lesser") == 1.0
    machine.second()
    machine.second()
    machine.press("first")
    assert machine.ratio("lesser") < 1.0


async def test_routers_share_limits_by_how_many_they_see(machine: Machine) -> None:
    """The table's number, which is the least, holds as long as none is seen."""
    await machine.serve(first=a_model("first"))
    held = [machine.live("first").coalescer.capacity]
    for seen in (4, 0):
        machine.traffic.share_with(seen)
        held.append(machine.live("first").coalescer.capacity)
    machine.apps["other"] = App("other", CARD)
    rows = {"first": a_model("first")[0], "other": a_model("other")[0]}
    machine.traffic.apply(TrafficTable(models=rows, routers=1))
    held += [machine.live(app).coalescer.capacity for app in ("first", "other")]
    assert held == [44, 41, 41, 41, 41], "each may keep 40 waiting, and they share the four that are under way"


async def test_who_is_refused_at_the_door_asks_for_more_replicas(machine: Machine) -> None:
    await machine.serve(first=a_model("first", look_back_s=30.0))
    machine.apps["first"].go.clear()
    asking = asyncio.ensure_future(machine.ask("first", 80))
    live = machine.live("first")
    await until("it holds as many as it may", lambda: live.held_now == live.coalescer.capacity)
    machine.apps["first"].go.set()
    refused = (await asking)[429]
    told = live.load.seen(1)
    assert told is not None
    assert told.latency[REFUSED] == refused == 80 - live.coalescer.capacity


async def test_who_has_less_time_than_the_model_gives_asks_for_nothing(machine: Machine) -> None:
    """Neither for more replicas nor for others to yield: callers with the model's own time were answered in time."""
    await machine.serve(first=a_model("first", 10, look_back_s=30.0), lesser=a_model("lesser"))
    machine.apps["first"].go.clear()
    answers = await asyncio.gather(
        *(machine.post("/first/predict", x_rayfleet_timeout_seconds="0.05") for _ in range(30))
    )
    machine.apps["first"].go.set()
    assert {status for status, _, _ in answers} == {504}
    told = machine.live("first").load.seen(1)
    assert told is not None
    assert (told.latency.get(REFUSED, 0), sum(told.latency.values())) == (0, 30)
    machine.second()
    assert machine.ratio("lesser") == 1.0


@pytest.mark.parametrize(("priority", "compared"), [(0, 0), (1, 0), (-1, 1)])
async def test_copies_make_way_for_their_like_as_well(machine: Machine, priority: int, compared: int) -> None:
    """`other` is pressed; the mirror gets no copy where that is no less than its own model."""
    route, told = a_model("live", on=OTHER_CARD)
    shadow = VersionRoute(app="shadow", version="2", model_id="s", weight=0, mirror=100)
    route = route.model_copy(update={"versions": [*route.versions, shadow]})
    await machine.serve(digits=(route, {**told, "shadow": CARD}), other=a_model("other", priority))
    machine.press("other")
    assert machine.ratio("live") == 1.0
    assert await machine.ask("digits") == {200: 1}
    outcome = "compared" if compared else "dropped"
    await until("the copy ends", lambda: outcomes(machine) == {outcome: 1})
    machine.calm("other", 5)
    assert await machine.ask("digits") == {200: 1}
    expected = {"compared": 1 + compared, "dropped": 1 - compared}
    await until("the next is compared", lambda: outcomes(machine) == {key: n for key, n in expected.items() if n})


def outcomes(machine: Machine) -> dict[str, float]:
    text = machine.metrics.exposition()
    return {
        each.labels["outcome"]: each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if each.name == "rayfleet_mirror_requests_total" and each.value
    }


async def test_where_all_are_alike_nothing_is_counted(machine: Machine) -> None:
    await machine.serve(one=a_model("one", 5), other=a_model("other", 5))
    assert await machine.ask("one", 30) == {200: 30}
    machine.second()
    assert machine.live("one").pressure.ended_per_s == 0.0


names = st.sampled_from("abc")
parties = st.builds(
    Party,
    model=names,
    priority=st.integers(-2, 2),
    devices=st.frozensets(st.sampled_from(["GPU/n/0", "GPU/n/1", "CPU/n"]), max_size=3),
    pressed=st.booleans(),
)


@given(st.lists(parties, max_size=8), parties)
def test_whom_it_yields_to_is_pressed_goes_before_it_and_is_on_its_device(others: list[Party], one: Party) -> None:
    def yields(or_equal: bool, before: Callable[[int], bool]) -> None:
        found = Ranking(others).above(one, or_equal=or_equal)
        could = [each for each in others if each.pressed and before(each.priority) and each.devices & one.devices]
        assert (found is None) == (not could)
        if found is not None:
            assert found[0] in could
            assert found[0].priority == max(each.priority for each in could)
            assert found[1] in found[0].devices & one.devices

    yields(False, lambda priority: priority > one.priority)
    yields(True, lambda priority: priority >= one.priority)


def test_what_is_told_is_read_back() -> None:
    assert devices.read({devices.KEY: devices.told("n", ["0", "3"])}) == {"GPU/n/0", "GPU/n/3"}
    assert devices.read({devices.KEY: devices.told("n", [])}) == {"CPU/n"}
    assert [devices.describe(each) for each in (*CARD, *MACHINE)] == ["GPU", "machine"]
