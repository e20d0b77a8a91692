"""Passes of the reconciler on a real API server, with a stand-in for KubeRay and Ray: what one pass must not lose."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from envtest.stage import NOWHERE, SPEC, Stage
from prometheus.stand_in import stand_in
from ray_stand_in import APPLICATIONS, LIVE, TRAFFIC

from rayfleet_operator.kube import kinds
from rayfleet_operator.kube.keys import FleetKey
from rayfleet_operator.reconcile import report, wanted
from rayfleet_operator.settings import PrometheusSettings

Json = dict[str, Any]


async def test_a_model_becomes_ready_and_then_nothing_is_written(stage: Stage) -> None:
    await stage.model("web")
    await stage.passes("web", 5)
    assert (await stage.condition("web", "Ready"))["status"] == "True"
    before = [await stage.get(kind, "web") for kind in (kinds.MODEL_DEPLOYMENT, kinds.RAY_SERVICE, kinds.SERVICE)]
    await stage.passes("web", 3)
    after = [await stage.get(kind, "web") for kind in (kinds.MODEL_DEPLOYMENT, kinds.RAY_SERVICE, kinds.SERVICE)]
    assert after == before


@pytest.mark.parametrize("lost", [{APPLICATIONS}, {TRAFFIC}, {APPLICATIONS, TRAFFIC}, {LIVE}])
@pytest.mark.parametrize("models", [["web"], []])
async def test_one_lost_answer_changes_no_status_and_is_looked_for_again(
    stage: Stage, models: list[str], lost: set[str]
) -> None:
    await stage.apply("ModelFleet", "vision", {})
    for name in models:
        await stage.model(name, fleet="vision")
    await stage.passes("vision", 5)
    told = [(kinds.MODEL_FLEET, "vision"), *((kinds.MODEL_DEPLOYMENT, name) for name in models)]
    before = [await stage.get(kind, name) for kind, name in told]
    events = await stage.client.list(kinds.EVENT, stage.namespace)
    key = FleetKey(stage.namespace, "vision")
    for silent in (set(), lost, set()):
        stage.ray.silent = silent
        again = (await stage.reconciler.reconcile(key)).requeue_after
        assert (again is not None) == bool(silent)
        assert [await stage.get(kind, name) for kind, name in told] == before
    assert await stage.client.list(kinds.EVENT, stage.namespace) == events


async def test_one_lost_answer_after_a_long_rest_or_a_restart_changes_no_status(stage: Stage) -> None:
    """A fleet at rest is looked at once a minute."""
    await stage.model("web")
    await stage.passes("web", 5)
    before = [await stage.condition("web", kind) for kind in ("Ready", "Progressing")]
    for silent in ({LIVE}, {TRAFFIC}):
        await stage.restart()
        stage.ray.silent = silent
        await stage.passes("web", 1)
        assert [await stage.condition("web", kind) for kind in ("Ready", "Progressing")] == before


async def test_the_service_is_asked_only_where_a_pod_is_ready_behind_it(stage: Stage) -> None:
    await stage.model("web")
    await stage.passes("web", 1)
    assert stage.ray.asked[LIVE] == 0, "there is no pod yet"
    await stage.passes("web", 4)
    assert stage.ray.asked[LIVE] > 0
    asked = stage.ray.asked[LIVE]
    stage.ray.silent = {LIVE}
    await stage.passes("web", 1)
    assert stage.ray.asked[LIVE] == asked + 2, "one that died just now may have been met"


async def test_it_is_ready_once_it_answers_at_its_service(stage: Stage) -> None:
    await stage.apply("ModelFleet", "vision", {})
    await stage.model("web", fleet="vision")
    stage.ray.silent = {LIVE}
    await stage.passes("vision", 5)
    fleet = (await stage.get(kinds.MODEL_FLEET, "vision"))["status"]["conditions"]
    for ready in (await stage.condition("web", "Ready"), next(each for each in fleet if each["type"] == "Ready")):
        assert (ready["status"], ready["reason"]) == ("Unknown", "ServiceUnreachable")
    stage.ray.silent = set()
    await stage.passes("vision", 1)
    assert await stage.is_ready("web")


@pytest.mark.parametrize("fleet", [None, "vision"])
async def test_it_is_ready_once_no_connection_meets_a_dead_pod(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, fleet: str | None
) -> None:
    """And stays so where one meets a pod that died just now. The operator may be another one meanwhile."""
    monkeypatch.setattr(report, "QUIET", timedelta())
    stage.ray.dead_every = 3
    if fleet is not None:
        await stage.apply("ModelFleet", fleet, {})
    await stage.model("web", fleet=fleet)
    name = fleet or "web"
    await stage.passes(name, 5)
    assert (await stage.condition("web", "Ready"))["reason"] == "ServiceUnreachable"
    await stage.restart()
    await stage.passes(name, 2)
    assert (await stage.condition("web", "Ready"))["reason"] == "ServiceUnreachable"
    stage.ray.dead_every = 0
    await stage.passes(name, 1)
    assert await stage.is_ready("web")
    stage.ray.dead_every = 3
    await stage.passes(name, 3)
    assert await stage.is_ready("web")
    await stage.restart()
    await stage.passes(name, 3)
    assert await stage.is_ready("web")


async def test_it_is_not_ready_as_soon_as_no_worker_is(stage: Stage) -> None:
    await stage.model("web")
    await stage.passes("web", 5)
    assert await stage.is_ready("web")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-abcde-worker", "namespace": stage.namespace}}
    unready = {"conditions": [{"type": "Ready", "status": "False"}]}
    await stage.client.apply_status({**pod, "status": unready}, field_manager="kubelet", force=True)
    await stage.passes("web", 1)
    ready = await stage.condition("web", "Ready")
    assert (ready["status"], ready["message"]) == ("False", "no worker pod of cluster web-abcde is ready")


async def test_prometheus_is_asked_about_a_candidate_and_a_rollout_waits_while_it_is_down(stage: Stage) -> None:
    query = {"name": "errors", "query": "a{n='{{namespace}}',m='{{model}}',v='{{candidate}}'}", "max": 1}
    analysis = {"queries": [query], "minRequests": 1}
    rollout = {"strategy": "Canary", "steps": [{"weight": 10, "hold": "1s"}], "analysis": analysis}
    await stage.model("web")
    await stage.passes("web", 5)

    async def waits() -> bool:
        return bool((await stage.condition("web", "Progressing"))["reason"] == "Inconclusive")

    async with stand_in() as prometheus:
        prometheus.say({}, 503)
        await stage.restart(prometheus=PrometheusSettings(url=prometheus.url))
        await stage.passes("web", 2)
        assert prometheus.queries() == [], "nothing is under way"
        await stage.apply("ModelDeployment", "web", {**SPEC, "resources": {"cpu": "2"}, "rollout": rollout})
        await stage.until("web", waits, "the step waits")
        assert set(prometheus.queries()) == {f"a{{n='{stage.namespace}',m='web',v='1'}}"}
        assert "query errors: 503" in (await stage.condition("web", "Progressing"))["message"]
        assert await stage.is_ready("web")


async def test_named_versions_get_their_share_and_stay_while_the_registry_is_away(stage: Stage) -> None:
    """What their URIs meant stands in the status, as with the model's own."""
    await stage.model("web")
    await stage.passes("web", 5)
    other = {"uri": "models:/web/2", "trackingUri": NOWHERE, "version": "2", "modelId": "m-" + "1" * 32}
    told = {"traffic": [{"name": "b", **other, "artifactUri": "s3://b/n"}]}
    await stage.client.apply_status({**stage.object("ModelDeployment", "web"), "status": told}, field_manager="another")
    await stage.restart()
    versions = [{"name": "b", "uri": "models:/web/2", "weight": 30}]
    await stage.apply("ModelDeployment", "web", {**SPEC, "traffic": {"versions": versions}})

    async def shared() -> bool:
        found = (await stage.get(kinds.MODEL_DEPLOYMENT, "web"))["status"]["versions"]
        return {(each["name"], each.get("traffic", ""), each["weight"]) for each in found} == {
            ("1", "", 70),
            ("2", "b", 30),
        }

    await stage.until("web", shared, "b has its share")
    assert await stage.is_ready("web")
    assert [each["name"] for each in (await stage.get(kinds.MODEL_DEPLOYMENT, "web"))["status"]["traffic"]] == ["b"]
    await stage.restart()
    await stage.passes("web", 3)
    assert await shared()


