"""Models and their shares: what a status says of one that does not keep to its own, and what MPS is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rayfleet_operator.api.fleet import ModelFleet
from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.api.types import ModelDeployment, Resources
from rayfleet_operator.plan import serve_config
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.observed import ObservedFleet
from rayfleet_serving.config import STUCK_AFTER_LEAST_S, STUCK_AFTER_S, ModelUserConfig, VersionTrouble

from .scenes import NOW, OPTIONS, app_name, applications, condition, identity, model, observe, plan_one

FULL = VersionTrouble(reason="OutOfMemory", message="model digits, version 1, takes 7.1 GiB of GPU memory")
STUCK = VersionTrouble(reason="Stuck", message="model digits, version 1, computed one batch for more than 65 s")


def ailing(observed: ObservedFleet, version: int, *troubles: VersionTrouble, routers: int = 1) -> ObservedFleet:
    """The first so many routers have heard this of the version's replicas."""
    states = []
    for number, state in enumerate(observed.routers):
        reports = dict(state.versions)
        if number < routers:
            reports[app_name(version)] = reports[app_name(version)].model_copy(update={"troubles": list(troubles)})
        states.append(state.model_copy(update={"versions": reports}))
    return replace(observed, routers=tuple(states))


def degraded(planned: FleetPlan) -> tuple[str, str, str]:
    return condition(planned, ConditionType.DEGRADED)


@pytest.mark.parametrize("routers", [1, 2])
def test_what_ails_a_replica_is_told_and_the_model_stays_ready(routers: int) -> None:
    planned = plan_one(ailing(observe({1: ("RUNNING", 100)}), 1, FULL, routers=routers), identity(1))
    assert degraded(planned) == ("True", "OutOfMemory", FULL.message)
    assert condition(planned, ConditionType.READY)[:2] == ("True", "Serving")
    assert not planned.changed


def test_of_one_reason_one_is_told_always_the_same_and_the_newest_reason_first() -> None:
    other = FULL.model_copy(update={"message": "model digits, version 1, takes 6.9 GiB of GPU memory"})
    observed = observe({1: ("RUNNING", 100)})
    (first, second) = observed.routers
    reports = ((first, [STUCK, FULL]), (second, [STUCK, other]))
    for order in (reports, ((first, [STUCK, other]), (second, [STUCK, FULL]))):
        states = []
        for state, troubles in order:
            ailing = state.versions[app_name(1)].model_copy(update={"troubles": troubles})
            states.append(state.model_copy(update={"versions": {app_name(1): ailing}}))
        planned = plan_one(replace(observed, routers=tuple(states)), identity(1))
        assert degraded(planned) == ("True", "Stuck", f"{STUCK.message}\n{other.message}")


def degraded_before(reason: str, *lines: str) -> ModelDeployment:
    said = {"type": "Degraded", "status": "True", "reason": reason, "message": "\n".join(lines)}
    said |= {"observedGeneration": 1, "lastTransitionTime": "2026-03-01T11:00:00Z"}
    return model().model_copy(update={"status": ModelDeploymentStatus.model_validate({"conditions": [said]})})


def test_the_first_words_of_a_trouble_stay_until_it_ends() -> None:
    """Its numbers change each second, and a status that says so would be written in each pass."""
    first, newer = FULL.message, FULL.message.replace("7.1", "9.25")
    observed = ailing(observe({1: ("RUNNING", 100)}), 1, FULL.model_copy(update={"message": newer}))
    planned = plan_one(observed, identity(1), of=degraded_before("OutOfMemory", first))
    assert degraded(planned) == ("True", "OutOfMemory", first)
    other = f"model digits, version 1, kept nearly all of its memory {newer}"
    observed = ailing(observe({1: ("RUNNING", 100)}), 1, FULL.model_copy(update={"message": other}))
    planned = plan_one(observed, identity(1), of=degraded_before("OutOfMemory", first))
    assert degraded(planned) == ("True", "OutOfMemory", first)
    assert degraded(plan_one(observed, identity(1), of=model())) == ("True", "OutOfMemory", other)


def test_the_words_of_another_version_are_not_taken_for_its_own() -> None:
    observed = ailing(observe({1: ("RUNNING", 100)}), 1, FULL)
    for before in (FULL.message.replace("version 1,", "version 7,"), "version 1 failed to start: OutOfMemory: x"):
        planned = plan_one(observed, identity(1), of=degraded_before("OutOfMemory", before))
        assert degraded(planned) == ("True", "OutOfMemory", FULL.message)


