"""Who is let into a fleet and who is not, pass by pass."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.status import ModelDeploymentStatus, ModelFleetStatus
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import named, places
from rayfleet_operator.plan.admission import admit
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.demand import Ask
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.observed import Resolution
from rayfleet_operator.plan.packing import Need
from rayfleet_operator.plan.retry import RETRY_FAILED_AFTER
from rayfleet_operator.plan.room import Room
from rayfleet_operator.plan.size import Size
from rayfleet_operator.plan.status import fleet_status, model_status

from .scenes import DOWN, NOW, OPTIONS, applications, condition, deployed, identity, table_of
from .world import World


def room(*groups: dict[str, Any]) -> Room:
    return Room.of(ModelFleetSpec.model_validate({"workerGroups": list(groups)}))


GPU = {"name": "gpu", "cpu": "16", "memory": "32Gi", "gpu": 1, "gpuMemory": "24Gi"}
ONE = room(GPU)


def shared(gpu: str, **spec: Any) -> dict[str, Any]:
    return {"resources": {"gpu": gpu, "cpu": "1", **spec.pop("resources", {})}, **spec}


class Fleet:
    """Models on a fleet that does what it is told."""

    def __init__(self, room: Room = ONE) -> None:
        self.world = World()
        self.room = room
        self.now = NOW
        self.models: dict[str, ModelDeployment] = {}
        self.resolutions: dict[str, Resolution] = {}
        self.statuses: dict[str, ModelDeploymentStatus] = {}

    def ask(self, name: str, *, version: int = 1, born: str = "", **spec: Any) -> None:
        """A model is there, or is edited."""
        document = {
            "metadata": {"name": name, **({"creationTimestamp": born} if born else {})},
            "spec": {"model": {"uri": f"models:/{name}@live"}, **spec},
        }
        self.models[name] = ModelDeployment.model_validate(document)
        self.resolutions[name] = identity(version, name)

    def delete(self, name: str) -> None:
        del self.models[name], self.resolutions[name]

    def look(self) -> FleetPlan:
        self.now += timedelta(seconds=1)
        models = [
            each.model_copy(update={"status": self.statuses.get(name, ModelDeploymentStatus())})
            for name, each in self.models.items()
        ]
        planned = plan(
            fleet=None,
            models=models,
            resolutions=self.resolutions,
            observed=self.world.observe(self.now),
            serve_options=OPTIONS,
            now=self.now,
            room=self.room,
        )
        plans = {each.name: each for each in planned.models}
        for each in models:
            name = each.metadata.name
            self.statuses[name] = model_status(
                each,
                plans[name],
                url="",
                resolution=self.resolutions.get(name),
                troubles=(),
                shortage=planned.admission.shortage(name) if planned.admission is not None else None,
                quiet=False,
                now=self.now,
                named=named.known(each, self.resolutions),
            )
        if planned.changed:
            self.world.put(planned.config)
        return planned

    def settle(self, passes: int = 12) -> FleetPlan:
        """Let everything that can happen, happen."""
        for _ in range(passes):
            planned = self.look()
            for name in list(self.world.apps):
                self.world.advance_app(name)
            for router in self.world.routers:
                self.world.advance_router(router)
                self.world.advance_router(router)
        return planned

    def degraded(self, name: str) -> tuple[str, str]:
        found = next(each for each in self.statuses[name].conditions if each.type == ConditionType.DEGRADED)
        return found.reason, found.message


def three() -> Fleet:
    """Three models fill the GPU."""
    fleet = Fleet()
    for name, gpu in (("a", "0.5"), ("b", "0.3"), ("c", "0.2")):
        fleet.ask(name, **shared(gpu))
    fleet.settle()
    return fleet


def ready(planned: FleetPlan) -> set[str]:
    return {each.name for each in planned.models if each.conditions[0].status == "True"}


def test_a_fourth_is_refused_with_the_sum_and_the_others_change_by_no_byte() -> None:
    fleet = three()
    before = applications(fleet.look())
    fleet.ask("d", **shared("0.5"))
    planned = fleet.settle()
    assert ready(planned) == {"a", "b", "c"}
    after = applications(planned)
    assert {name: entry for name, entry in after.items() if name != "router"} == {
        name: entry for name, entry in before.items() if name != "router"
    }
    assert deployed(planned, "d") == set()
    assert table_of(planned.config).models["d"].versions == [], "routers know its name, and say that it is not ready"
    assert condition(planned, ConditionType.READY, "d")[0] == "False"
    progress = condition(planned, ConditionType.PROGRESSING, "d")
    assert progress == ("False", "InsufficientCapacity", "nothing moves until there is room")
    reason, message = fleet.degraded("d")
    assert reason == "InsufficientCapacity"
    assert "needs 0.5 GPU, 0 free on 1 GPU" in message
    resolved = fleet.statuses["d"].resolved
    assert resolved is not None, "the registry has answered all the same"
    assert resolved.version == "1"


def test_the_fleets_status_tells_of_groups_and_of_who_waits() -> None:
    fleet = three()
    fleet.ask("d", **shared("0.5", resources={"gpuMemory": "1Gi"}))
    planned = fleet.settle()
    assert planned.admission is not None
    before = fleet_status(
        ModelFleetStatus(), [], generation=1, url="", models=4, cluster="", upgrade_cluster="", now=NOW
    )
    assert (before.capacity, before.waiting) == ([], []), "nobody knows"
    told = fleet_status(
        ModelFleetStatus(),
        [],
        generation=1,
        url="",
        models=4,
        cluster="",
        upgrade_cluster="",
        now=NOW,
        admission=planned.admission,
    )
    (group,) = told.capacity
    assert (group.name, group.gpus, group.gpus_asked, group.gpus_free) == ("gpu", 1, "1", "0")
    assert (group.cpus_asked, group.cpus_free) == ("5", "11"), "with two routers"
    assert (group.gpu_memory_asked, group.gpu_memory_free) == ("0", "24Gi")
    (waits,) = told.waiting
    assert (waits.name, waits.replicas, waits.refused) == ("d", 1, True)
    assert "needs 0.5 GPU, 0 free on 1 GPU" in waits.message
    assert places.lines(places.of(planned.admission))[-1] == "waiting: d: a replica needs 0.5 GPU, 0 free on 1 GPU"


def test_room_is_taken_as_soon_as_it_is_there() -> None:
    fleet = three()
    fleet.ask("d", **shared("0.2"))
    fleet.settle()
    assert "d" not in ready(fleet.look())
    fleet.delete("c")
    assert ready(fleet.settle()) == {"a", "b", "d"}
    assert fleet.degraded("d") == ("AsExpected", "")


def test_a_larger_fleet_is_room_as_well() -> None:
    fleet = three()
    fleet.ask("d", **shared("0.5"))
    fleet.settle()
    fleet.room = room({**GPU, "maxReplicas": 2})
    assert ready(fleet.settle()) == {"a", "b", "c", "d"}


def test_who_was_let_in_stays_in_a_fleet_that_shrinks_and_while_it_is_given_afresh() -> None:
    fleet = three()
    fleet.room = room({**GPU, "gpu": None, "gpuMemory": None})
    assert ready(fleet.settle()) == {"a", "b", "c"}
    fleet = Fleet()
    fleet.world.broken.add(identity(1, "a").model_id)
    fleet.ask("a", **shared("0.8"))
    fleet.settle()
    fleet.ask("b", **shared("0.8"), version=2)
    fleet.settle()
    fleet.now += RETRY_FAILED_AFTER
    for _ in range(12):
        planned = fleet.settle(1)
        assert deployed(planned, "b") == set(), "a's place is a's, whatever becomes of it"


def test_of_those_that_are_new_the_oldest_comes_first() -> None:
    fleet = Fleet()
    fleet.ask("a", born="2026-03-01T00:00:02Z", **shared("0.6"))
    fleet.ask("b", born="2026-03-01T00:00:01Z", **shared("0.6"))
    assert ready(fleet.settle()) == {"b"}
    fleet = Fleet()
    fleet.ask("b", **shared("0.6"))
    fleet.ask("a", **shared("0.6"))
    assert ready(fleet.settle()) == {"a"}, "and by name where nobody knows"


def test_whose_registry_answers_first_changes_nothing() -> None:
    fleet = Fleet()
    fleet.ask("a", **shared("0.6"))
    fleet.ask("b", **shared("0.6"))
    del fleet.resolutions["a"]
    planned = fleet.settle()
    assert deployed(planned, "b") == set()
    assert condition(planned, ConditionType.PROGRESSING, "a")[1] == "Resolving"
    fleet.resolutions["a"] = identity(1, "a")
    assert ready(fleet.settle()) == {"a"}
    del fleet.resolutions["b"]
    fleet.look()
    assert fleet.degraded("b")[0] == "InsufficientCapacity", "it is told so before anybody has answered for it"
    fleet.resolutions["b"] = DOWN
    fleet.ask("c", **shared("0.4"))
    assert ready(fleet.settle()) == {"a", "c"}


def test_a_new_version_without_room_waits_and_the_one_before_goes_on() -> None:
    fleet = three()
    fleet.resolutions["b"] = identity(2, "b")
    planned = fleet.settle()
    assert deployed(planned, "b") == {1}
    assert ready(planned) == {"a", "b", "c"}
    reason, message = fleet.degraded("b")
    assert reason == "InsufficientCapacity"
    assert "version 2: a replica needs 0.3 GPU, 0 free on 1 GPU" in message
    assert "version 1 keeps the requests" in message
    fleet.delete("c")
    fleet.delete("a")
    planned = fleet.settle(20)
    assert deployed(planned, "b") == {2}


def test_a_candidate_that_runs_counts_and_so_does_a_version_that_drains() -> None:
    fleet = Fleet()
    canary = {"strategy": "Canary", "steps": [{"weight": 50}]}
    fleet.ask("a", **shared("0.4", rollout=canary))
    fleet.settle()
    fleet.resolutions["a"] = identity(2, "a")
    planned = fleet.settle()
    assert deployed(planned, "a") == {1, 2}, "it stays at its step"
    fleet.ask("b", **shared("0.3"))
    planned = fleet.settle()
    assert deployed(planned, "b") == set()
    assert "needs 0.3 GPU, 0.2 free on 1 GPU" in fleet.degraded("b")[1]


def test_fewer_replicas_make_room_for_the_next_version() -> None:
    fleet = Fleet()
    fleet.ask("a", **shared("0.5", replicas=2))
    fleet.settle()
    fleet.ask("a", **shared("0.5", replicas=2), version=2)
    assert deployed(fleet.settle(), "a") == {1}
    fleet.ask("a", **shared("0.5", replicas=1), version=2)
    assert deployed(fleet.settle(20), "a") == {2}


def test_a_version_that_goes_makes_room_for_the_next() -> None:
    traffic = {"versions": [{"name": "blue", "uri": "models:/a/9", "weight": 10}]}
    fleet = Fleet()
    fleet.ask("a", **shared("0.4", traffic=traffic))
    fleet.resolutions["a/blue"] = identity(9, "a")
    assert deployed(fleet.settle(), "a") == {1, 9}
    fleet.ask("a", **shared("0.4"), version=2)
    assert deployed(fleet.look(), "a") == {1, 9}, "it drains, and counts as long"
    assert deployed(fleet.settle(20), "a") == {2}


def test_first_replicas_of_those_that_serve_come_before_further_ones() -> None:
    asks = [
        Ask(app=name, label=name, model=name, need=Need(cpus=1, gpus=0.4), size=Size(most, most), running=1, live=True)
        for name, most in (("a", 3), ("b", 1))
    ]
    (waits,) = admit(ONE, asks).waiting
    assert (waits.model, waits.replicas, waits.of) == ("a", 2, 3)


def test_others_are_counted_elsewhere_where_that_makes_room() -> None:
    fleet = Fleet(room({**GPU, "gpu": 2}))
    for number, gpu in enumerate(("0.3", "0.3", "0.7", "0.7")):
        fleet.ask(f"m{number}", born=f"2026-03-01T00:00:0{number}Z", **shared(gpu))
    assert ready(fleet.settle()) == {"m0", "m1", "m2", "m3"}


def test_replicas_beyond_the_first_wait_and_what_runs_goes_on() -> None:
    fleet = Fleet()
    fleet.ask("a", **shared("0.4", replicas=3))
    planned = fleet.look()
    assert deployed(planned, "a") == {1}
    assert planned.admission is not None
    assert planned.admission.shortage("a") == ("version 1: 1 of 3 replicas wait: each needs 0.4 GPU, 0.2 free on 1 GPU")
    assert fleet.degraded("a")[0] == "InsufficientCapacity"


def test_a_version_by_name_finds_room_or_waits_for_it_alone() -> None:
    traffic = {"versions": [{"name": "blue", "uri": "models:/a/9", "weight": 10}]}
    fleet = three()
    fleet.ask("a", **shared("0.5", traffic=traffic))
    fleet.resolutions["a/blue"] = identity(9, "a")
    planned = fleet.settle()
    assert deployed(planned, "a") == {1}
    assert ready(planned) == {"a", "b", "c"}
    reason, message = fleet.degraded("a")
    assert reason == "InsufficientCapacity"
    assert "blue: version 9: a replica needs 0.5 GPU, 0 free on 1 GPU" in message
    fleet.ask("a", **shared("0.5", traffic=traffic, limits={"maxQueuedRequests": 7}))
    planned = fleet.settle()
    assert table_of(planned.config).models["a"].limits.max_queued_requests == 7, "edits go on"
    fleet.delete("b")
    fleet.delete("c")
    assert deployed(fleet.settle(), "a") == {1, 9}


def test_a_mirror_counts() -> None:
    traffic = {"versions": [{"name": "shadow", "uri": "models:/a/9", "mirror": 50}]}
    fleet = Fleet()
    fleet.ask("a", **shared("0.4", traffic=traffic))
    fleet.resolutions["a/shadow"] = identity(9, "a")
    fleet.settle()
    fleet.ask("b", **shared("0.3"))
    fleet.settle()
    assert "needs 0.3 GPU, 0.2 free on 1 GPU" in fleet.degraded("b")[1]


def test_routers_have_their_place_before_anybody() -> None:
    fleet = Fleet(room({"name": "cpu", "cpu": "2", "memory": "4Gi"}))
    fleet.ask("a", resources={"cpu": "1"})
    fleet.settle()
    assert "needs 1 CPU, 0 free on one worker" in fleet.degraded("a")[1]


def test_without_a_word_of_room_everybody_is_let_in() -> None:
    fleet = three()
    fleet.ask("d", **shared("0.5"))
    fleet.room = None  # type: ignore[assignment]
    assert ready(fleet.settle()) == {"a", "b", "c", "d"}
