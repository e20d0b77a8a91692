"""Edits of a spec: which restart a version, which hold for it in place, and which wait for the registry."""

from __future__ import annotations

from typing import Any

import pytest

from rayfleet_operator.plan import serve_config, size, traffic
from rayfleet_operator.plan.conditions import ConditionType
from rayfleet_operator.plan.observed import ResolutionProblem
from rayfleet_operator.plan.size import Size

from .scenes import app_name, applications, condition, identity, model, observe, plan_one, table_of

IN_PLACE: dict[str, dict[str, Any]] = {
    "replicas": {"replicas": 3},
    "batch size": {"batching": {"maxBatchSize": 64}},
    "batch wait": {"batching": {"maxWait": "20ms"}},
    "timeout": {"limits": {"requestTimeout": "5s"}},
    "queue": {"limits": {"maxQueuedRequests": 7}},
    "body size": {"limits": {"maxRequestBytes": "1Mi"}},
    "transform": {"transform": {"input": {"image": {"resize": [32, 48], "mode": "L"}}}},
    "labels": {"transform": {"output": {"classification": {"labels": ["cat", "dog"]}}}},
    "poll interval": {"model": {"uri": "models:/digits@live", "registry": {"pollInterval": "5s"}}},
    "another name for the same version": {"model": {"uri": "models:/digits/1"}},
}


@pytest.mark.parametrize("edit", IN_PLACE)
def test_an_edit_that_needs_no_restart_keeps_the_app(edit: str) -> None:
    before = applications(plan_one(observe({}), identity(1)))
    after = applications(plan_one(observe({1: ("RUNNING", 100)}), identity(1), of=model(**IN_PLACE[edit])))

    assert before.keys() == after.keys()
    # What Serve's code version and its replicas' version are made of (deploy_utils.get_app_code_version).
    for name in before:
        for key in ("import_path", "args"):
            assert before[name][key] == after[name][key]
        assert [one["ray_actor_options"] for one in before[name]["deployments"]] == [
            one["ray_actor_options"] for one in after[name]["deployments"]
        ]


RESTARTS: dict[str, dict[str, Any]] = {
    "cpu": {"resources": {"cpu": "2"}},
    "memory": {"resources": {"memory": "1Gi"}},
    "gpu": {"resources": {"gpu": "0.5"}},
    "gpu memory": {"resources": {"gpu": "1", "gpuMemory": "6Gi"}},
    "code execution": {"model": {"uri": "models:/digits@live", "allowCodeExecution": True}},
    "tracking server": {"model": {"uri": "models:/digits@live", "registry": {"trackingUri": "http://other:5000"}}},
}


@pytest.mark.parametrize("edit", RESTARTS)
def test_an_edit_that_needs_a_restart_rolls_out_like_a_new_version(edit: str) -> None:
    edited = model(replicas=2, **RESTARTS[edit])
    planned = plan_one(observe({1: ("RUNNING", 100)}), identity(1), of=edited)

    old, new = app_name(1), app_name(1, edited)
    apps = applications(planned)
    assert {version.app: version.weight for version in planned.models[0].versions} == {old: 100, new: 0}
    # The version that still has the requests follows every edit that does not restart it, and no other.
    assert size.given(apps[old]) == Size(2, 2)
    before = applications(plan_one(observe({}), identity(1)))[old]
    assert apps[old]["args"] == before["args"]
    assert apps[old]["deployments"][0]["ray_actor_options"] == before["deployments"][0]["ray_actor_options"]


def test_a_tracking_server_that_is_not_read_from_restarts_nothing() -> None:
    stored = identity(1).model_copy(update={"artifact_uri": "s3://models/digits/1"})
    moved = model(model={"uri": "models:/digits@live", "registry": {"trackingUri": "http://other:5000"}})
    assert (
        applications(plan_one(observe({}), stored)).keys()
        == applications(plan_one(observe({}), stored, of=moved)).keys()
    )


CATS = {"output": {"classification": {"labels": ["cat", "dog"]}}}


@pytest.mark.parametrize("status", ["DEPLOYING", "DEPLOY_FAILED"])
def test_the_version_before_keeps_the_transform_that_it_was_given(status: str) -> None:
    old, new = model(transform={"output": {"classification": {"labels": ["0", "1"]}}}), model(transform=CATS)
    planned = plan_one(observe({1: ("RUNNING", 100), 2: (status, 0)}, of=old), identity(2), of=new)
    rows = {row.version: row for row in table_of(planned.config).models["digits"].versions}
    assert rows["1"].weight == 100
    assert rows["1"].transform == traffic.transform(old.spec.transform)
    assert rows["2"].transform == traffic.transform(new.spec.transform)


def test_an_edit_of_the_transform_alone_holds_for_the_version_that_serves() -> None:
    edited = model(transform=CATS)
    planned = plan_one(observe({1: ("RUNNING", 100)}), identity(1), of=edited)
    (row,) = table_of(planned.config).models["digits"].versions
    assert (row.version, row.transform) == ("1", traffic.transform(edited.spec.transform))


EDITED = {
    "replicas": 9,
    "batching": {"maxBatchSize": 8},
    "limits": {"requestTimeout": "1s", "maxQueuedRequests": 7},
    "transform": CATS,
    "resources": {"cpu": "4"},
}


def test_registry_down_a_version_that_was_known_is_wanted_as_before() -> None:
    known = ResolutionProblem("RegistryUnreachable", "silence.", identity(2))
    for scene in ({1: ("RUNNING", 100), 2: ("RUNNING", 0)}, {1: ("RUNNING", 0), 2: ("RUNNING", 100)}):
        for spec in ({}, EDITED):
            observed, edited = observe(scene), model(**spec)
            planned, up = plan_one(observed, known, of=edited), plan_one(observed, identity(2), of=edited)
            assert planned.config == up.config
            assert condition(planned, ConditionType.PROGRESSING) == condition(up, ConditionType.PROGRESSING)
            assert condition(planned, ConditionType.DEGRADED) == (
                "True", "RegistryUnreachable", "silence; version 2 stays the wanted one"
            )  # fmt: skip


@pytest.mark.parametrize("reason", ["VersionNotFound", "RegistryUnreachable"])
def test_an_edit_that_may_be_meant_for_another_version_waits_for_it(reason: str) -> None:
    edited = model(**{**EDITED, "replicas": 1}, model={"uri": "models:/digits/7"})
    observed = observe({1: ("RUNNING", 100), 2: ("DEPLOYING", 0)})
    unknown = ResolutionProblem(reason, "digits has no version 7")
    assert not plan_one(observed, unknown, of=edited).changed
    more = plan_one(observed, unknown, of=edited.model_copy(update={"spec": model(replicas=3).spec}))
    found = applications(more)
    assert size.given(found[app_name(1)]) == Size(3, 3), "how many replicas there are is no matter of versions"
    del found["router"]
    for name, entry in found.items():
        assert serve_config.resized(entry, Size(1, 1)) == observed.apps[name].entry
