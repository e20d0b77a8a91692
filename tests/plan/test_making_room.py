"""A fleet without a place to spare: what makes room, who takes it, and what is never taken from whom serves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.plan import demand, size
from rayfleet_operator.plan.admission import admit
from rayfleet_operator.plan.conditions import INSUFFICIENT_CAPACITY, ConditionType
from rayfleet_operator.plan.demand import Ask
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet, ResolutionProblem
from rayfleet_operator.plan.packing import Need
from rayfleet_operator.plan.room import Room
from rayfleet_operator.plan.size import Size
from rayfleet_operator.plan.versions import UNKNOWN
from rayfleet_serving.config import MODEL_IMPORT_PATH, ROUTER_APP

from .scenes import OPTIONS, applications, condition, deployed, identity
from .test_admission import GPU, ONE, Fleet, ready, room, shared

CANARY = {"strategy": "Canary", "steps": [{"weight": 10, "hold": "10m"}]}
STRATEGIES = [{"strategy": "Immediate"}, CANARY, {"strategy": "BlueGreen", "previewHold": "1m"}]
FOLLOWS = {"autoscaling": {"minReplicas": 1, "maxReplicas": 10}}


class Loaded(Fleet):
    """One with loads: Serve works towards the replicas that they need, within the bounds that it was given, and starts
    those for which there is a place, one after the other."""

    def __init__(self, room: Room = ONE, places: int = 5) -> None:
        super().__init__(room)
        self.places = places
        """For replicas, whoever's they are."""
        self.load: dict[str, int] = {}
        """By model and version."""
        self.running: Counter[str] = Counter()
        self.silent = False
        observe = self.world.observe

        def loaded(now: Any) -> ObservedFleet:
            seen = observe(now)
            apps = {name: self._loaded(app) if name != ROUTER_APP else app for name, app in seen.apps.items()}
            if self.silent:
                unsaid: dict[str, Any] = {"status": UNKNOWN, "replicas_running": None, "replicas_target": None}
                return replace(seen, apps={name: replace(app, **unsaid) for name, app in apps.items()}, routers=())
            return replace(seen, apps=apps)

        self.world.observe = loaded  # type: ignore[method-assign]

    def _loaded(self, app: ObservedApp) -> ObservedApp:
        self.running = Counter({name: n for name, n in self.running.items() if name in self.world.apps})
        if not app.entry:
            return app
        bounds, args = size.given(app.entry), app.entry["args"]
        wants = self.load.get(f"{args['name']} {args['identity']['version']}", 0)
        target = max(bounds.least, min(bounds.most, wants))
        free = self.places - self.running.total() + self.running[app.name]
        self.running[app.name] = min(target, free)
        return replace(app, replicas_running=self.running[app.name], replicas_target=target)

    def bounds(self, planned: FleetPlan, name: str) -> dict[int, Size]:
        return {
            int(entry["args"]["identity"]["version"]): size.given(entry)
            for app, entry in applications(planned).items()
            if app != ROUTER_APP and entry["args"]["name"] == name
        }


@pytest.mark.parametrize("rollout", STRATEGIES, ids=lambda each: str(each["strategy"]))
@pytest.mark.parametrize("broken", [True, False])
def test_a_candidate_makes_room_for_the_one_that_replaces_it(rollout: dict[str, Any], broken: bool) -> None:
    fleet = Fleet()
    fleet.ask("m", **shared("0.5", rollout=rollout))
    fleet.settle()
    if broken:
        fleet.world.broken.add(identity(2, "m").model_id)
    fleet.ask("m", version=2, **shared("0.5", rollout=rollout))
    fleet.settle(8)
    fleet.ask("m", version=3, **shared("0.5", rollout=rollout))
    for _ in range(30):
        assert "m" in ready(fleet.settle(1))
    fleet.now += timedelta(hours=1)
    fleet.settle(20)
    fleet.now += timedelta(hours=1)
    assert deployed(fleet.settle(20), "m") == {3}


def test_a_first_version_that_never_answered_makes_room_for_its_mend() -> None:
    fleet = Fleet()
    fleet.world.broken.add(identity(1, "m").model_id)
    fleet.ask("m", **shared("1"))
    fleet.settle()
    fleet.ask("m", version=2, **shared("1"))
    planned = fleet.settle(20)
    assert ready(planned) == {"m"}
    assert deployed(planned, "m") == {2}


