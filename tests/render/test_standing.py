"""What stays of a cluster that is there, and what KubeRay makes of a change."""

from __future__ import annotations

from typing import Any

import pytest

from rayfleet_operator.plan.room import Worker, steady
from rayfleet_operator.render.raycluster import cluster_spec, resized
from rayfleet_operator.render.standing import in_place, meant

from .specs import FULL, KINDS, NAME, SMALL, spec


def test_a_fleet_that_exists_is_as_it_was_rendered_whatever_the_defaults_are_today() -> None:
    rendered = cluster_spec(NAME, spec(FULL))
    today = spec(SMALL, envFrom=[{"secretName": "other"}])
    then = meant(today, rendered, ())
    assert resized(rendered, then) == rendered
    assert [Worker.of(group) for group in then.worker_groups] == [
        Worker.of(group) for group in spec(FULL).worker_groups
    ]
    assert then.env_from == spec(FULL).env_from
    assert meant(today, rendered, ("workerGroups", "envFrom")) == today
    assert meant(today, {"workerGroupSpecs": [{"groupName": "cpu"}]}, ()) == today


def test_workers_of_every_kind_are_what_they_were_rendered_as() -> None:
    rendered = cluster_spec(NAME, spec(KINDS))
    then = meant(spec(KINDS), rendered, ())
    assert [Worker.of(group) for group in then.worker_groups] == [
        Worker.of(group) for group in spec(KINDS).worker_groups
    ]
    assert steady(then)
    alike = spec(KINDS, workerGroups=[{**group, "spot": False} for group in KINDS["workerGroups"]])
    assert steady(meant(alike, rendered, ())), "its workers offer what routers ask for"
    assert not steady(meant(spec(KINDS), cluster_spec(NAME, alike), ())), "and these do not"


def with_groups(*groups: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return cluster_spec(NAME, spec({**SMALL, "workerGroups": list(groups), **fields}))


A, B = {"name": "a"}, {"name": "b"}
TOLERANT = {"spec": {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}}
PICKY = {"spec": {"nodeSelector": {"pool": "gpu"}}}


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (with_groups(A), with_groups(A), True),
        (with_groups(A), with_groups({**A, "minReplicas": 7}), True),
        (with_groups(A), with_groups(A, B), True),
        (with_groups(A), with_groups({**A, "template": TOLERANT}), True),
        (with_groups(A), with_groups(A, head={"template": TOLERANT}), True),
        (with_groups(A), with_groups(B, A), False),
        (with_groups(A, B), with_groups(A), False),
        (with_groups(A), with_groups({**A, "cpu": "9"}), False),
        (with_groups(A), with_groups({**A, "maxReplicas": 9}), False),
        (with_groups({**A, "template": PICKY}), with_groups(A), False),
        (with_groups(A, head={"template": PICKY}), with_groups(A), False),
    ],
)
def test_which_changes_kuberay_makes_in_place(before: dict[str, Any], after: dict[str, Any], same: bool) -> None:
    assert in_place(before, after) == same
