"""What holds for any legal fleet, whatever is observed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayfleet_operator.api.fleet import ModelFleet
from rayfleet_operator.api.types import ModelDeployment
from rayfleet_operator.plan import serve_config
from rayfleet_operator.plan.fleet import FleetPlan, plan
from rayfleet_operator.plan.live import RUNNING, live_apps
from rayfleet_operator.plan.names import HASH_LENGTH, MODEL_NAME_MAX
from rayfleet_operator.plan.observed import ObservedApp, ObservedFleet, Resolution, ResolutionProblem
from rayfleet_operator.ray import observe
from rayfleet_serving.config import MODEL_IMPORT_PATH, ROUTER_APP, ModelArgs, ModelIdentity, RouterVersionState

from . import strategies
from .scenes import NOW, OPTIONS, applications, table_of

thorough = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def situations(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `plan`."""
    models = draw(strategies.models)
    return {
        "fleet": draw(strategies.fleets),
        "models": models,
        "resolutions": {model.metadata.name: draw(strategies.resolutions) for model in models},
        "observed": draw(strategies.observed_fleets(models)),
    }


def planned(
    *,
    fleet: ModelFleet | None,
    models: list[ModelDeployment],
    resolutions: dict[str, Resolution],
    observed: ObservedFleet,
) -> FleetPlan:
    return plan(fleet=fleet, models=models, resolutions=resolutions, observed=observed, serve_options=OPTIONS, now=NOW)


def given_back(config: dict[str, Any], before: ObservedFleet) -> ObservedFleet:
    """What is observed right after Serve took `config`: new entries, old statuses, routers that hold the new table.

    Entries go through JSON, as they do on their way through Serve.
    """
    old = {name: app for name, app in before.apps.items() if app.status != "DELETING"}
    apps = {
        entry["name"]: ObservedApp(
            name=entry["name"],
            status=old[entry["name"]].status if entry["name"] in old else "DEPLOYING",
            message=old[entry["name"]].message if entry["name"] in old else "",
            entry=json.loads(json.dumps(entry)),
        )
        for entry in config["applications"]
    }
    table = table_of(config)
    routers = tuple(
        state.model_copy(
            update={
                "table": table.digest(),
                "models": {name: route.digest() for name, route in table.models.items()},
                "versions": {
                    app: state.versions.get(app, RouterVersionState(ready=False, ongoing=0, queued=0))
                    for app in apps
                    if app != ROUTER_APP
                },
            }
        )
        for state in before.routers
    )
    return observe.fleet(apps, routers, before, NOW)


@given(situations())
@thorough
def test_weights_sum_to_100_for_every_model(situation: dict[str, Any]) -> None:
    running = {app.model for app in live_apps(situation["observed"]).values() if app.status == RUNNING}
    for name, route in table_of(planned(**situation).config).models.items():
        # Only a model of which nothing runs may be without any version.
        waits = not route.versions and name not in running
        assert sum(version.weight for version in route.versions) == (0 if waits else 100), name


@given(situations())
@thorough
def test_what_has_weight_has_an_application(situation: dict[str, Any]) -> None:
    plan_ = planned(**situation)
    apps = applications(plan_)
    for name, route in table_of(plan_.config).models.items():
        resolved = isinstance(situation["resolutions"].get(name), ModelIdentity)
        for version in route.versions:
            # With the registry down, a row whose application vanished is kept as it was.
            assert not version.weight or version.app in apps or not resolved


@given(situations())
@thorough
def test_names_are_unique_and_within_every_limit(situation: dict[str, Any]) -> None:
    entries = planned(**situation).config["applications"]
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name) <= MODEL_NAME_MAX + 1 + HASH_LENGTH <= 63
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
        # The longest file that Serve makes of it, with a replica id and a rotation's suffix, within 255 bytes.
        assert len(f"replica_{name}_model_{'x' * 16}.log.10") <= 255


