"""`rayfleet diff`, as a person calls it, with a stand-in for kubectl."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.cli.costs import SHARED_ANEW
from rayfleet_operator.cli.main import main
from rayfleet_operator.render import objects, revision, upgrade
from rayfleet_operator.render.names import FleetName
from rayfleet_operator.render.raycluster import cluster_spec

from .kubectl_stand_in import KubectlStandIn, installed

Json = dict[str, Any]
Diff = Callable[..., Result]

IMAGE = {"image": "example.com/serving:1", "rayVersion": "2.60.0"}
GROUPS = [{"name": "cpu", "minReplicas": 2, "cpu": "2", "memory": "4Gi"}]
FLEET: Json = {**IMAGE, "workerGroups": GROUPS}
MODEL: Json = {"fleet": "vision", "model": {"uri": "models:/resnet@live"}, "resources": {"gpu": "0.5"}, "replicas": 2}


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KubectlStandIn:
    folder = tmp_path / "bin"
    folder.mkdir()
    return installed(folder, monkeypatch)


@pytest.fixture
def diff(tmp_path: Path) -> Diff:
    def diff(*items: Json, options: tuple[str, ...] = ()) -> Result:
        file = tmp_path / "fleet.yaml"
        file.write_text(yaml.safe_dump_all(items))
        result = CliRunner().invoke(main, ["diff", str(file), *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return diff


def fleet(spec: Json | None = None, **metadata: Any) -> Json:
    return obj("ModelFleet", "vision", FLEET if spec is None else spec, metadata)


def model(spec: Json | None = None, **metadata: Any) -> Json:
    return obj("ModelDeployment", "resnet", MODEL if spec is None else spec, metadata)


def obj(kind: str, name: str, spec: Json, metadata: Json) -> Json:
    known = {"name": name, "namespace": "ml", **metadata}
    return {"apiVersion": "rayfleet.io/v1alpha1", "kind": kind, "metadata": known, "spec": spec}


def applied(live: Json, by: Json) -> Json:
    """As `kubectl apply` leaves a note of what it applied."""
    note = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(by)}
    annotations = {**live["metadata"].get("annotations", {}), **note}
    return {**live, "metadata": {**live["metadata"], "annotations": annotations}}


def running(spec: Json = FLEET, name: str = "vision", written: Json | None = None) -> list[Json]:
    """The RayService and the revision of a fleet whose defaults and spec together are `spec`."""
    fleet, said = FleetName("ml", name), spec if written is None else written
    cluster = cluster_spec(fleet, ModelFleetSpec.model_validate(spec))
    inputs = revision.inputs_digest(said, "")
    service = objects.rayservice(
        fleet, [], cluster=cluster, serve_config=b"", inputs=inputs, environment="", longest_request_s=1
    )
    asked = upgrade.asked(said, "")
    return [service, objects.revision(fleet, [], inputs=inputs, cluster=cluster, number=1, asked=asked)]


def cost(result: Result) -> str:
    """What the change costs, in one line."""
    return " ".join(result.output.split("cost:")[1].split())


def test_nothing_differs(kubectl: KubectlStandIn, diff: Diff) -> None:
    filled = {**FLEET, "workerGroups": [{**GROUPS[0], "minReplicas": 2}]}
    kubectl.says([fleet(filled, uid="1", generation=3), model({**MODEL, "limits": {"maxQueuedRequests": 400}})])
    result = diff(fleet(), model())
    assert (result.exit_code, result.output) == (
        0,
        "ModelFleet/vision in namespace ml: unchanged\nModelDeployment/resnet in namespace ml: unchanged\n",
    )
    assert not [each for each in kubectl.asked() if "rayservices.ray.io" in each], "nobody needs to know"


def test_a_new_image_costs_a_second_cluster(kubectl: KubectlStandIn, diff: Diff) -> None:
    kubectl.says([fleet(), *running()])
    result = diff(fleet({**FLEET, "image": "example.com/serving:2"}))
    assert result.exit_code == 1
    assert "  spec.image: example.com/serving:1 → example.com/serving:2\n" in result.output
    assert "spec.image changes, which KubeRay does not do in place: a new Ray cluster is built beside" in cost(result)
    assert "it takes 3 pods (5 CPUs, 10 GiB) more" in cost(result)
    assert "15m (spec.progressDeadline)" in cost(result)


CARDS: Json = {**IMAGE, "workerGroups": [{**GROUPS[0], "gpu": 1}]}
MPS: Json = {**CARDS, "gpuSharing": "MPS"}


@pytest.mark.parametrize(
    ("before", "after", "kept", "anew"),
    [
        (CARDS, MPS, None, True),
        (MPS, CARDS, None, True),
        (MPS, CARDS, "TimeSlicing", True),
        # It goes on with what the administrator's default was when it was made.
        (MPS, CARDS, "MPS", False),
        (CARDS, MPS, "MPS", False),
        (CARDS, {**CARDS, "gpuSharing": "TimeSlicing"}, "MPS", True),
        (CARDS, {**CARDS, "gpuSharing": "TimeSlicing"}, None, False),
        (MPS, {**MPS, "routers": {"replicas": 3}}, None, False),
    ],
)
def test_another_way_of_sharing_gpus_starts_versions_anew_and_no_pod(
    kubectl: KubectlStandIn, diff: Diff, before: Json, after: Json, kept: str | None, anew: bool
) -> None:
    service, revision = running(before)
    if kept is not None:
        revision["data"]["gpuSharing"] = kept
    kubectl.says([fleet(before), service, revision])
    result = diff(fleet(after))
    assert result.exit_code == 1
    assert (SHARED_ANEW in cost(result)) == anew
    assert "in place: no pod is replaced" in cost(result)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"workerGroups": [{**GROUPS[0], "minReplicas": 5}]},
            "; from 3 pods (5 CPUs, 10 GiB) to 6 pods (11 CPUs, 22 GiB)",
        ),
        ({"routers": {"replicas": 4}}, "in place: no pod is replaced"),
        ({"progressDeadline": "1h"}, "in place: no pod is replaced"),
        (
            {"workerGroups": [{"name": "gpu", "gpu": 1}, *GROUPS]},
            "to 4 pods (7 CPUs, 14 GiB, 1 GPU) it is rendered anew",
        ),
    ],
)
def test_what_is_made_in_place(kubectl: KubectlStandIn, diff: Diff, change: Json, told: str) -> None:
    kubectl.says([fleet(), *running()])
    result = diff(fleet({**FLEET, **change}))
    assert result.exit_code == 1
    assert cost(result).startswith("in place: no pod is replaced")
    assert told in cost(result)
    assert ("rendered anew" in cost(result)) == ("rendered anew" in told)


def test_tolerations_wait_for_the_next_cluster(kubectl: KubectlStandIn, diff: Diff) -> None:
    kubectl.says([fleet(), *running()])
    template = {"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}}
    result = diff(fleet({**FLEET, "workerGroups": [{**GROUPS[0], "template": template}]}))
    assert "no pod is replaced KubeRay takes no notice of some of it" in cost(result)


def test_what_the_administrator_chose_is_taken_from_what_runs(kubectl: KubectlStandIn, diff: Diff) -> None:
    kubectl.says([fleet({}), *running(written={})])
    same_image = diff(fleet(IMAGE))
    assert "in place: no pod is replaced" in cost(same_image)
    assert "which rayfleet diff does not know" in cost(same_image)
    another = diff(fleet({**IMAGE, "image": "example.com/serving:2"}))
    assert "spec.image changes" in cost(another)
    assert "3 pods (5 CPUs, 10 GiB) more" in cost(another)
    # The group that runs, written down; and one of it left out.
    assert "in place: no pod is replaced" in cost(diff(fleet({"workerGroups": GROUPS})))
    assert "spec.workerGroups changes, which" in cost(diff(fleet({"workerGroups": [{"name": "cpu", "cpu": "4"}]})))


def test_a_change_that_is_taken_back_finds_what_was_kept(kubectl: KubectlStandIn, diff: Diff) -> None:
    """The other image was there before; its revision is."""
    other = {**FLEET, "image": "example.com/serving:2"}
    kubectl.says([fleet(other), *running(other), running()[1]])
    assert "spec.image changes" in cost(diff(fleet()))


def test_a_cluster_that_is_being_built_already_is_given_up_for_a_third(kubectl: KubectlStandIn, diff: Diff) -> None:
    service, kept = running()
    names: Json = {"activeServiceStatus": {"rayClusterName": "vision-a"}}
    for pending in ({"pendingServiceStatus": {"rayClusterName": "vision-b"}}, {"pendingServiceStatus": None}, {}):
        kubectl.says([fleet(), {**service, "status": names | pending}, kept])
        told = cost(diff(fleet({**FLEET, "image": "example.com/serving:2"})))
        assert ("Ray cluster vision-b is being built already" in told) == bool(pending.get("pendingServiceStatus"))


def test_without_the_right_to_see_what_runs_it_says_so_and_what_it_can(kubectl: KubectlStandIn, diff: Diff) -> None:
    why = "Error from server (Forbidden): rayservices.ray.io is forbidden"
    kubectl.says([fleet()], refusals={"rayservices.ray.io": why})
    result = diff(fleet({**FLEET, "image": "example.com/serving:2"}))
    assert result.exit_code == 1
    assert f"what runs could not be asked for ({why})" in cost(result)
    assert "spec.image changes" in cost(result)
    assert "3 pods (5 CPUs, 10 GiB) more" in cost(result)
    kubectl.says([fleet({})], refusals={"rayservices.ray.io": why})
    assert "how much it takes while both run depends on the operator's fleet defaults" in cost(diff(fleet(IMAGE)))


def test_without_kuberay_no_pod_is_there(kubectl: KubectlStandIn, diff: Diff) -> None:
    kubectl.says([fleet()])
    assert "there is no RayService yet, so no pod is replaced a Ray cluster of" in cost(
        diff(fleet({**FLEET, "env": [{"name": "A"}]}))
    )


def test_what_is_new(kubectl: KubectlStandIn, diff: Diff) -> None:
    own = obj("ModelDeployment", "own", {"model": {"uri": "models:/own/1"}}, {})
    result = diff(fleet(), model(), own)
    assert result.exit_code == 1
    first, second, third = result.output.split("\nModelDeployment/")
    assert first.startswith("ModelFleet/vision in namespace ml: new\n  cost: a Ray cluster of 3 pods (5 CPUs, 10 GiB)")
    assert "new: 2 replicas (2 CPUs, 1 GPU) on ModelFleet vision" in " ".join(f"{second}{third}".split())
    assert "a fleet of its own, a Ray cluster whose size is that of the operator's fleet defaults" in f"{second}{third}"
    assert "there is no ModelFleet" not in result.output


def test_a_fleet_that_is_nowhere_is_told_of(kubectl: KubectlStandIn, diff: Diff) -> None:
    assert "there is no ModelFleet vision on the cluster or in these files" in diff(model()).output
    kubectl.says([fleet()])
    assert "there is no ModelFleet" not in diff(model()).output
    kubectl.says(refusals={"modelfleets.rayfleet.io": "Error from server (Forbidden): no"})
    unseen = diff(model())
    assert (unseen.exit_code, "there is no ModelFleet" in unseen.output) == (1, False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"replicas": 3}, ["in place: from 2 replicas (2 CPUs, 1 GPU) to 3 replicas (3 CPUs, 1.5 GPUs)"]),
        ({"batching": {"maxBatchSize": 4}}, ["in place: no replica is replaced"]),
        (
            {"resources": {"gpu": "1"}},
            ["it takes 2 replicas (2 CPUs, 2 GPUs) beside the old version", "strategy: Immediate", "before 2 replicas"],
        ),
        ({"model": {"uri": "models:/resnet/7"}}, ["if the registry says that the URI means another one"]),
        (
            {
                "model": {"uri": "models:/resnet/7"},
                "rollout": {"strategy": "Canary", "steps": [{"weight": 10, "hold": "10m"}, {"weight": 50}]},
            },
            ["10 % for 10 min, 50 % until somebody promotes it, then 100 %; the old version stands by for 30 s"],
        ),
        (
            {"traffic": {"versions": [{"name": "b", "uri": "models:/resnet/8", "weight": 10}]}},
            ["version b of spec.traffic starts beside the others, and takes 2 replicas (2 CPUs, 1 GPU)"],
        ),
        ({"fleet": "audio"}, ["from ModelFleet vision to ModelFleet audio: 2 replicas (2 CPUs, 1 GPU) start there"]),
        ({"fleet": None}, ["moves from ModelFleet vision to a fleet of its own"]),
    ],
)
def test_a_changed_model(kubectl: KubectlStandIn, diff: Diff, change: Json, told: list[str]) -> None:
    kubectl.says([fleet(), model()])
    after = {key: value for key, value in {**MODEL, **change}.items() if value is not None}
    result = diff(model(after))
    assert result.exit_code == 1
    for each in told:
        assert each in cost(result)


def test_a_fleet_of_a_models_own_is_replaced_by_the_restart_annotation_alone(
    kubectl: KubectlStandIn, diff: Diff
) -> None:
    spec = {"model": {"uri": "models:/resnet@live"}}
    kubectl.says([model(spec), *running(name="resnet", written={})])
    restart = diff(model(spec, annotations={"rayfleet.io/restart": "now"}))
    assert restart.exit_code == 1
    assert 'metadata.annotations["rayfleet.io/restart"] changes, which KubeRay does not do in place' in cost(restart)
    assert "3 pods (5 CPUs, 10 GiB) more" in cost(restart)
    assert "in place: from 1 replica" in cost(diff(model({**spec, "replicas": 4})))
    label = diff(model(spec, labels={"team": "b"}))
    assert "metadata.labels.team: (left out) → b" in label.output
    assert cost(label) == "no pod and no replica is replaced"


SECRETS: Json = {
    **FLEET,
    "env": [{"name": "API_TOKEN", "value": "hunter2"}],
    "head": {
        "template": {
            "metadata": {"annotations": {"example.com/password": "hunter2"}},
            "spec": {"containers": [{"name": "ray-head", "args": ["--token", "hunter2"]}]},
        }
    },
}


def test_no_secret_is_printed(kubectl: KubectlStandIn, diff: Diff) -> None:
    other = json.loads(json.dumps(SECRETS).replace("hunter2", "hunter3"))
    for before, after in ((FLEET, SECRETS), (SECRETS, FLEET), (SECRETS, other)):
        kubectl.says([fleet(before), *running(before)])
        result = diff(fleet(after))
        assert result.exit_code == 1
        assert "env" in result.output
        assert "hunter" not in result.output


def test_what_others_wrote_stays_where_kubectl_noted_what_it_applied(kubectl: KubectlStandIn, diff: Diff) -> None:
    file = model({**MODEL, "rollout": {"strategy": "Canary", "steps": [{"weight": 10}]}})
    live = model({**MODEL, "rollout": {**file["spec"]["rollout"], "paused": True}}, annotations={"theirs": "x"})
    kubectl.says([fleet(), applied(live, file)])
    assert diff(file).exit_code == 0
    before = model({**file["spec"], "limits": {"requestTimeout": "9s"}})
    kubectl.says([fleet(), applied({**live, "spec": {**live["spec"], "limits": {"requestTimeout": "9s"}}}, before)])
    result = diff(file)
    assert result.exit_code == 1
    assert result.output.splitlines()[1] == "  spec.limits.requestTimeout: 9s → 30s"


def test_a_pause_by_our_own_command_stays_where_nobody_noted_anything(kubectl: KubectlStandIn, diff: Diff) -> None:
    file = model({**MODEL, "rollout": {"strategy": "Canary", "steps": [{"weight": 10}]}})
    owned = {"f:spec": {"f:rollout": {"f:paused": {}}}}
    fields = [{"manager": "rayfleet-rollout-pause", "operation": "Apply", "fieldsV1": owned}]
    paused = {**MODEL, "rollout": {**file["spec"]["rollout"], "paused": True}}
    kubectl.says([fleet(), model(paused, managedFields=fields)])
    assert diff(file).exit_code == 0
    kubectl.says([fleet(), model(paused)])
    assert "spec.rollout.paused: true → (left out)" in diff(file).output


def test_fields_of_a_newer_release_are_told_and_no_more_is_claimed(kubectl: KubectlStandIn, diff: Diff) -> None:
    live = fleet({**FLEET, "invented": {"later": True}})
    kubectl.says([applied(live, live), *running()])
    result = diff(fleet())
    assert result.exit_code == 1
    assert "spec.invented.later: true → (left out)" in result.output
    assert "none by this release's rules" in cost(result)


def test_what_the_api_server_would_refuse_is_told(kubectl: KubectlStandIn, diff: Diff) -> None:
    """Somebody else gave a size; the file a claim, of which a size makes no sense."""
    file = fleet({**FLEET, "modelCache": {"claimName": "shared"}})
    kubectl.says([applied(fleet({**FLEET, "modelCache": {"sizeLimit": "9Gi"}}), fleet()), *running()])
    assert "the API server refuses what comes of it: modelCache.sizeLimit" in cost(diff(file))


@pytest.mark.parametrize(
    "odd",
    [
        {"kind": "ModelFleet", "metadata": {"name": "vision", "namespace": "ml", "annotations": 3, "labels": [1]}},
        fleet({"workerGroups": {"name": 3}, "env": "x", "head": []}),
        {**fleet(), "spec": [], "status": "x"},
        {**fleet(), "spec": None, "metadata": {"name": "vision", "namespace": "ml", "managedFields": {"a": 1}}},
        applied(fleet(), {"spec": "x", "metadata": 3}),
        fleet(annotations={"kubectl.kubernetes.io/last-applied-configuration": "{"}),
    ],
    ids=range(6),
)
def test_an_odd_object_on_the_cluster_makes_nothing_fail(kubectl: KubectlStandIn, diff: Diff, odd: Json) -> None:
    kubectl.says([odd, *running()])
    result = diff(fleet({**FLEET, "image": "example.com/serving:2"}))
    assert result.exit_code == 1, result.exception
    assert "spec.image" in result.output


def test_what_somebody_wrote_into_the_ray_service_makes_nothing_fail(kubectl: KubectlStandIn, diff: Diff) -> None:
    service, kept = running()
    for odd in (
        {},
        {"headGroupSpec": 3},
        {"workerGroupSpecs": [{"template": None}], "headGroupSpec": {"template": []}},
    ):
        kubectl.says([fleet(), {**service, "spec": {"rayClusterConfig": odd}}])
        result = diff(fleet({**FLEET, "image": "example.com/serving:2"}))
        assert (result.exit_code, "spec.image changes" in cost(result)) == (1, True)
    kubectl.says([fleet(), service, {**kept, "data": None}, {**kept, "revision": "x"}])
    assert diff(fleet({**FLEET, "image": "example.com/serving:2"})).exit_code == 1


def test_free_form_templates_make_nothing_fail(kubectl: KubectlStandIn, diff: Diff) -> None:
    pods = [
        {"containers": [{"name": "ray-worker", "resources": None}]},
        {"containers": [{"name": "ray-worker", "resources": []}, {"name": "x", "image": "y", "resources": "much"}]},
        {"containers": [{"name": "ray-worker", "resources": {"limits": {"cpu": "much", "memory": -1}}}]},
        {"hostAliases": {}, "affinity": [], "overhead": 3, "initContainers": [{"name": "i", "image": "i"}]},
    ]
    for pod in pods:
        after = {**FLEET, "workerGroups": [{**GROUPS[0], "template": {"spec": pod}}]}
        kubectl.says([fleet(), *running()])
        assert diff(fleet(after)).exit_code == 1, pod
        kubectl.says([fleet(after), *running(after)])
        assert diff(fleet()).exit_code == 1, pod
    kubectl.says([fleet(), *running()])
    told = cost(diff(fleet({**FLEET, "workerGroups": [{**GROUPS[0], "template": {"spec": pods[2]}}]})))
    assert "not counted, because it is no amount: cpu of group cpu, memory of group cpu" in told


def test_the_namespace_of_the_context_is_for_objects_that_name_none(kubectl: KubectlStandIn, diff: Diff) -> None:
    bare = fleet()
    del bare["metadata"]["namespace"]
    assert "ModelFleet/vision in the namespace of kubectl's context: new" in diff(bare).output
    kubectl.says([{**fleet(), "metadata": {"name": "vision", "namespace": "mine"}}])
    assert diff(bare).output == "ModelFleet/vision in namespace mine: unchanged\n"
    kubectl.says([fleet()])
    assert diff(bare, options=("--namespace", "ml")).exit_code == 0
    asked = kubectl.asked()[-1]
    assert "--namespace=ml" in asked


def test_trouble_is_2(kubectl: KubectlStandIn, diff: Diff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = diff(fleet({**FLEET, "rayVersion": 3}), model())
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "spec.rayVersion" in wrong.stderr
    elsewhere = diff(fleet(), options=("-n", "other"))
    assert elsewhere.exit_code == 2
    assert "metadata.namespace: 'ml' is not 'other'" in elsewhere.stderr
    assert diff().exit_code == 2
    assert CliRunner().invoke(main, ["diff", "nowhere.yaml"]).exit_code == 2
    assert CliRunner().invoke(main, ["diff"]).exit_code == 2
    kubectl.says(refusals={"modelfleets.rayfleet.io": 'error: the server doesn\'t have a resource type "modelfleets"'})
    missing = diff(fleet())
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "rayfleet's definitions are not installed there" in missing.stderr
    kubectl.says(refusals={"modelfleets.rayfleet.io": "Error from server (Forbidden): no"})
    assert "needs the right to get modelfleets.rayfleet.io" in diff(fleet()).stderr
    kubectl.says(refusals={"rayservices.ray.io": "Unable to connect to the server"}, objects=[fleet({})])
    assert diff(fleet()).exit_code == 2
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (diff(fleet()).exit_code, "no kubectl is on PATH" in diff(fleet()).stderr) == (2, True)


def test_a_deep_object_is_trouble_and_no_traceback(kubectl: KubectlStandIn, diff: Diff) -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = {"a": deep}
    live = fleet({**FLEET, "invented": deep})
    kubectl.says([live])
    assert diff(fleet()).exit_code in (1, 2)


def test_an_output_that_cannot_write_an_arrow_gets_two_signs(kubectl: KubectlStandIn, tmp_path: Path) -> None:
    kubectl.says([fleet(), *running()])
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump(fleet({**FLEET, "image": "example.com/serving:2"})))
    result = CliRunner(charset="ascii").invoke(main, ["diff", str(file)])
    assert "  spec.image: example.com/serving:1 -> example.com/serving:2\n" in result.output
