"""Bounds of replicas whose number follows the load: at rest, through rollouts, asleep, and on a schedule."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.api.status import ModelDeploymentStatus, ScalingStatus
from rayfleet_operator.plan import scaling, serve_config, size
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.observed import ObservedFleet
from rayfleet_operator.plan.room import Room
from rayfleet_operator.plan.size import Size
from rayfleet_operator.plan.status import model_status
from rayfleet_serving.config import (
    POLICY_IMPORT_PATH,
    ROUTER_APP,
    ROUTER_POLICY_IMPORT_PATH,
    Autoscaling,
    ModelRoute,
    ModelUserConfig,
    RolloutMark,
    Wanted,
)

from .play import BLUE_GREEN, CANARY, MIRROR, Play
from .scenes import (
    NOW,
    OPTIONS,
    app_name,
    applications,
    condition,
    fleet,
    identity,
    model,
    observe,
    plan_one,
    table_of,
)

MOVING = {"autoscaling": {"minReplicas": 2, "maxReplicas": 10}}
ALWAYS_ON = {"name": "always", "start": "* * * * *", "duration": "1h", "minReplicas": 3}
SLEEPY = {"autoscaling": {"minReplicas": 0, "maxReplicas": 10}}


def deployment_of(planned: FleetPlan, version: int, spec: dict[str, Any]) -> dict[str, Any]:
    (deployment,) = applications(planned)[app_name(version, model(**spec))]["deployments"]
    return dict(deployment)


def sizes(planned: FleetPlan) -> dict[int, Size]:
    """By version number."""
    return {
        int(entry["args"]["identity"]["version"]): size.given(entry)
        for entry in planned.config["applications"]
        if entry["args"].get("name") == "digits"
    }


def running(observed: ObservedFleet, version: int, replicas: int, target: int | None = None) -> ObservedFleet:
    """With so many replicas of a version, on their way to `target`."""
    return replace(
        observed,
        apps={
            name: replace(app, replicas_running=replicas, replicas_target=replicas if target is None else target)
            if app.entry["args"].get("identity", {}).get("version") == str(version)
            else app
            for name, app in observed.apps.items()
        },
    )


def test_a_fixed_number_has_the_block_too_with_equal_bounds() -> None:
    block = deployment_of(plan_one(observe({}), identity(1), of=model(replicas=3)), 1, {})["autoscaling_config"]
    assert (block["min_replicas"], block["max_replicas"]) == (3, 3)
    assert block["policy"] == {"policy_function": POLICY_IMPORT_PATH}


def test_everything_about_the_load_is_told_in_place() -> None:
    given = {
        "autoscaling": {
            "minReplicas": 0, "maxReplicas": 8, "targetOngoingRequests": 20, "lookBackPeriod": "1m", "upscaleStep": 2,
            "latency": {"percentile": 95, "target": "200ms"}, "upscaleDelay": "10s", "downscaleDelay": "2m",
            "scaleToZeroDelay": "10m",
        }
    }  # fmt: skip
    planned = plan_one(observe({}), identity(1), of=model(**given))
    deployment = deployment_of(planned, 1, given)
    assert ModelUserConfig.model_validate(deployment["user_config"]).autoscaling == Autoscaling(
        target_ongoing_requests=20, percentile=95, latency_s=0.2, upscale_step=2
    )
    block = deployment["autoscaling_config"]
    assert (block["upscale_delay_s"], block["downscale_delay_s"]) == (10.0, 120.0)
    # The look-back goes by first.
    assert block["downscale_to_zero_delay_s"] == 540.0
    assert table_of(planned.config).models["digits"].look_back_s == 60.0
    fixed = deployment_of(plan_one(observe({}), identity(1), of=model()), 1, {})
    assert fixed["autoscaling_config"].keys() == block.keys()
    assert fixed["autoscaling_config"]["policy"] == block["policy"]


def test_routers_have_delays_of_their_own() -> None:
    planned = plan_one(observe({}), identity(1), of=model())
    (router,) = applications(planned)[ROUTER_APP]["deployments"]
    block = router["autoscaling_config"]
    assert (block["upscale_delay_s"], block["downscale_delay_s"], block["look_back_period_s"]) == (10.0, 300.0, 5.0)


def test_from_a_fixed_number_to_a_moving_one_only_numbers_change() -> None:
    fixed, moving = model(replicas=3), model(**MOVING)
    assert app_name(1, fixed) == app_name(1, moving)
    planned = plan_one(observe({1: ("RUNNING", 100)}, of=fixed), identity(1), of=moving)
    assert sizes(planned) == {1: Size(2, 10)}
    assert condition(planned, ConditionType.PROGRESSING)[1] == "Deploying"
    assert planned.models[0].rollout is None


def old(observed: ObservedFleet, replicas: int) -> ObservedFleet:
    """As a release deployed it that knew no block."""

    def without(entry: dict[str, Any]) -> dict[str, Any]:
        deployment = {key: each for key, each in entry["deployments"][0].items() if key != "autoscaling_config"}
        return {**entry, "deployments": [{**deployment, "num_replicas": replicas}]}

    apps = {
        name: replace(app, entry=without(dict(app.entry))) if name.startswith("digits") else app
        for name, app in observed.apps.items()
    }
    return replace(observed, apps=apps)


@pytest.mark.parametrize(
    ("spec", "replicas", "number"),
    [({"replicas": 3}, 2, 3), (MOVING, 1, 2), (MOVING, 5, 5), (MOVING, 99, 10), (SLEEPY, 1, 1), ({}, 4, 1)],
)
def test_what_an_older_release_deployed_is_not_started_anew(spec: dict[str, Any], replicas: int, number: int) -> None:
    before = old(observe({1: ("RUNNING", 100)}), replicas)
    deployment = deployment_of(plan_one(before, identity(1), of=model(**spec)), 1, {})
    assert "autoscaling_config" not in deployment
    assert deployment["num_replicas"] == number


def test_that_it_stays_fixed_is_told() -> None:
    planned = plan_one(running(old(observe({1: ("RUNNING", 100)}), 3), 1, 3), identity(1), of=model(**MOVING))
    line = scaling.line(planned.models[0].scaling)
    assert line == "3: an older release deployed this version: the next one follows the load"


def test_another_cluster_starts_it_anew_anyway() -> None:
    planned = plan(
        fleet=None,
        models=[model(**MOVING)],
        resolutions={"digits": identity(1)},
        observed=old(observe({1: ("RUNNING", 100)}), 3),
        serve_options=OPTIONS,
        now=NOW,
        frozen=True,
    )
    assert "autoscaling_config" in deployment_of(planned, 1, {})


def test_the_next_version_has_the_block_and_the_one_before_goes_on_as_it_is() -> None:
    before = old(observe({1: ("RUNNING", 100)}), 4)
    planned = plan_one(running(before, 1, 4), identity(2), of=model(**MOVING))
    assert "autoscaling_config" not in deployment_of(planned, 1, {})
    assert deployment_of(planned, 1, {})["num_replicas"] == 4
    assert sizes(planned)[2] == Size(4, 10)


def marked(stage: int, weight: int, **more: Any) -> tuple[dict[int, tuple[str, int | None]], RolloutMark]:
    mark = RolloutMark(
        stable=app_name(1), candidate=app_name(2), began="2026-03-01T11:00:00Z", stage=stage, since="", **more
    )
    return {1: ("RUNNING", 100 - weight), 2: ("RUNNING" if stage >= 0 else "DEPLOYING", weight)}, mark


@pytest.mark.parametrize(
    ("rollout", "stage", "weight", "stable", "candidate"),
    [
        (CANARY, -1, 0, 8, 1),  # 10 % are next
        (CANARY, 0, 10, 8, 4),  # 50 %
        (CANARY, 1, 50, 8, 8),
        (CANARY, 2, 100, 8, 8),
        (BLUE_GREEN, -1, 0, 8, 8),
        (BLUE_GREEN, 0, 0, 8, 8),
    ],
)
def test_a_candidate_is_as_large_as_its_next_share_of_what_the_version_before_runs_with(
    rollout: dict[str, Any], stage: int, weight: int, stable: int, candidate: int
) -> None:
    versions, mark = marked(stage, weight)
    of = model(**MOVING | {"autoscaling": {"minReplicas": 1, "maxReplicas": 10}}, rollout=rollout)
    observed = running(running(observe(versions, of=of), 1, 7, target=8), 2, 1)
    table = observed.table
    assert table is not None
    row: ModelRoute = table.models["digits"].model_copy(update={"rollout": mark})
    table = table.model_copy(update={"models": {"digits": row}})
    planned = plan_one(replace(observed, table=table), identity(2), of=of)
    assert sizes(planned)[1].least == stable, "requests can go back at any time"
    assert sizes(planned)[2].least == candidate


def test_requests_move_once_the_candidate_has_grown() -> None:
    of = model(**MOVING)
    few = running(running(observe({1: ("RUNNING", 100), 2: ("RUNNING", 0)}, of=of), 1, 6), 2, 5, target=6)
    planned = plan_one(few, identity(2), of=of)
    assert {row.version: row.weight for row in table_of(planned.config).models["digits"].versions} == {
        "1": 100,
        "2": 0,
    }
    assert condition(planned, ConditionType.PROGRESSING)[2] == "5 of 6 replicas of version 2 run"
    planned = plan_one(running(few, 2, 6), identity(2), of=of)
    assert {row.version: row.weight for row in table_of(planned.config).models["digits"].versions} == {
        "1": 0,
        "2": 100,
    }


def test_at_rest_the_bounds_are_the_specs() -> None:
    of = model(**MOVING)
    planned = plan_one(running(observe({2: ("RUNNING", 100)}, of=of), 2, 9), identity(2), of=of)
    assert sizes(planned) == {2: Size(2, 10)}


def test_the_first_replica_stays_until_a_router_knows_what_the_model_takes() -> None:
    of = model(**SLEEPY)
    assert sizes(plan_one(observe({}), identity(1), of=of)) == {1: Size(1, 10)}
    starting = plan_one(observe({1: ("RUNNING", 100)}, of=of, ready={1: 0}), identity(1), of=of)
    assert sizes(starting) == {1: Size(1, 10)}
    assert [row.sleeps for row in table_of(starting.config).models["digits"].versions] == [False]
    known = plan_one(observe({1: ("RUNNING", 100)}, of=of, ready={1: 1}), identity(1), of=of)
    assert sizes(known) == {1: Size(0, 10)}
    assert [row.sleeps for row in table_of(known.config).models["digits"].versions] == [True]
    # Where no router answers, it is as it was.
    silent = observe({1: ("RUNNING", 100)}, of=of, routers=0)
    assert sizes(plan_one(silent, identity(1), of=of)) == {1: Size(0, 10)}


def asleep(of_spec: dict[str, Any], versions: dict[int, tuple[str, int | None]] | None = None) -> ObservedFleet:
    """Routers take requests for it."""
    observed = running(observe(versions or {1: ("RUNNING", 100)}, of=model(**of_spec), ready={1: 2}), 1, 0)
    assert observed.table is not None
    row = observed.table.models["digits"]
    rows = [each.model_copy(update={"sleeps": each.version == "1"}) for each in row.versions]
    table = observed.table.model_copy(update={"models": {"digits": row.model_copy(update={"versions": rows})}})
    return replace(observed, table=table)


def test_a_model_that_sleeps_is_ready_and_nothing_is_wrong_with_it() -> None:
    planned = plan_one(asleep(SLEEPY), identity(1), of=model(**SLEEPY))
    assert condition(planned, ConditionType.READY) == (
        "True",
        "Asleep",
        "version 1 is asleep: the first request wakes it",
    )
    assert condition(planned, ConditionType.DEGRADED)[0] == "False"
    assert scaling.line(planned.models[0].scaling) == "0: no request: asleep"


@pytest.mark.parametrize("more", ["a schedule", "an edit", "no longer by load"])
def test_a_model_that_is_to_be_awake_stays_ready_until_it_is(more: str) -> None:
    """Requests wait for its replica as they do for one that they wake; a balancer must not turn away meanwhile."""
    spec: dict[str, Any] = {
        "a schedule": {"autoscaling": {**SLEEPY["autoscaling"], "schedules": [ALWAYS_ON]}},
        "an edit": {"autoscaling": {**SLEEPY["autoscaling"], "minReplicas": 3}},
        "no longer by load": {"replicas": 3},
    }[more]
    of = model(**spec)
    starting = running(asleep(SLEEPY, {1: ("DEPLOYING", 100)}), 1, 0, target=3)
    planned = plan_one(starting, identity(1), of=of)
    assert sizes(planned)[1].least == 3
    assert [row.sleeps for row in table_of(planned.config).models["digits"].versions] == [True]
    assert condition(planned, ConditionType.READY) == ("True", "Asleep", "version 1 wakes up")
    awake = running(asleep(SLEEPY), 1, 1)
    planned = plan_one(awake, identity(1), of=of)
    assert [row.sleeps for row in table_of(planned.config).models["digits"].versions] == [False]
    assert condition(planned, ConditionType.READY)[1] == "Serving"


@pytest.mark.parametrize("state", ["DEPLOY_FAILED", "UNHEALTHY"])
def test_a_model_that_is_to_be_awake_and_cannot_start_sleeps_no_more(state: str) -> None:
    """So that routers call it ready no more, and it is tried again as any."""
    of = model(replicas=3)
    planned = plan_one(running(asleep(SLEEPY, {1: (state, 100)}), 1, 0, target=3), identity(1), of=of)
    assert [row.sleeps for row in table_of(planned.config).models["digits"].versions] == [False]


def test_a_model_that_cannot_be_woken_is_not_ready() -> None:
    planned = plan_one(asleep(SLEEPY, {1: ("UNHEALTHY", 100)}), identity(1), of=model(**SLEEPY))
    assert condition(planned, ConditionType.READY)[:2] == ("False", "NotServing")
    assert condition(planned, ConditionType.DEGRADED)[:2] == ("True", "StableUnhealthy")


def test_a_candidate_of_a_model_that_sleeps_is_awake() -> None:
    planned = plan_one(asleep(SLEEPY), identity(2), of=model(**SLEEPY))
    assert sizes(planned) == {1: Size(0, 10), 2: Size(1, 10)}
    versions: dict[int, tuple[str, int | None]] = {1: ("RUNNING", 100), 2: ("RUNNING", 0)}
    planned = plan_one(running(asleep(SLEEPY, versions), 2, 1), identity(2), of=model(**SLEEPY))
    assert {row.version: row.weight for row in table_of(planned.config).models["digits"].versions} == {
        "1": 0,
        "2": 100,
    }


def test_a_version_that_only_gets_copies_never_sleeps() -> None:
    play = Play(MIRROR, **SLEEPY)
    play.mean(9, "shadow")
    play.settle()
    assert sizes(play.look()) == {1: Size(0, 10), 9: Size(1, 10)}


def test_named_versions_follow_their_own_load_or_have_their_own_number() -> None:
    names = {"versions": [{"name": "b", "uri": "models:/digits@b", "weight": 30, "replicas": 3}]}
    play = Play(names, **MOVING)
    play.mean(2, "b")
    play.settle()
    assert sizes(play.look()) == {1: Size(2, 10), 2: Size(3, 3)}


MORNING = {"name": "mornings", "start": "0 13 * * *", "duration": "2h", "minReplicas": 6}
"""`NOW` is noon."""


def test_a_schedule_raises_the_bound_while_it_is_on_and_is_looked_at_when_it_begins() -> None:
    of = model(autoscaling={"maxReplicas": 10, "schedules": [MORNING]})
    observed = running(observe({1: ("RUNNING", 100)}, of=of), 1, 1)
    assert sizes(plan_one(observed, identity(1), of=of)) == {1: Size(1, 10)}
    before = plan_one(observed, identity(1), of=of, now=NOW + timedelta(minutes=59, seconds=57))
    assert before.requeue_after is not None
    assert before.requeue_after <= 3.0
    on = plan_one(observed, identity(1), of=of, now=NOW + timedelta(hours=1))
    assert sizes(on) == {1: Size(6, 10)}
    over = plan_one(observed, identity(1), of=of, now=NOW + timedelta(hours=3))
    assert sizes(over) == {1: Size(1, 10)}


def test_another_cluster_starts_with_what_this_one_runs_with() -> None:
    of = model(**SLEEPY)
    for replicas, least in ((0, 1), (7, 7)):
        observed = running(observe({1: ("RUNNING", 100)}, of=of), 1, replicas)
        planned = plan(
            fleet=None,
            models=[of],
            resolutions={"digits": identity(1)},
            observed=observed,
            serve_options=OPTIONS,
            now=NOW,
            frozen=True,
        )
        assert sizes(planned) == {1: Size(least, 10)}


def told(observed: ObservedFleet, version: int, *wanted: Wanted | None) -> ObservedFleet:
    """By one router each."""
    app = app_name(version)
    routers = [
        router.model_copy(
            update={"versions": {**router.versions, app: router.versions[app].model_copy(update={"wanted": each})}}
        )
        for router, each in zip(observed.routers, wanted, strict=True)
    ]
    return replace(observed, routers=tuple(routers))


@pytest.mark.parametrize(
    ("target", "wanted", "line"),
    [
        (5, Wanted(replicas=5, reason="p99 312 ms > 200 ms"), "3 → 5: p99 312 ms > 200 ms"),
        (3, Wanted(replicas=3, reason="140 requests, 50 for each replica"), "3: 140 requests, 50 for each replica"),
        (10, Wanted(replicas=12, reason="x"), "3 → 10: x; no more than 10 are allowed"),
        (2, Wanted(replicas=1, reason="x"), "3 → 2: no fewer are allowed"),
        (3, Wanted(replicas=5, reason="p99 312 ms > 200 ms"), "3: p99 312 ms > 200 ms"),
        (5, None, "3 → 5"),
        (3, None, "3"),
    ],
)
def test_how_many_are_wanted_and_why_is_told(target: int, wanted: Wanted | None, line: str) -> None:
    of = model(**MOVING)
    observed = told(running(observe({1: ("RUNNING", 100)}, of=of), 1, 3, target), 1, None, wanted)
    assert scaling.line(plan_one(observed, identity(1), of=of).models[0].scaling) == line


def test_no_room_for_more_is_told_as_that_and_not_as_a_bound() -> None:
    of = model(**MOVING)
    observed = told(running(observe({1: ("RUNNING", 100)}, of=of), 1, 3, 6), 1, None, Wanted(replicas=8, reason="x"))
    workers = ModelFleetSpec.model_validate({"workerGroups": [{"name": "w", "cpu": "6"}]})
    found = plan_one(observed, identity(1), of=of, room=Room.of(workers))
    assert scaling.line(found.models[0].scaling) == "3 → 4: x; there is room for 4"
    # Serve acts on it after a delay, and must have been told by then.
    early = told(running(observe({1: ("RUNNING", 100)}, of=of), 1, 3), 1, None, Wanted(replicas=8, reason="x"))
    assert sizes(plan_one(early, identity(1), of=of, room=Room.of(workers))) == {1: Size(2, 4)}


def test_a_schedule_is_named_where_it_is_why() -> None:
    of = model(autoscaling={"maxReplicas": 10, "schedules": [{**MORNING, "start": "0 12 * * *"}]})
    observed = told(running(observe({1: ("RUNNING", 100)}, of=of), 1, 2), 1, None, Wanted(replicas=1, reason="x"))
    assert scaling.line(plan_one(observed, identity(1), of=of).models[0].scaling) == "2 → 6: schedule mornings"


def test_numbers_that_change_each_second_are_no_news() -> None:
    said = ModelDeploymentStatus(scaling=ScalingStatus(wanted=3, running=3, reason="150 requests"))
    of = model(**MOVING).model_copy(update={"status": said})
    observed = told(running(observe({1: ("RUNNING", 100)}, of=of), 1, 3), 1, None, Wanted(replicas=3, reason="149"))
    assert scaling.line(plan_one(observed, identity(1), of=of).models[0].scaling) == "3: 150 requests"


def test_a_need_that_comes_and_goes_within_the_delays_changes_no_status() -> None:
    of, status = model(**MOVING), ModelDeploymentStatus()
    seen = []
    for need in (3, 5, 3, 5, 2, 12):
        given = of.model_copy(update={"status": status})
        observed = running(observe({1: ("RUNNING", 100)}, of=of), 1, 3)
        observed = told(observed, 1, None, Wanted(replicas=need, reason=f"{50 * need} requests"))
        planned = plan_one(observed, identity(1), of=given).models[0]
        status = model_status(
            given, planned, url="", resolution=identity(1), troubles=(), shortage=None, quiet=False, now=NOW
        )
        seen.append(status)
    assert all(each == seen[0] for each in seen)


def test_why_is_told_as_long_as_replicas_start_for_it() -> None:
    of, status = model(**MOVING), ModelDeploymentStatus()
    for count, need in ((3, 5), (4, 4), (5, 3)):
        given = of.model_copy(update={"status": status})
        observed = running(observe({1: ("RUNNING", 100)}, of=of), 1, count, target=5)
        observed = told(observed, 1, None, Wanted(replicas=need, reason=f"p99 {need * 60} ms > 200 ms"))
        planned = plan_one(observed, identity(1), of=given).models[0]
        line = f"{count} → 5" if count < 5 else "5"
        assert scaling.line(planned.scaling) == f"{line}: p99 300 ms > 200 ms"
        status = model_status(
            given, planned, url="", resolution=identity(1), troubles=(), shortage=None, quiet=False, now=NOW
        )


def test_that_it_was_a_schedule_is_not_told_once_it_is_over() -> None:
    said = ModelDeploymentStatus(scaling=ScalingStatus(wanted=6, running=6, reason="schedule mornings"))
    of = model(autoscaling={"maxReplicas": 10, "schedules": [MORNING]}).model_copy(update={"status": said})
    observed = told(running(observe({1: ("RUNNING", 100)}, of=of), 1, 6), 1, None, Wanted(replicas=6, reason="x"))
    assert scaling.line(plan_one(observed, identity(1), of=of).models[0].scaling) == "6: x"
    on = plan_one(observed, identity(1), of=of, now=NOW + timedelta(hours=1))
    assert scaling.line(on.models[0].scaling) == "6: schedule mornings"


def test_nothing_is_told_of_a_fixed_number() -> None:
    assert plan_one(running(observe({1: ("RUNNING", 100)}), 1, 3), identity(1)).models[0].scaling is None


def test_an_entry_is_read_back_as_it_was_written() -> None:
    of = model(**MOVING)
    for bounds in (Size(0, 4), Size(4, 4), Size(2, 10)):
        assert size.given(serve_config.model_app(of, identity(1), bounds)) == bounds


def router_of(planned: FleetPlan) -> dict[str, Any]:
    (deployment,) = applications(planned)[ROUTER_APP]["deployments"]
    return dict(deployment)


def with_routers(observed: ObservedFleet, **routers: Any) -> FleetPlan:
    return plan(
        fleet=fleet(**routers),
        models=[model()],
        resolutions={"digits": identity(1)},
        observed=observed,
        serve_options=OPTIONS,
        now=NOW,
    )


def test_routers_have_bounds_too() -> None:
    block = router_of(with_routers(observe({})))["autoscaling_config"]
    assert (block["min_replicas"], block["max_replicas"]) == (2, 2)
    assert block["policy"] == {"policy_function": ROUTER_POLICY_IMPORT_PATH}
    more = router_of(with_routers(observe({}), replicas=3, maxReplicas=8))["autoscaling_config"]
    assert (more["min_replicas"], more["max_replicas"], more["policy"]) == (3, 8, block["policy"])


def test_routers_of_an_older_release_are_left_until_more_are_asked_for() -> None:
    observed = observe({1: ("RUNNING", 100)})
    router = observed.apps[ROUTER_APP]
    (deployment,) = router.entry["deployments"]
    without = {key: each for key, each in deployment.items() if key != "autoscaling_config"} | {"num_replicas": 2}
    entry = {**router.entry, "deployments": [without]}
    before = replace(observed, apps={**observed.apps, ROUTER_APP: replace(router, entry=entry)})
    assert router_of(with_routers(before))["num_replicas"] == 2
    assert router_of(with_routers(before, replicas=4))["num_replicas"] == 4
    assert router_of(with_routers(before, maxReplicas=4))["autoscaling_config"]["max_replicas"] == 4


def test_the_status_has_what_is_wanted_and_keeps_it_while_serve_does_not_say() -> None:
    of = model(**MOVING)
    wanted = Wanted(replicas=5, reason="p99 312 ms > 200 ms")
    observed = told(running(observe({1: ("RUNNING", 100)}, of=of), 1, 3, target=5), 1, None, wanted)

    def status_of(seen: ObservedFleet, before: ModelDeploymentStatus) -> ModelDeploymentStatus:
        given = of.model_copy(update={"status": before})
        planned = plan_one(seen, identity(1), of=given).models[0]
        return model_status(
            given, planned, url="", resolution=identity(1), troubles=(), shortage=None, quiet=False, now=NOW
        )

    said = status_of(observed, ModelDeploymentStatus())
    assert said.scaling == ScalingStatus(wanted=5, running=3, reason="p99 312 ms > 200 ms")
    assert said.replicas == 3
    silent = observe({1: ("Unknown", 100)}, of=of)
    assert status_of(silent, said).scaling == said.scaling