def test_a_version_by_name_that_never_answered_makes_room_for_its_mend() -> None:
    traffic = {"versions": [{"name": "blue", "uri": "models:/m@blue", "weight": 10}]}
    fleet = Fleet()
    fleet.world.broken.add(identity(8, "m").model_id)
    fleet.ask("m", **shared("0.5", traffic=traffic))
    fleet.resolutions["m/blue"] = identity(8, "m")
    fleet.settle()
    fleet.resolutions["m/blue"] = identity(9, "m")
    assert deployed(fleet.settle(20), "m") == {1, 9}


@pytest.mark.parametrize("spec", [{"replicas": 3}, FOLLOWS])
def test_a_version_is_let_in_with_all_that_it_needs_or_not_at_all(spec: dict[str, Any]) -> None:
    fleet = Loaded()
    fleet.load = {"m 1": 3}
    fleet.ask("m", **shared("0.2", **spec))
    fleet.settle()
    fleet.ask("m", version=2, **shared("0.2", **spec))
    planned = fleet.settle(20)
    assert deployed(planned, "m") == {1}
    assert "of the 3 that it starts with, 2 would find room" in fleet.degraded("m")[1]
    assert not planned.changed
    # The load has gone, or somebody asks for less: what the version before no longer needs is room.
    fleet.load = {}
    fleet.ask("m", version=2, **shared("0.2", **({"replicas": 2} if "replicas" in spec else spec)))
    assert deployed(fleet.settle(20), "m") == {2}


def test_a_candidate_that_lost_its_places_waits_anew_and_holds_nobody_up() -> None:
    """Two of them would each keep what the other lacks."""
    fleet = Fleet(room({**GPU, "gpu": 2}))
    for name in ("a", "b"):
        fleet.ask(name, **shared("0.2"))
    fleet.settle()
    for name in ("a", "b"):
        fleet.ask(name, version=2, **shared("0.5"))
    fleet.look()
    for name in ("a", "b"):
        fleet.ask(name, version=2, replicas=3, **shared("0.5"))
    fleet.settle(6)
    for name in ("a", "b"):
        assert len(deployed(fleet.look(), name)) == 1, "three more of 0.5 each find no room beside 0.2 each"
    assert ready(fleet.look()) == {"a", "b"}
    fleet.room = room({**GPU, "gpu": 4})
    planned = fleet.settle(40)
    assert (deployed(planned, "a"), deployed(planned, "b")) == ({2}, {2})


def test_serve_is_told_of_no_more_replicas_than_have_a_place_until_there_is_room() -> None:
    fleet = Loaded()
    fleet.load = {"a 1": 1}
    fleet.ask("a", **shared("0.2"))
    fleet.settle()
    fleet.ask("n", replicas=6, **shared("0.2"))
    planned = fleet.settle()
    assert fleet.bounds(planned, "n") == {1: Size(4, 4)}, "a fifth would wait for the place of a's, should that die"
    assert not planned.changed
    assert fleet.degraded("n") == (
        INSUFFICIENT_CAPACITY,
        "version 1: 2 of 6 replicas wait: each needs 0.2 GPU, 0 free on 1 GPU",
    )
    told, fleet.silent = fleet.degraded("n"), True
    assert not fleet.look().changed
    assert fleet.degraded("n") == told, "whether Ray says what runs or not"
    fleet.silent = False
    fleet.running = Counter({name: 0 if name.startswith("a-") else n for name, n in fleet.running.items()})
    planned = fleet.settle()
    assert ready(planned) == {"a", "n"}
    fleet.room, fleet.places = room({**GPU, "gpu": 2}), 10
    planned = fleet.settle()
    assert fleet.bounds(planned, "n") == {1: Size(6, 6)}
    assert fleet.degraded("n")[1] == ""


def test_what_the_load_asks_for_beyond_the_room_is_not_asked_of_ray() -> None:
    fleet = Loaded()
    fleet.load = {"m 1": 8}
    fleet.ask("m", **shared("0.2", **FOLLOWS))
    planned = fleet.settle(20)
    assert fleet.bounds(planned, "m") == {1: Size(1, 5)}
    assert not planned.changed
    assert "replicas wait: each needs 0.2 GPU, 0 free" in fleet.degraded("m")[1]
    fleet.load = {"m 1": 2}
    planned = fleet.settle(20)
    assert fleet.bounds(planned, "m") == {1: Size(1, 10)}
    assert not planned.changed