@given(situations(), st.randoms(use_true_random=False))
@thorough
def test_order_means_nothing(situation: dict[str, Any], random: Any) -> None:
    def shuffled(mapping: Any) -> Any:
        pairs = [(key, shuffled(value) if isinstance(value, dict) else value) for key, value in mapping.items()]
        random.shuffle(pairs)
        return dict(pairs)

    observed = situation["observed"]
    other = {
        "fleet": situation["fleet"],
        "models": random.sample(situation["models"], len(situation["models"])),
        "resolutions": shuffled(situation["resolutions"]),
        "observed": replace(
            observed,
            apps={name: replace(app, entry=shuffled(app.entry)) for name, app in shuffled(observed.apps).items()},
            routers=tuple(random.sample(observed.routers, len(observed.routers))),
        ),
    }
    one, two = planned(**situation), planned(**other)
    assert serve_config.canonical(one.config) == serve_config.canonical(two.config)
    assert one.models == two.models
    assert (one.changed, one.requeue_after) == (two.changed, two.requeue_after)


@given(situations())
@thorough
def test_planning_comes_to_rest(situation: dict[str, Any]) -> None:
    """Nothing new happens: after at most three steps of one rollout, planning again changes no byte."""
    observed = situation["observed"]
    for _ in range(4):
        step = planned(**{**situation, "observed": observed})
        observed = given_back(step.config, observed)
    again = planned(**{**situation, "observed": observed})
    assert serve_config.canonical(again.config) == serve_config.canonical(step.config)
    assert not again.changed


@given(situations())
@thorough
def test_an_unchanged_plan_gives_back_what_was_given(situation: dict[str, Any]) -> None:
    plan_ = planned(**situation)
    given_ = {
        name: dict(app.entry)
        for name, app in situation["observed"].apps.items()
        if app.entry and app.status != "DELETING"
    }
    assert plan_.changed == (applications(plan_) != given_)


def other_entries(config: dict[str, Any], name: str) -> dict[str, bytes]:
    """Every application's bytes but the router's and those of model `name`."""
    return {
        entry["name"]: serve_config.canonical(entry)
        for entry in config["applications"]
        if entry["name"] != ROUTER_APP and entry["args"]["name"] != name
    }


def other_rows(config: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: route for other, route in table_of(config).models.items() if other != name}


@given(situations(), st.data())
@thorough
def test_one_model_never_touches_its_neighbours(situation: dict[str, Any], data: st.DataObject) -> None:
    """Adding, removing, editing or moving one model."""
    base = planned(**situation)
    name = data.draw(st.sampled_from([model.metadata.name for model in situation["models"]] or ["new"]), "model")
    rest = [model for model in situation["models"] if model.metadata.name != name]
    edited = strategies.deployment(name, data.draw(strategies.specs, "spec"))
    moved = {**situation["resolutions"], name: data.draw(strategies.resolutions, "resolution")}
    for models, resolutions in ((rest, situation["resolutions"]), ([*rest, edited], moved)):
        other = planned(**{**situation, "models": models, "resolutions": resolutions})
        assert other_entries(other.config, name) == other_entries(base.config, name)
        assert other_rows(other.config, name) == other_rows(base.config, name)


def unbounded(entry: dict[str, Any]) -> dict[str, Any]:
    """An application without the bounds of its replicas, where the load decides."""
    (deployment,) = entry["deployments"]
    scaling = deployment["autoscaling_config"]
    if deployment["user_config"].get("autoscaling") is None:
        return entry
    return {**entry, "deployments": [{**deployment, "autoscaling_config": {**scaling, "min_replicas": 0}}]}


def unsized(entry: Mapping[str, Any]) -> dict[str, Any]:
    (deployment,) = entry["deployments"]
    scaling = {**deployment.get("autoscaling_config", {}), "min_replicas": 0, "max_replicas": 0}
    return {**entry, "deployments": [{**deployment, "autoscaling_config": scaling, "num_replicas": 0}]}


