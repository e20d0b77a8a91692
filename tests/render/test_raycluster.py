"""What a fleet's Ray cluster looks like, and that it stays so."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _get_custom_resources, _get_num_gpus

from rayfleet_operator.plan import serve_config
from rayfleet_operator.render.names import RESTART_ANNOTATION
from rayfleet_operator.render.raycluster import cluster_spec, offers, ordered, resized
from rayfleet_operator.render.revision import inputs_digest
from rayfleet_operator.render.standing import in_place
from rayfleet_serving.config import TrafficTable

from .specs import FULL, KINDS, NAME, SMALL, spec

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("name", "written"), [("small", SMALL), ("full", FULL), ("kinds", KINDS)])
def test_a_cluster_is_rendered_as_ever(name: str, written: dict[str, Any]) -> None:
    """Every change of these files builds a new Ray cluster, with all its GPUs, for each fleet whose spec is edited
    after the release that has it. If it must be: `python -m render.golden`, in tests/."""
    assert cluster_spec(NAME, spec(written)) == yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same with its keys in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(each, chance)) for key, each in value.items()]
        chance.shuffle(items)
        return dict(items)
    return [shuffled(each, chance) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_what_has_none_changes_nothing(seed: int) -> None:
    chance = random.Random(seed)
    written = shuffled(FULL, chance)
    for field in ("env", "imagePullSecrets"):
        chance.shuffle(written[field] if isinstance(written[field], list) else [])
    assert json.dumps(cluster_spec(NAME, spec(written)), sort_keys=True) == json.dumps(
        cluster_spec(NAME, spec(FULL)), sort_keys=True
    )


def test_routers_and_the_deadline_are_nothing_to_a_pod() -> None:
    other = {**FULL, "routers": {"replicas": 7}, "progressDeadline": "1h"}
    assert cluster_spec(NAME, spec(other)) == cluster_spec(NAME, spec(FULL))


def muted(cluster: dict[str, Any]) -> dict[str, Any]:
    """What is left of a cluster's spec in KubeRay's hash."""
    sizes = ("replicas", "minReplicas", "maxReplicas")
    groups = [{key: value for key, value in group.items() if key not in sizes} for group in cluster["workerGroupSpecs"]]
    return {**cluster, "workerGroupSpecs": groups}


def test_other_sizes_are_the_same_cluster_to_kuberay() -> None:
    rendered = cluster_spec(NAME, spec(FULL))
    larger = spec(FULL, workerGroups=[{**group, "minReplicas": 5, "maxReplicas": 9} for group in FULL["workerGroups"]])
    after = resized(rendered, larger)
    assert muted(after) == muted(rendered)
    assert [(each["replicas"], each["minReplicas"], each["maxReplicas"]) for each in after["workerGroupSpecs"]] == [
        (5, 5, 9),
        (5, 5, 9),
    ]
    assert rendered == cluster_spec(NAME, spec(FULL)), "what was kept is not touched"


def test_a_group_that_is_not_asked_for_keeps_its_size() -> None:
    rendered = cluster_spec(NAME, spec(FULL))
    assert resized(rendered, spec(SMALL))["workerGroupSpecs"][1] == rendered["workerGroupSpecs"][1]


def test_a_restart_changes_every_pod_and_nothing_else() -> None:
    plain, restarted = cluster_spec(NAME, spec(FULL)), cluster_spec(NAME, spec(FULL), "2026-03-01")
    templates = [restarted["headGroupSpec"]["template"], *(each["template"] for each in restarted["workerGroupSpecs"])]
    for template in templates:
        assert template["metadata"]["annotations"].pop(RESTART_ANNOTATION) == "2026-03-01"
        if not template["metadata"]["annotations"]:
            del template["metadata"]["annotations"]
    assert restarted == plain


def test_only_a_fleet_whose_size_varies_has_an_autoscaler() -> None:
    full, small = cluster_spec(NAME, spec(FULL)), cluster_spec(NAME, spec(SMALL))
    assert full["enableInTreeAutoscaling"] is True
    assert full["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is True
    assert "enableInTreeAutoscaling" not in small
    assert small["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is False
    for cluster in (full, small):
        for group in cluster["workerGroupSpecs"]:
            assert group["template"]["spec"]["automountServiceAccountToken"] is False


def names(*groups: str) -> list[dict[str, str]]:
    return [{"name": name} for name in groups]


@pytest.mark.parametrize(
    ("before", "written", "after"),
    [
        (None, ["b", "a"], ["b", "a"]),
        (["a", "b"], ["b", "a"], ["a", "b"]),
        (["b", "a"], ["a", "b", "c"], ["b", "a", "c"]),
        (["b", "a"], ["d", "a", "c", "b"], ["b", "a", "d", "c"]),
        (["a", "b", "c"], ["c", "a"], ["a", "c"]),
    ],
)
def test_groups_keep_their_places_and_new_ones_come_last(
    before: list[str] | None, written: list[str], after: list[str]
) -> None:
    live = cluster_spec(NAME, spec(SMALL, workerGroups=names(*before))) if before is not None else None
    found = ordered(spec(SMALL, workerGroups=names(*written)), live)
    assert [group.name for group in found.worker_groups] == after
    if before is not None and set(before) <= set(written):
        rendered = cluster_spec(NAME, found)
        assert rendered["workerGroupSpecs"][: len(before)] == live["workerGroupSpecs"], "KubeRay adds the rest in place"  # type: ignore[index]


def containers(cluster: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    templates = [cluster["headGroupSpec"]["template"], *(each["template"] for each in cluster["workerGroupSpecs"])]
    return [(each["spec"], container) for each in templates for container in each["spec"]["containers"]]


@pytest.mark.parametrize("written", [SMALL, FULL, KINDS])
def test_our_containers_are_restricted(written: dict[str, Any]) -> None:
    found = [
        (pod, each) for pod, each in containers(cluster_spec(NAME, spec(written))) if each["name"].startswith("ray-")
    ]
    assert found
    for pod, container in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_no_secret_stands_in_a_rendering() -> None:
    """A RayService is read by more people than a Secret is."""
    rendered = json.dumps(cluster_spec(NAME, spec(FULL)))
    assert '"secretKeyRef": {"name": "redis", "key": "password"}' in rendered
    assert '"secretName": "vision-auth"' in rendered


def groups_of(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["groupName"]: each for each in cluster["workerGroupSpecs"]}


def test_ray_and_its_autoscaler_read_what_a_group_offers() -> None:
    """The autoscaler decides by it which group gets one more pod, before there is any."""
    offered = {
        "cpu": (None, {"on-demand": 1000}),
        "l4": (1, {"accelerator:L4": 1000}),
        "mig": (3, {"on-demand": 1000}),
        "sliced": (2, {"accelerator:A100-80GB": 1000, "on-demand": 1000}),
    }
    for name, group in groups_of(cluster_spec(NAME, spec(KINDS))).items():
        params = group["rayStartParams"]
        limits = group["template"]["spec"]["containers"][0]["resources"]
        found = _get_num_gpus({}, params, limits, name), _get_custom_resources({}, params, name)
        assert found == offered[name]
        # KubeRay puts each parameter into a command line of bash as it is.
        shown = subprocess.run(
            ["bash", "-c", f"printf %s {params.get('resources', '{}')}"], capture_output=True, text=True, check=True
        )
        assert json.loads(shown.stdout) == offered[name][1] == offers(params)


def test_nothing_is_said_of_spot_where_all_workers_are_alike() -> None:
    every = [{**group, "spot": False} for group in KINDS["workerGroups"]]
    rendered = cluster_spec(NAME, spec(KINDS, workerGroups=every))
    assert "on-demand" not in json.dumps(rendered)
    router = serve_config.router_app(spec(KINDS, workerGroups=every), TrafficTable())
    assert "resources" not in router["deployments"][0]["ray_actor_options"]
    router = serve_config.router_app(spec(KINDS), TrafficTable())
    assert router["deployments"][0]["ray_actor_options"]["resources"] == {"on-demand": 0.001}


def test_other_tolerations_are_other_pods() -> None:
    """KubeRay alone would keep the pods, which go on without them."""
    first, *others = KINDS["workerGroups"]
    tolerant = spec(KINDS, workerGroups=[{**first, "tolerations": [{"key": "a", "operator": "Exists"}]}, *others])
    assert not in_place(cluster_spec(NAME, spec(KINDS)), cluster_spec(NAME, tolerant))


def test_how_much_memory_a_gpu_has_is_nothing_to_a_pod() -> None:
    without = [{key: each[key] for key in each if key != "gpuMemory"} for each in KINDS["workerGroups"]]
    other = {**KINDS, "workerGroups": without}
    assert cluster_spec(NAME, spec(other)) == cluster_spec(NAME, spec(KINDS))
    assert inputs_digest(other, "") == inputs_digest(KINDS, "")