def test_nobody_is_let_in_while_ray_does_not_say_what_runs() -> None:
    fleet = Loaded()
    fleet.load = {"a 1": 4}
    fleet.ask("a", **shared("0.2", **FOLLOWS))
    fleet.settle()
    fleet.ask("n", **shared("0.5"))
    fleet.settle()
    before, told = fleet.look().config, fleet.degraded("n")
    fleet.silent = True
    assert fleet.look().config == before
    assert fleet.degraded("n") == told
    fleet.ask("small", **shared("0.1"))
    planned = fleet.look()
    assert deployed(planned, "small") == set()
    assert "waits until Ray says again what runs" in fleet.degraded("small")[1]
    fleet.silent = False
    assert ready(fleet.settle()) == {"a", "small"}


@pytest.mark.parametrize("spec", [{"replicas": 3}, FOLLOWS])
def test_nor_is_anybody_given_more_meanwhile(spec: dict[str, Any]) -> None:
    """What the versions of one model have each, nobody knows then."""
    fleet = Loaded(places=6)
    fleet.load = {"m 1": 2, "m 9": 2, "n 1": 3}
    traffic = {"versions": [{"name": "blue", "uri": "models:/m@blue", "weight": 10}]}
    fleet.ask("m", **shared("0.2", traffic=traffic, **FOLLOWS))
    fleet.resolutions["m/blue"] = identity(9, "m")
    fleet.settle()
    fleet.ask("n", **shared("0.1", **spec))
    planned = fleet.settle()
    assert fleet.bounds(planned, "n")[1].most == 2
    assert fleet.degraded("n")[1] == "version 1: 1 of 3 replicas wait: each needs 0.1 GPU, 0 free on 1 GPU"
    fleet.silent = True
    for _ in range(3):
        assert fleet.bounds(fleet.look(), "n")[1].most == 2
        said = (INSUFFICIENT_CAPACITY, "version 1: 1 of 3 replicas wait: each waits until Ray says again what runs")
        assert fleet.degraded("n") == said
    fleet.silent, fleet.load = False, {"m 1": 1, "m 9": 2, "n 1": 3}
    assert fleet.bounds(fleet.settle(), "n")[1].most >= 3
    assert fleet.degraded("n")[1] == ""


def test_who_has_requests_back_at_any_time_is_not_made_smaller_while_ray_does_not_say_what_runs() -> None:
    fleet = Loaded(room({**GPU, "cpu": "64", "gpu": 2}), places=16)
    fleet.load = {"m 1": 4}
    fleet.ask("m", **shared("0.05", rollout=CANARY, **FOLLOWS))
    fleet.settle()
    fleet.ask("m", version=2, **shared("0.05", rollout=CANARY, **FOLLOWS))
    assert fleet.bounds(fleet.settle(6), "m") == {1: Size(4, 10), 2: Size(4, 10)}
    fleet.silent = True
    more = {"autoscaling": {**FOLLOWS["autoscaling"], "maxReplicas": 12}}
    fleet.ask("m", version=2, **shared("0.05", rollout=CANARY, **more))
    for _ in range(3):
        assert fleet.bounds(fleet.look(), "m") == {1: Size(4, 10), 2: Size(4, 10)}
    fleet.silent = False
    assert fleet.bounds(fleet.look(), "m") == {1: Size(4, 12), 2: Size(4, 12)}


HELD = {
    "not asked yet": None,
    "no such version": ResolutionProblem("VersionNotFound", "there is none"),
    "too large": ResolutionProblem(INSUFFICIENT_CAPACITY, "nothing is that large", held=True),
    "unreadable": ResolutionProblem("InvalidSpec", "it is no spec", held=True),
    "another fleet's": ResolutionProblem("Moving", "it is served by another fleet soon", held=True),
}