def test_of_two_that_take_turns_the_one_that_was_told_first_stays_first_and_a_new_one_is_told() -> None:
    observed = ailing(observe({1: ("RUNNING", 100)}), 1, STUCK, FULL)
    both = degraded_before("OutOfMemory", FULL.message, STUCK.message)
    assert degraded(plan_one(observed, identity(1), of=both))[1:] == (
        "OutOfMemory",
        f"{FULL.message}\n{STUCK.message}",
    )
    one = degraded_before("OutOfMemory", FULL.message)
    assert degraded(plan_one(observed, identity(1), of=one))[1:] == ("Stuck", f"{STUCK.message}\n{FULL.message}")


def test_the_replicas_own_words_come_before_serves() -> None:
    """While Serve starts another one, and after it has."""
    observed = observe({1: ("UNHEALTHY", 100)}, message="A replica's health check failed.")
    reason, text = degraded(plan_one(ailing(observed, 1, STUCK), identity(1)))[1:]
    assert (reason, text.splitlines()[0]) == ("Stuck", STUCK.message)
    assert "A replica's health check failed." in text


def test_a_neighbour_is_told_nothing() -> None:
    planned = plan_one(observe({1: ("RUNNING", 100)}), identity(1))
    assert degraded(planned)[:2] == ("False", "AsExpected")


def test_a_version_that_lacks_memory_to_start_has_that_reason() -> None:
    message = (
        'Traceback:\n  File "/model/app.py", line 7, in __init__\n    load()\n'
        "rayfleet_serving.model.errors.LoadError: OutOfMemory: it needs more than its 2 GiB of memory to be loaded: x\n"
    )
    planned = plan_one(observe({1: ("RUNNING", 100), 2: ("DEPLOY_FAILED", 0)}, message=message), identity(2))
    assert degraded(planned) == (
        "True",
        "OutOfMemory",
        "version 2 failed to start: OutOfMemory: it needs more than its 2 GiB of memory to be loaded: x",
    )


def user_config(**spec: Any) -> dict[str, Any]:
    (deployment,) = serve_config.model_app(model(**spec), identity(1))["deployments"]
    return dict(deployment["user_config"])


def test_a_replica_is_told_when_a_call_counts_as_one_without_an_end() -> None:
    assert user_config(limits={"requestTimeout": "1ms"})["stuck_after_s"] == STUCK_AFTER_LEAST_S == 60.0
    assert user_config(limits={"requestTimeout": "28s"})["stuck_after_s"] == 61.0
    assert user_config(limits={"requestTimeout": "5m"})["stuck_after_s"] == 605.0


def test_with_the_default_timeout_a_replica_of_an_older_image_reads_its_config() -> None:
    assert set(user_config()) == {"batching"}
    assert ModelUserConfig.model_validate(user_config()).stuck_after_s == STUCK_AFTER_S == 2 * 30 + 5


def options(sharing: str | None, **resources: str) -> dict[str, Any]:
    of = model(resources=resources)
    spec = {} if sharing is None else {"gpuSharing": sharing}
    fleet = ModelFleet.model_validate({"metadata": {"name": "vision"}, "spec": spec})
    planned = plan(
        fleet=fleet,
        models=[of],
        resolutions={of.metadata.name: identity(1)},
        observed=ObservedFleet(),
        serve_options=OPTIONS,
        now=NOW,
    )
    found = {name: app for name, app in applications(planned).items() if name != "router"}
    ((_, app),) = found.items()
    return dict(app["deployments"][0]["ray_actor_options"])


@pytest.mark.parametrize("sharing", [None, "TimeSlicing"])
def test_nobody_who_does_not_ask_for_mps_hears_of_it(sharing: str | None) -> None:
    assert "runtime_env" not in options(sharing, gpu="0.33", gpuMemory="6Gi")


@pytest.mark.parametrize(
    ("resources", "variables"),
    [
        ({"gpu": "0.33"}, {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "33"}),
        ({"gpu": "0.001"}, {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "1"}),
        (
            {"gpu": "0.5", "gpuMemory": "6Gi"},
            {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=6144M"},
        ),
        ({"gpu": "1", "gpuMemory": "6Gi"}, None),
        ({"gpu": "2"}, None),
        ({}, None),
    ],
)
def test_with_mps_a_share_is_one_of_threads_and_memory(
    resources: dict[str, str], variables: dict[str, str] | None
) -> None:
    found = options("MPS", **resources)
    assert found.get("runtime_env") == (None if variables is None else {"env_vars": variables})


def test_mps_is_another_application_where_it_means_something() -> None:
    shared = Resources.model_validate({"gpu": "0.5"})
    whole = Resources.model_validate({"gpu": "1"})
    assert serve_config.actor_options(shared, "MPS") != serve_config.actor_options(shared)
    assert serve_config.actor_options(whole, "MPS") == serve_config.actor_options(whole)
