"""What a status says of a rollout, from one observation to the next."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from rayfleet_operator import write_back
from rayfleet_operator.api.registry import Registry
from rayfleet_operator.api.status import ModelDeploymentStatus, WrittenBack
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import conditions, events, status
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.observed import ObservedFleet
from rayfleet_operator.plan.rollback import ROLLBACK_ANNOTATION
from rayfleet_operator.plan.rollout import ABORT_ANNOTATION, HOPELESS, PROMOTE_ANNOTATION, attempt, promotion
from rayfleet_serving.config import ROUTER_APP

from .scenes import NOW, app_name, condition, identity, model, observe, plan_one, table_of, weights
from .world import World

ROLLOUT = {"strategy": "Canary", "steps": [{"weight": 10}], "scaleDownDelay": "1s"}


class Story:
    """One model that goes on from version 1, in a world that does what it is told."""

    def __init__(self, **rollout: Any) -> None:
        self.world, self.now = World(), NOW
        self.model = model(rollout={**ROLLOUT, **rollout})
        self.status = ModelDeploymentStatus()
        self.events: list[tuple[str, str]] = []
        self.goes_on(1)

    def goes_on(self, version: int, times: int = 8) -> None:
        for _ in range(times):
            self.now += timedelta(seconds=2)
            told = self.model.model_copy(update={"status": self.status})
            planned = plan_one(self.world.observe(self.now), identity(version), of=told, now=self.now)
            if planned.changed:
                self.world.put(planned.config)
            after = status.model_status(
                told,
                planned.models[0],
                url="http://digits",
                resolution=identity(version),
                troubles=(),
                shortage=None,
                quiet=False,
                now=self.now,
            )
            self.events += [
                (each.type, each.reason) for each in events.events(self.status.conditions, after.conditions)
            ]
            self.status = ModelDeploymentStatus.model_validate_json(after.model_dump_json(by_alias=True))
            for name in sorted(self.world.apps):
                self.world.advance_app(name)
            for router in self.world.routers:
                router.ongoing.clear()
                self.world.advance_router(router)
                self.world.advance_router(router)

    def say(self, **annotations: str) -> None:
        metadata = self.model.metadata.model_copy(update={"annotations": annotations})
        self.model = self.model.model_copy(update={"metadata": metadata})

    @property
    def history(self) -> list[tuple[str, str]]:
        return [(each.version, each.outcome) for each in self.status.history]

    @property
    def weights(self) -> dict[str, int]:
        return {each.name: each.weight for each in self.status.versions}


def of(version: int) -> str:
    return app_name(version, model(rollout=ROLLOUT))


FIRST = ("1", "Succeeded")


def test_a_first_version_is_no_rollout_and_is_told_once_it_serves() -> None:
    story = Story()
    assert (story.status.rollout, story.history, story.weights) == (None, [FIRST], {"1": 100})
    first = story.status.history[0]
    assert (first.model_id, first.artifact_uri) == (identity(1).model_id, identity(1).artifact_uri)
    assert first.uri == "models:/digits@live"


def test_what_succeeded_is_told_once_with_what_it_replaced() -> None:
    story = Story()
    story.goes_on(2)
    assert story.status.rollout is not None
    assert (story.status.rollout.candidate, story.status.rollout.weight) == (of(2), 10)
    assert ("Normal", "Paused") in story.events
    story.say(**{PROMOTE_ANNOTATION: promotion(story.status.rollout.mark, "0")})
    story.goes_on(2, 12)
    assert (story.status.rollout, story.history, story.weights) == (None, [("2", "Succeeded"), FIRST], {"2": 100})
    assert story.status.history[0].artifact_uri == identity(2).artifact_uri


def test_one_that_fails_and_may_not_be_rolled_back_needs_a_person() -> None:
    story = Story(onFailure="Pause", analysis={"minRequests": 1, "errorRate": {"max": "1%"}})
    story.goes_on(2)
    assert ("Warning", "CandidateFailed") not in story.events
    for router in story.world.routers:
        for _ in range(20):
            router.count(of(2), failed=True)
    story.goes_on(2)
    assert story.weights == {"1": 90, "2": 10}
    assert story.events.count(("Warning", "CandidateFailed")) == 1
    degraded = conditions.find(story.status.conditions, ConditionType.DEGRADED)
    assert degraded is not None
    assert degraded.message.startswith("version 2: 40 of 40 requests failed (100 %, at most 1% may); abort it, or ")
    assert story.status.rollout is not None
    story.say(**{ABORT_ANNOTATION: attempt(story.status.rollout.mark)})
    story.goes_on(2)
    assert story.weights["1"] == 100


def test_what_was_given_up_stays_told_and_is_no_longer_said_when_another_is_wanted() -> None:
    story = Story()
    story.goes_on(2)
    assert story.status.rollout is not None
    story.say(**{ABORT_ANNOTATION: attempt(story.status.rollout.mark)})
    story.goes_on(2, 20)
    assert story.status.rollout is not None
    assert (story.status.rollout.ended, story.weights) == ("Aborted", {"1": 100})
    assert (story.history, story.status.history[0].message) == (
        [("2", "RolledBack"), FIRST],
        "Aborted: somebody aborted it",
    )
    assert story.events.count(("Warning", "RolledBack")) == 1
    story.goes_on(1)
    assert (story.status.rollout, story.history) == (None, [("2", "RolledBack"), FIRST])


def test_what_nobody_wants_any_more_is_superseded() -> None:
    story = Story()
    story.goes_on(2)
    story.goes_on(3)
    assert (story.history, story.weights) == ([("2", "Superseded"), FIRST], {"1": 90, "3": 10})
    story.goes_on(1)
    assert (story.history, story.weights) == ([("3", "Superseded"), ("2", "Superseded"), FIRST], {"1": 100})


def test_only_the_last_ten_are_kept() -> None:
    story = Story()
    for version in range(2, 15):
        story.goes_on(version, 6)
    assert len(story.history) == 10
    assert story.history[0] == ("13", "Superseded")


def test_what_the_registry_is_to_say_follows_what_had_every_request() -> None:
    story = Story()
    written = {"registry": Registry.model_validate({"writeBack": {"alias": "serving"}})}
    story.model = story.model.model_copy(
        update={
            "spec": story.model.spec.model_copy(update={"model": story.model.spec.model.model_copy(update=written)})
        }
    )

    def wanted() -> str:
        found = write_back.wanted(story.model.model_copy(update={"status": story.status}), "http://mlflow:5000")
        assert found is not None
        return found.version

    assert wanted() == "1"
    story.goes_on(2)
    assert (story.weights, wanted()) == ({"1": 90, "2": 10}, "1")
    assert story.status.rollout is not None
    story.say(**{PROMOTE_ANNOTATION: promotion(story.status.rollout.mark, "0")})
    story.goes_on(2, 12)
    assert (story.weights, wanted()) == ({"2": 100}, "2")
    story.goes_on(3)
    assert story.status.rollout is not None
    story.say(**{ABORT_ANNOTATION: attempt(story.status.rollout.mark)})
    story.goes_on(3, 20)
    assert (story.weights, wanted()) == ({"2": 100}, "2")
    left, to = story.status.history[1], story.status.history[2]
    assert (left.version, to.version) == ("2", "1")
    story.say(**{ROLLBACK_ANNOTATION: f"{left.model_id}/{left.ended}/{to.model_id}"})
    story.goes_on(2, 12)
    assert (story.history[0], story.weights, wanted()) == (("1", "WentBack"), {"1": 100}, "1")


def test_what_was_written_stays_in_the_status() -> None:
    story = Story()
    written = WrittenBack(tracking_uri="http://mlflow:5000", model="digits", version="1", model_id="m-1", alias="live")
    story.status = story.status.model_copy(update={"written_back": written})
    story.goes_on(2)
    assert story.status.written_back == written


def lost_table(observed: ObservedFleet) -> ObservedFleet:
    apps = {name: app for name, app in observed.apps.items() if name != ROUTER_APP}
    return replace(observed, apps=apps, table=None, routers=(), router_target=0)


def test_a_lost_table_brings_no_version_back_that_was_given_up() -> None:
    story = Story()
    story.goes_on(2)
    assert story.status.rollout is not None
    story.say(**{ABORT_ANNOTATION: attempt(story.status.rollout.mark)})
    story.goes_on(2, 20)
    story.say()
    told = story.model.model_copy(update={"status": story.status})
    planned = plan_one(lost_table(story.world.observe(story.now)), identity(2), of=told, now=story.now)
    assert weights(planned) == {1: 100}
    assert table_of(planned.config).models["digits"].rollout is not None


def spec_with(**more: Any) -> ModelDeployment:
    return model(rollout={**ROLLOUT, **more})


def test_progressing_says_where_it_stands() -> None:
    versions: dict[int, tuple[str, int | None]] = {1: ("RUNNING", 100), 2: ("RUNNING", 0)}
    planned = plan_one(observe(versions, of=spec_with()), identity(2), of=spec_with())
    assert weights(planned) == {1: 90, 2: 10}
    found = next(each for each in planned.models[0].conditions if each.type == "Progressing")
    assert (found.status, found.reason) == ("True", "Shifting")
    assert condition(planned, found.type)[2] == "version 2, stage 1 of 2, weight 10: the candidate is ready"


def test_the_way_back_is_no_rollout_of_its_own_though_a_router_is_missing() -> None:
    story = Story()
    story.goes_on(2)
    assert story.status.rollout is not None
    story.say(**{PROMOTE_ANNOTATION: promotion(story.status.rollout.mark, "0")})
    while story.weights.get("2") != 100:
        story.goes_on(2, 1)
    observed = story.world.observe(story.now)
    missing = replace(observed, routers=observed.routers[:1])
    planned = plan_one(missing, identity(1), of=story.model, now=story.now)
    assert weights(planned) == {1: 0, 2: 100}
    story.world.put(planned.config)
    story.goes_on(1)
    assert story.weights == {"1": 100}
    assert story.history == [FIRST, ("2", "Succeeded"), FIRST], "2 had every request, and the way back is no rollout"


def test_where_nothing_else_runs_for_minutes_what_was_given_up_is_tried_again() -> None:
    story = Story()
    story.goes_on(2)
    assert story.status.rollout is not None
    story.say(**{ABORT_ANNOTATION: attempt(story.status.rollout.mark)})
    story.goes_on(2, 20)
    story.say()
    story.world.apps[of(1)].status = story.world.apps[of(1)].outcome = "DEPLOY_FAILED"
    for router in story.world.routers:
        router.knows.clear()
    story.goes_on(2, 10)
    assert story.weights == {"1": 100}, "it may come back"
    story.now += HOPELESS
    story.goes_on(2, 12)
    assert story.weights["2"] == 100