@pytest.mark.parametrize("why", HELD)
@pytest.mark.parametrize("name", ["", "blue"])
def test_another_ray_cluster_starts_held_versions_with_what_runs(why: str, name: str) -> None:
    fleet = Loaded()
    traffic = {"traffic": {"versions": [{"name": "blue", "uri": "models:/m@blue", "weight": 10}]}} if name else {}
    fleet.load = {"m 1": 4, "m 9": 2}
    fleet.ask("m", **shared("0.1", **FOLLOWS, **traffic))
    fleet.resolutions["m/blue"] = identity(9, "m")
    fleet.places = 10
    fleet.settle()
    problem = HELD[why]
    found = plan(
        fleet=None,
        models=list(fleet.models.values()),
        resolutions={**fleet.resolutions, "m": problem} if problem is not None else {},
        observed=fleet.world.observe(fleet.now),
        serve_options=OPTIONS,
        now=fleet.now,
        frozen=True,
    )
    assert fleet.bounds(found, "m")[1].least == 4
    if name:
        assert fleet.bounds(found, "m")[9].least == 2


NOON = {
    "autoscaling": {
        "minReplicas": 1,
        "maxReplicas": 4,
        "schedules": [{"name": "noon", "start": "0 12 * * *", "duration": "2h", "minReplicas": 4}],
    }
}


@pytest.mark.parametrize("why", ["refused", "no such version", "not asked yet"])
def test_schedules_begin_and_end_whatever_a_version_waits_for(why: str) -> None:
    fleet = Loaded()
    fleet.ask("m", **shared("0.2", **NOON))
    assert fleet.bounds(fleet.settle(), "m") == {1: Size(4, 4)}
    if why == "refused":
        fleet.ask("m", version=2, **shared("1", **NOON))
    elif (problem := HELD[why]) is not None:
        fleet.resolutions["m"] = problem
    else:
        del fleet.resolutions["m"]
    assert fleet.bounds(fleet.settle(), "m") == {1: Size(4, 4)}
    fleet.now += timedelta(hours=3)
    assert fleet.bounds(fleet.settle(), "m") == {1: Size(1, 4)}
    fleet.now += timedelta(hours=21)
    assert fleet.bounds(fleet.settle(), "m") == {1: Size(4, 4)}


def test_a_schedule_that_asks_for_more_than_there_is_room_for_is_told_so() -> None:
    fleet = Loaded()
    fleet.ask("m", **shared("0.4", **NOON))
    assert fleet.bounds(fleet.settle(), "m") == {1: Size(2, 2)}
    assert fleet.degraded("m")[1] == "version 1: 2 of 4 replicas wait: each needs 0.4 GPU, 0.2 free on 1 GPU"
    fleet.now += timedelta(hours=3)
    assert fleet.bounds(fleet.settle(), "m") == {1: Size(1, 4)}
    assert fleet.degraded("m")[1] == ""


def test_edits_that_make_room_for_each_other_are_all_taken() -> None:
    fleet = Fleet()
    fleet.ask("m1", born="2026-01-02", replicas=4, **shared("0.2"))
    fleet.ask("m2", born="2026-01-01", **shared("0.1"))
    fleet.settle()
    fleet.ask("m1", version=2, born="2026-01-02", replicas=1, **shared("0.3"))
    fleet.ask("m2", version=2, born="2026-01-01", **shared("0.5"))
    planned = fleet.settle(40)
    assert (deployed(planned, "m1"), deployed(planned, "m2")) == ({2}, {2})


def test_fewer_replicas_are_taken_while_the_rest_of_the_edit_waits() -> None:
    fleet = Fleet()
    fleet.ask("m", replicas=2, **shared("0.4"))
    fleet.settle()
    fleet.ask("m", replicas=1, limits={"maxQueuedRequests": 7}, **shared("0.7"))
    planned = fleet.settle(20)
    assert fleet.degraded("m")[1].startswith("version 1: a replica needs 0.7 GPU, 0.6 free on 1 GPU")
    assert not planned.changed
    assert condition(planned, ConditionType.PROGRESSING, "m")[2] == "nothing moves until there is room"
    fleet.room = room({**GPU, "gpu": 2})
    fleet.settle(20)
    assert fleet.degraded("m")[1] == ""