@given(situations())
@thorough
def test_a_moved_weight_touches_only_the_routers_table(situation: dict[str, Any]) -> None:
    """Where the only difference to what was given is weights, only the router's user_config differs, and the bounds of
    replicas whose number follows the load."""
    observed = situation["observed"]
    step = planned(**situation)
    held = given_back(step.config, observed)
    versions = {app: RouterVersionState(ready=True, ongoing=1, queued=0) for app in held.apps if app != ROUTER_APP}
    ready = replace(
        held,
        apps={name: replace(app, status="RUNNING") for name, app in held.apps.items()},
        routers=tuple(
            state.model_copy(update={"versions": versions, "replica": f"r{number}"})
            for number, state in enumerate((held.routers or ()) * 5)
        ),
    )
    shifted = planned(**{**situation, "observed": ready})
    before, after = applications(step), applications(shifted)
    assert before.keys() == after.keys()
    for name, entry in before.items():
        if name != ROUTER_APP:
            assert serve_config.canonical(unbounded(entry)) == serve_config.canonical(unbounded(after[name]))
    (old,), (new,) = before[ROUTER_APP]["deployments"], after[ROUTER_APP]["deployments"]
    assert {key for key in before[ROUTER_APP] if before[ROUTER_APP][key] != after[ROUTER_APP][key]} <= {"deployments"}
    limits = [{name: route.limits for name, route in table_of(one.config).models.items()} for one in (step, shifted)]
    # A row that was lost with its table comes back with its limits; that is no mere weight.
    if limits[0] == limits[1]:
        assert {key for key in old if old[key] != new[key]} <= {"user_config"}


@given(situations())
@thorough
def test_nothing_moves_and_nothing_goes_while_no_router_answers(situation: dict[str, Any]) -> None:
    observed = replace(situation["observed"], routers=())
    plan_ = planned(**{**situation, "observed": observed})
    kept = {
        name for name, app in observed.apps.items() if app.entry and app.status != "DELETING" and name != ROUTER_APP
    }
    assert kept <= applications(plan_).keys()
    new = table_of(plan_.config).models
    for name, route in (observed.table.models if observed.table else {}).items():
        for version in route.versions:
            if version.weight and version.app in kept and name in {one.metadata.name for one in situation["models"]}:
                assert {row.app: row.weight for row in new[name].versions}[version.app] == version.weight


@given(situations())
@thorough
def test_a_registry_that_is_down_stops_nothing(situation: dict[str, Any]) -> None:
    down = {model.metadata.name: ResolutionProblem("RegistryUnreachable", "silence") for model in situation["models"]}
    observed = situation["observed"]
    plan_ = planned(**{**situation, "resolutions": down})
    for name, app in observed.apps.items():
        if app.entry and app.status != "DELETING" and name != ROUTER_APP and app.entry["args"]["name"] in down:
            # How many replicas there are is no matter of versions.
            assert unsized(applications(plan_)[name]) == unsized(app.entry)


@given(situations())
@thorough
def test_a_registry_that_is_down_changes_nothing_of_what_was_known(situation: dict[str, Any]) -> None:
    known = situation["resolutions"]
    down = {
        name: ResolutionProblem("RegistryUnreachable", "silence", found) if isinstance(found, ModelIdentity) else found
        for name, found in known.items()
    }
    assert planned(**{**situation, "resolutions": down}).config == planned(**situation).config


@given(situations())
@thorough
def test_every_model_app_can_be_built_from_its_arguments(situation: dict[str, Any]) -> None:
    for entry in planned(**situation).config["applications"]:
        if entry["import_path"] == MODEL_IMPORT_PATH:
            assert ModelArgs.model_validate(entry["args"]).name == entry["args"]["name"]


RENDER = """
from tests.plan.scenes import *
from rayfleet_operator.plan import serve_config
from rayfleet_operator.plan.fleet import plan
models = [model(name, replicas=2) for name in ("c", "a", "b")]
observed = observe({1: ("RUNNING", 100), 2: ("RUNNING", 0), 3: ("DEPLOYING", 0)}, busy={3: 1}, of=models[0])
planned = plan(fleet=fleet(replicas=3), models=models, resolutions={m.metadata.name: identity(2) for m in models},
               observed=observed, serve_options=OPTIONS, now=NOW)
import sys
sys.stdout.buffer.write(serve_config.canonical(planned.config))
"""


def test_every_process_writes_the_same_bytes(request: Any) -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", RENDER],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=request.config.rootpath,
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    (output,) = outputs
    assert output.endswith(b"}\n")
    assert len(json.loads(output)["applications"]) == 7
