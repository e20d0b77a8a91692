"""What a fleet's Ray cluster looks like, and that it stays so."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayfleet_operator.render.names import RESTART_ANNOTATION
from rayfleet_operator.render.raycluster import cluster_spec, ordered, resized

from .specs import FULL, NAME, SMALL, spec

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("name", "written"), [("small", SMALL), ("full", FULL)])
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


@pytest.mark.parametrize("written", [SMALL, FULL])
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