async def test_a_refused_change_of_the_pods_keeps_neither_the_service_nor_new_settings_back(stage: Stage) -> None:
    await stage.apply("ModelFleet", "vision", {})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    pods = (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]["rayClusterConfig"]
    bad = {"spec": {"containers": [{"name": "ray-head", "resources": {"limits": {"cpu": "much"}}}]}}
    await stage.apply("ModelFleet", "vision", {"head": {"template": bad}})
    await stage.client.patch_json(
        kinds.SERVICE,
        stage.namespace,
        "vision",
        [{"op": "replace", "path": "/spec/selector/ray.io~1cluster", "value": "gone"}],
    )
    await stage.apply("ModelDeployment", "web", {**SPEC, "fleet": "vision", "replicas": 2})
    await stage.passes("vision", 3)
    assert (await stage.get(kinds.SERVICE, "vision"))["spec"]["selector"]["ray.io/cluster"] == "vision-abcde"
    live = (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]
    assert live["rayClusterConfig"] == pods
    assert '"min_replicas": 2' in live["serveConfigV2"].split("web-")[1]
    degraded = await stage.condition("web", "Degraded")
    assert degraded["status"] == "True"
    assert "cpu" in degraded["message"]


async def test_routers_ask_for_no_worker_that_the_pods_are_not_while_a_change_of_them_is_refused(stage: Stage) -> None:
    group = {"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi"}
    await stage.apply("ModelFleet", "vision", {"workerGroups": [group]})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    bad = {"spec": {"containers": [{"name": "ray-head", "resources": {"limits": {"cpu": "much"}}}]}}
    spot = {"workerGroups": [group, {"name": "spot", "spot": True}]}
    await stage.apply("ModelFleet", "vision", {**spot, "head": {"template": bad}, "routers": {"replicas": 3}})
    await stage.passes("vision", 3)
    assert "cpu" in (await stage.condition("web", "Degraded"))["message"]
    given = (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]["serveConfigV2"]
    assert '"routers": 3' in given, "what needs no other pods is taken up"
    assert "on-demand" not in given, "no router would find a place"
    await stage.apply("ModelFleet", "vision", spot)
    await stage.passes("vision", 3)
    assert "on-demand" in (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]["serveConfigV2"]


