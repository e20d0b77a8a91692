"""Which changes of a fleet need a second Ray cluster, what is to blame, and what it takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rayfleet_operator.api.fleet import ModelFleetSpec
from rayfleet_operator.render import upgrade
from rayfleet_operator.render.raycluster import cluster_spec, ordered
from rayfleet_operator.render.standing import defaults
from rayfleet_operator.render.upgrade import Upgrade, asked, beside, blamed, in_place, restart_of

from .specs import FULL, NAME, SMALL, spec
from .test_revision import changed

Json = dict[str, Any]

BEFORE = cluster_spec(NAME, spec(FULL))


def render(tree: Json) -> Json:
    return cluster_spec(NAME, ordered(ModelFleetSpec.model_validate(tree["spec"]), BEFORE), restart_of(tree))


def blame(after: Json, restart: str = "") -> tuple[str, ...]:
    return blamed(asked(FULL, ""), asked(after, restart), render)


IN_PLACE = {
    "routers": changed("routers", {"replicas": 9, "cpu": "3"}),
    "routers left out": changed("routers", None),
    "deadline": changed("progressDeadline", "2h"),
    "fewest pods": changed("workerGroups.0.minReplicas", 7),
    "most pods": changed("workerGroups.1.maxReplicas", 100),
    "another group": {**FULL, "workerGroups": [*FULL["workerGroups"], {"name": "more"}]},
    "another group before the others": {**FULL, "workerGroups": [{"name": "more"}, *FULL["workerGroups"]]},
    "groups in another order": changed("workerGroups", list(reversed(FULL["workerGroups"]))),
    "variables in another order": changed("env", list(reversed(FULL["env"]))),
    "pull secrets in another order": changed("imagePullSecrets", list(reversed(FULL["imagePullSecrets"]))),
    "tolerations": changed("workerGroups.1.template.spec.tolerations", []),
}

NEW_CLUSTER = {
    "spec.image": changed("image", "example.com/rayfleet-serving:2"),
    "spec.rayVersion": changed("rayVersion", "2.60.1"),
    "spec.imagePullPolicy": changed("imagePullPolicy", None),
    "spec.imagePullSecrets": changed("imagePullSecrets", ["registry"]),
    "spec.serviceAccountName": changed("serviceAccountName", None),
    "spec.env[ZONE].value": changed("env.0.value", "c"),
    "spec.env[ZONE]": changed("env", FULL["env"][1:]),
    "spec.envFrom": changed("envFrom", FULL["envFrom"][:1]),
    "spec.head.cpu": changed("head.cpu", "2"),
    "spec.head.memory": changed("head.memory", "9Gi"),
    "spec.head.gcsFaultTolerance": changed("head.gcsFaultTolerance", None),
    "spec.head.template.spec.priorityClassName": changed("head.template.spec.priorityClassName", "low"),
    "spec.workerGroups[cpu].cpu": changed("workerGroups.0.cpu", "3"),
    "spec.workerGroups[cpu].gpu": changed("workerGroups.0.gpu", 1),
    "spec.workerGroups[cpu].maxReplicas": changed("workerGroups.0.maxReplicas", 5),
    "spec.workerGroups[gpu-a10]": changed("workerGroups", FULL["workerGroups"][:1]),
    "spec.workerGroups[gpu-a10].template.spec.runtimeClassName": changed(
        "workerGroups.1.template.spec.runtimeClassName", None
    ),
    "spec.workerGroups[gpu-a10].template.spec.containers[sidecar].image": changed(
        "workerGroups.1.template.spec.containers.1.image", "example.com/logs:2"
    ),
    "spec.modelCache.sizeLimit": changed("modelCache", {"sizeLimit": "1Gi"}),
}
ALREADY_ELASTIC = "spec.workerGroups[cpu].maxReplicas"
"""One group has the autoscaler already, so that another one has it, too, is made in place."""


@pytest.mark.parametrize("case", IN_PLACE)
def test_what_is_made_in_place_takes_nothing_and_nothing_is_to_blame(case: str) -> None:
    after = IN_PLACE[case]
    assert in_place(BEFORE, render(asked(after, "")))
    assert blame(after) == ()


@pytest.mark.parametrize("field", NEW_CLUSTER.keys() - {ALREADY_ELASTIC})
def test_what_needs_a_new_cluster_is_to_blame_by_its_name(field: str) -> None:
    after = NEW_CLUSTER[field]
    assert not in_place(BEFORE, render(asked(after, "")))
    # A group that goes is one change, of whatever it holds.
    assert blame(after) == (field,)


def test_a_group_may_grow_where_there_is_an_autoscaler_and_else_brings_it() -> None:
    assert blame(NEW_CLUSTER[ALREADY_ELASTIC]) == ()
    fixed = {**SMALL, "workerGroups": [{"name": "cpu", "minReplicas": 1}]}
    grows = {**SMALL, "workerGroups": [{"name": "cpu", "minReplicas": 1, "maxReplicas": 4}]}
    assert blamed(asked(fixed, ""), asked(grows, ""), render) == ("spec.workerGroups[cpu].maxReplicas",)


def test_the_restart_annotation_is_to_blame_where_it_alone_changes() -> None:
    assert blame(FULL, "2026-01-01") == ('metadata.annotations["rayfleet.io/restart"]',)


def test_of_several_changes_only_those_that_need_it_are_to_blame() -> None:
    after = copy.deepcopy(FULL)
    after |= {"image": "example.com/rayfleet-serving:2", "routers": {"replicas": 5}}
    after["workerGroups"][0] |= {"minReplicas": 5, "memory": "7Gi"}
    after["workerGroups"].append({"name": "more"})
    assert blame(after) == ("spec.image", "spec.workerGroups[cpu].memory")


def test_what_cannot_stand_alone_is_to_blame_where_nothing_else_is() -> None:
    """From 2 to 4 pods, to 6 always: neither number goes with the other one of before, and the autoscaler goes."""
    group = {"name": "cpu", "minReplicas": 2, "maxReplicas": 4}
    before, after = ({**SMALL, "workerGroups": [each]} for each in (group, {"name": "cpu", "minReplicas": 6}))
    assert blamed(asked(before, ""), asked(after, ""), render) == ("spec.workerGroups[cpu].maxReplicas",)
    after = {**SMALL, "workerGroups": [{"name": "cpu", "minReplicas": 6, "maxReplicas": 6}]}
    assert blamed(asked(before, ""), asked(after, ""), render) == ("spec.workerGroups[cpu].minReplicas",)


def test_of_more_changes_than_can_be_tried_the_fields_are_named() -> None:
    labels = {f"l{number}": "x" for number in range(64)}
    template = {"metadata": {"labels": labels}}
    other = {"metadata": {"labels": dict.fromkeys(labels, "y")}}
    before, after = (
        {**SMALL, "image": image, "head": {"template": each}} for image, each in (("a", template), ("b", other))
    )
    assert blamed(asked(before, ""), asked(after, ""), render) == ("spec.image", "spec.head")


def test_what_a_second_cluster_takes() -> None:
    found = beside(BEFORE, ("spec.image",))
    assert str(found) == (
        "spec.image changes: a new Ray cluster of 4 pods (9.6 CPUs, 79.5 GiB, 2 GPUs), up to 11 pods (37.6 CPUs, "
        "527.5 GiB, 16 GPUs) is built beside the old one, and takes over when it answers"
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ((), "what the pods are made of changes"),
        (("a",), "a changes"),
        (("a", "b"), "a, b change"),
        (("a", "b", "c", "d", "e"), "a, b, c and 2 more change"),
    ],
)
def test_what_is_to_blame_in_words(fields: tuple[str, ...], told: str) -> None:
    found: Upgrade = beside(BEFORE, fields)
    assert found.why == told


ODD: list[Json] = [
    {},
    {"headGroupSpec": None, "workerGroupSpecs": None},
    {**BEFORE, "workerGroupSpecs": [None]},
    {**BEFORE, "workerGroupSpecs": [{"groupName": "a", "template": {"spec": []}}]},
    {**BEFORE, "headGroupSpec": {"template": {"spec": {"containers": {"ray-head": {}}}}}},
    {**BEFORE, "headGroupSpec": []},
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_what_somebody_wrote_into_a_live_cluster_makes_nothing_fail(odd: Json) -> None:
    assert not in_place(odd, BEFORE)
    assert not upgrade.unnoticed(odd, BEFORE)
    assert not in_place(BEFORE, odd)
    str(beside(odd, ()))
    assert isinstance(defaults(odd), dict)


def test_tolerations_are_not_noticed_until_the_next_cluster() -> None:
    other = render(asked(IN_PLACE["tolerations"], ""))
    assert upgrade.unnoticed(BEFORE, other)
    for case in IN_PLACE.keys() - {"tolerations"}:
        assert not upgrade.unnoticed(BEFORE, render(asked(IN_PLACE[case], ""))), case


def test_what_a_cluster_tells_of_the_defaults_renders_to_the_same_pods() -> None:
    """Of what a small fleet's pods have, all; of templates only what a worker may use."""
    cluster = cluster_spec(NAME, spec(SMALL))
    again = cluster_spec(NAME, ModelFleetSpec.model_validate(defaults(cluster)))
    assert in_place(cluster, again)