def test_what_is_told_of_the_room_is_what_is_left_in_the_end() -> None:
    fleet = Fleet()
    fleet.ask("a", replicas=2, **shared("0.3"))
    fleet.settle()
    fleet.ask("b", **shared("0.6"))
    fleet.ask("c", **shared("0.3"))
    fleet.settle()
    assert "needs 0.6 GPU, 0.1 free on 1 GPU" in fleet.degraded("b")[1]


def test_deployments_of_an_application_from_code_are_counted_apart() -> None:
    entry = {
        "name": "theirs",
        "deployments": [
            {"name": "small", "num_replicas": 2, "ray_actor_options": {"num_cpus": 1}},
            {"name": "large", "num_replicas": 3, "ray_actor_options": {"num_cpus": 2}},
        ],
    }
    app = ObservedApp(name="theirs", status="RUNNING", entry=entry, replicas_running=4, replicas_target=5)
    asks = demand.of_config([entry], {}, {}, ObservedFleet(apps={"theirs": app}), {})
    assert [(ask.deployment, ask.running, ask.target) for ask in asks] == [("small", 2, 2), ("large", 2, 3)]
    asks = demand.of_config([entry], {}, {}, ObservedFleet(), {})
    found = admit(room({"name": "cpu", "cpu": "7", "memory": "8Gi"}), asks)
    assert [(each.replicas, each.of) for each in found.waiting] == [(1, 2)], "three of the large, and one of the small"


def test_what_only_looks_like_a_model_stops_nobody() -> None:
    like = {"name": "a", "identity": {"version": "1", "model_id": "m"}}
    two = [{"name": "Model", "num_replicas": 1}, {"name": "Other", "num_replicas": 1}]
    entry = {"name": "theirs", "import_path": MODEL_IMPORT_PATH, "args": like, "deployments": two}
    fleet = Fleet()
    observe = fleet.world.observe

    def beside(now: Any) -> ObservedFleet:
        seen = observe(now)
        theirs = ObservedApp(name="theirs", status="DEPLOY_FAILED", entry=entry)
        return replace(seen, apps={**seen.apps, "theirs": theirs})

    fleet.world.observe = beside  # type: ignore[method-assign]
    fleet.ask("a", **shared("0.5"))
    assert applications(fleet.look())["theirs"] == entry


GIVEN = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.7, 1.0]),
        st.integers(0, 3),
        st.integers(1, 3),
        st.sampled_from(["serves", "candidate", "leaves", "new"]),
    ),
    max_size=9,
)


def _asks(drawn: list[tuple[str, float, int, int, str]]) -> list[Ask]:
    return [
        Ask(
            app=f"{model}-{number}",
            label=model,
            model=model,
            need=Need(cpus=0.1, gpus=gpus),
            size=Size(least, 3),
            running=min(running, least - 1) if kind == "candidate" else running if kind != "new" else 0,
            live=kind != "new",
            idle=kind == "candidate",
            leaving=kind == "leaves",
            serves=kind == "candidate" or bool(number % 2),
        )
        for number, (model, gpus, running, least, kind) in enumerate(drawn)
    ]


def _placed(found: Mapping[str, int], ask: Ask) -> int:
    return found.get(ask.app, 0)


@given(GIVEN, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_nothing_is_let_in_beyond_the_room_nor_takes_a_place_of_what_runs(
    drawn: list[tuple[str, float, int, int, str]], random: Any
) -> None:
    asks = _asks(drawn)
    found = admit(ONE, asks)
    mixed = list(asks)
    random.shuffle(mixed)
    again = admit(ONE, mixed)
    assert (again.refused, again.places) == (found.refused, found.places), "whatever order they come in"
    places = Counter(replica.app for worker in found.workers() for replica in worker.replicas)
    assert sum(_placed(places, ask) * ask.need.gpus for ask in asks) <= 1 + 1e-9
    alone = admit(ONE, [ask for ask in asks if ask.live and not ask.idle])
    before = Counter(replica.app for worker in alone.workers() for replica in worker.replicas)
    out = {ask.app for ask in found.out}
    for ask in asks:
        if ask.live and not ask.idle and not ask.leaving:
            assert _placed(places, ask) >= min(ask.running, _placed(before, ask)), "what runs keeps its place"
            assert ask.app not in out
        if ask.idle or not ask.live:
            let_in = ask.app not in out and ask.key not in found.refused
            assert not let_in or _placed(places, ask) >= ask.needed