async def test_what_was_refused_is_rendered_anew_as_soon_as_it_can_be_taken(stage: Stage) -> None:
    bad = {"spec": {"containers": [{"name": "ray-head", "resources": {"limits": {"cpu": "much"}}}]}}
    await stage.restart(head={"template": bad})
    await stage.model("web")
    await stage.passes("web", 2)
    assert (await stage.condition("web", "Degraded"))["reason"] == "RayServiceRefused"
    await stage.restart()
    await stage.passes("web", 5)
    assert (await stage.condition("web", "Ready"))["status"] == "True"


async def test_a_deleted_ray_service_is_rendered_by_todays_defaults_and_kept_so(stage: Stage) -> None:
    await stage.model("web")
    await stage.passes("web", 3)
    await stage.restart(image="serving:2")
    await stage.passes("web", 2)
    assert await stage.images("web") == {"serving:1"}
    assert await stage.kept_images("web") == [{"serving:1"}]
    await stage.client.delete(kinds.RAY_SERVICE, stage.namespace, "web")
    await stage.passes("web", 2)
    assert await stage.images("web") == {"serving:2"}
    assert await stage.kept_images("web") == [{"serving:2"}]


async def test_another_default_of_sharing_gpus_starts_no_version_of_a_fleet_anew(stage: Stage) -> None:
    groups = [{"name": "workers", "minReplicas": 3, "cpu": "8", "memory": "8Gi", "gpu": 1}]

    async def shares(fleet: str) -> bool:
        return "CUDA_MPS" in (await stage.get(kinds.RAY_SERVICE, fleet))["spec"]["serveConfigV2"]

    async def made(fleet: str, model: str) -> None:
        await stage.apply("ModelFleet", fleet, {"workerGroups": groups})
        await stage.model(model, fleet=fleet)
        spec = (await stage.get(kinds.MODEL_DEPLOYMENT, model))["spec"]
        resources = {"cpu": "1", "gpu": "0.5"}
        await stage.apply("ModelDeployment", model, {"fleet": fleet, "model": spec["model"], "resources": resources})
        await stage.passes(fleet, 5)
        assert await stage.is_ready(model)

    await made("vision", "web")
    before = (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"]
    await stage.restart(gpuSharing="MPS")
    await stage.passes("vision", 3)
    assert (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"] == before
    # Also where what was kept of it is lost.
    (revision,) = await stage.client.list(kinds.CONTROLLER_REVISION, stage.namespace, cached=False)
    await stage.client.delete(kinds.CONTROLLER_REVISION, stage.namespace, revision["metadata"]["name"])
    await stage.passes("vision", 3)
    assert (await stage.get(kinds.RAY_SERVICE, "vision"))["spec"] == before
    await made("speech", "talk")
    assert await shares("speech"), "a fleet that is new has it"
    await stage.restart()
    await stage.passes("speech", 3)
    assert await shares("speech")
    await stage.apply("ModelFleet", "vision", {"workerGroups": groups, "gpuSharing": "MPS"})
    await stage.passes("vision", 3)
    assert await shares("vision"), "a fleet's own word counts at once"


async def test_a_changed_environment_is_told_of_until_the_pods_are_replaced(stage: Stage) -> None:
    group = {"name": "workers", "cpu": "8", "memory": "8Gi"}
    spec: Json = {"envFrom": [{"secretName": "tokens"}], "workerGroups": [group]}
    await stage.secret("tokens", {"TOKEN": "old"})
    await stage.apply("ModelFleet", "vision", spec)
    await stage.model("web", fleet="vision")
    await stage.until("vision", lambda: stage.is_ready("web"), "the model answers")
    read = await stage.environment("vision")
    await stage.secret("tokens", {"TOKEN": "new"})
    await stage.until("vision", lambda: stage.degraded("vision", "EnvironmentChanged"), "the change is told of")
    # Another group is added in place; and another KubeRay writes its name on every cluster.
    await stage.apply("ModelFleet", "vision", {**spec, "workerGroups": [group, {"name": "more"}]})
    await stage.passes("vision", 2)
    await stage.copy_annotations("vision")
    await stage.passes("vision", 2)
    assert await stage.degraded("vision", "EnvironmentChanged")
    assert await stage.environment("vision") == read
    await stage.apply("ModelFleet", "vision", {**spec, "image": "serving:2", "rayVersion": "2.60.0"})
    await stage.passes("vision", 2)
    assert await stage.environment("vision") != read


async def test_what_was_said_stays_said_of_a_model_that_can_no_longer_be_read(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older operator beside newer definitions: an unknown field is passed over, and nothing is written again."""
    await stage.model("web")
    await stage.passes("web", 5)
    before = (await stage.get(kinds.MODEL_DEPLOYMENT, "web"))["status"]
    real = stage.client.get

    async def with_more(kind: kinds.Kind, namespace: str, name: str) -> Json | None:
        found = await real(kind, namespace, name)
        if found is not None and kind == kinds.MODEL_DEPLOYMENT:
            found["spec"]["model"]["invented"] = {"later": True}
        return found

    monkeypatch.setattr(stage.client, "get", with_more)
    await stage.passes("web", 3)
    assert (await stage.get(kinds.MODEL_DEPLOYMENT, "web"))["status"] == before


def test_a_model_of_a_name_that_none_may_have_today_is_told_so_and_keeps_its_place() -> None:
    metadata = {"name": "old-serve-svc", "namespace": "ml", "generation": 7}
    good, problems = wanted.parsed({"old-serve-svc": {"metadata": metadata, "spec": {"model": {"uri": "models:/a/1"}}}})
    assert [(each.metadata.name, each.metadata.generation) for each in good] == [("old-serve-svc", 7)]
    assert "KubeRay" in problems["old-serve-svc"].message


async def test_any_character_may_stand_in_a_label_and_in_what_is_told(stage: Stage) -> None:
    dog = "\N{DOG FACE}"
    await stage.model("web")
    classes = {"classification": {"labels": [dog, "\N{SNOWMAN}"]}}
    await stage.apply("ModelDeployment", "web", {**SPEC, "transform": {"output": classes}})
    await stage.passes("web", 5)
    assert (await stage.condition("web", "Ready"))["status"] == "True"
    assert dog in (await stage.get(kinds.RAY_SERVICE, "web"))["spec"]["serveConfigV2"]


async def test_an_invalid_fleet_is_ready_again_once_its_service_is_reached_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "QUIET", timedelta())
    await stage.apply("ModelFleet", "vision", {})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    await stage.restart(image=3)
    stage.ray.silent = {LIVE}
    await stage.passes("vision", 1)
    assert (await stage.condition("web", "Ready"))["reason"] == "ServiceUnreachable"
    stage.ray.silent = set()
    await stage.passes("vision", 1)
    assert await stage.is_ready("web")


async def test_an_invalid_fleet_is_not_called_ready_when_it_no_longer_answers(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.apply("ModelFleet", "vision", {})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    await stage.restart(image=3)
    await stage.passes("vision", 1)
    assert (await stage.condition("web", "Degraded"))["reason"] == "InvalidFleet"
    assert await stage.is_ready("web")
    stage.ray.silent = {APPLICATIONS, TRAFFIC}
    monkeypatch.setattr(report, "QUIET", timedelta())
    await stage.restart(image=3)
    await stage.passes("vision", 1)
    ready = await stage.condition("web", "Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "RayUnreachable")
    fleet = (await stage.get(kinds.MODEL_FLEET, "vision"))["status"]["conditions"]
    assert {each["status"] for each in fleet if each["type"] == "Ready"} == {"Unknown"}


async def test_a_field_of_a_newer_release_changes_nothing_of_a_fleet(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.apply("ModelFleet", "vision", {})
    await stage.model("web", fleet="vision")
    await stage.passes("vision", 5)
    names = [(kinds.MODEL_DEPLOYMENT, "web"), (kinds.MODEL_FLEET, "vision"), (kinds.RAY_SERVICE, "vision")]
    before = [await stage.get(*each) for each in names]
    real = stage.client.get

    async def with_more(kind: kinds.Kind, namespace: str, name: str) -> Json | None:
        found = await real(kind, namespace, name)
        if found is not None and kind == kinds.MODEL_FLEET:
            found["spec"] |= {"invented": {"later": True}}
        return found

    with monkeypatch.context() as later:
        later.setattr(stage.client, "get", with_more)
        await stage.passes("vision", 3)
    assert [await stage.get(*each) for each in names] == before
