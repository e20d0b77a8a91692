"""A person's pod template laid over ours."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.render.template import merge

OURS: dict[str, Any] = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "containers": [
            {
                "name": "ray-worker",
                "image": "i:1",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"name": "metrics", "containerPort": 8080}],
                "resources": {"limits": {"cpu": "2", "memory": "4Gi"}, "requests": {"cpu": "2", "memory": "4Gi"}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "c", "mountPath": "/c"}],
                "securityContext": {"readOnlyRootFilesystem": True},
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "c", "persistentVolumeClaim": {"claimName": "x"}}],
        "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname"}],
        "enableServiceLinks": False,
    },
}


def merged(pod: Any) -> Any:
    return merge(OURS, {"spec": pod})["spec"]


def inside(fields: Any) -> Any:
    return merged({"containers": [{"name": "ray-worker", **fields}]})["containers"][0]


def test_nothing_changes_nothing() -> None:
    assert merge(OURS, {}) == OURS
    assert merge(OURS, {"spec": {"containers": [{"name": "ray-worker"}]}, "metadata": {}}) == OURS


def test_maps_are_merged() -> None:
    found = inside({"resources": {"requests": {"cpu": "1"}}})
    assert found["resources"] == {
        "limits": {"cpu": "2", "memory": "4Gi"},
        "requests": {"cpu": "1", "memory": "4Gi"},
    }
    assert merge(OURS, {"metadata": {"labels": {"b": "2"}}})["metadata"]["labels"] == {"a": "1", "b": "2"}


def test_named_items_are_changed_in_their_places_and_new_ones_come_last() -> None:
    found = inside({"env": [{"name": "Z", "value": "9"}, {"name": "A", "value": "3"}]})
    assert found["env"] == [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}, {"name": "Z", "value": "9"}]
    names = [each["name"] for each in merged({"containers": [{"name": "side", "image": "s"}]})["containers"]]
    assert names == ["ray-worker", "side"]


def test_a_variable_and_a_volume_have_one_source() -> None:
    source = {"secretKeyRef": {"name": "s", "key": "k"}}
    assert inside({"env": [{"name": "A", "valueFrom": source}]})["env"][0] == {"name": "A", "valueFrom": source}
    assert merged({"volumes": [{"name": "c", "emptyDir": {}}]})["volumes"][1] == {"name": "c", "emptyDir": {}}


def test_mounts_are_told_apart_by_their_path_and_ports_by_number_and_protocol() -> None:
    found = inside({"volumeMounts": [{"name": "big", "mountPath": "/tmp"}, {"name": "tmp", "mountPath": "/var"}]})
    assert [(each["name"], each["mountPath"]) for each in found["volumeMounts"]] == [
        ("big", "/tmp"),
        ("c", "/c"),
        ("tmp", "/var"),
    ]
    found = inside({"ports": [{"containerPort": 8080, "name": "m"}, {"containerPort": 8080, "protocol": "UDP"}]})
    assert found["ports"] == [{"name": "m", "containerPort": 8080}, {"containerPort": 8080, "protocol": "UDP"}]


def test_other_lists_are_replaced() -> None:
    assert merged({"topologySpreadConstraints": []})["topologySpreadConstraints"] == []
    tolerations = [{"key": "a"}, {"key": "a"}]
    assert merged({"tolerations": tolerations})["tolerations"] == tolerations
    assert inside({"command": ["a", "a"]})["command"] == ["a", "a"]


def test_null_removes() -> None:
    assert "securityContext" not in inside({"securityContext": None})
    assert inside({"securityContext": {"readOnlyRootFilesystem": None}})["securityContext"] == {}
    assert "affinity" not in merged({"affinity": None}), "also what was not there"
    assert merged({"affinity": {"nodeAffinity": None, "podAffinity": {}}})["affinity"] == {"podAffinity": {}}
    assert merged({"tolerations": [{"key": "a", "value": None}]})["tolerations"] == [{"key": "a"}]


HOSTILE: dict[str, Any] = {
    "scalars": {"env": ["A", "B"]},
    "mixed": {"env": [{"name": "A"}, 3, None]},
    "a name that is a list": {"env": [{"name": ["A"]}]},
    "a name that is a map": {"env": [{"name": {"A": 1}}]},
    "no name": {"env": [{"value": "1"}]},
    "twice": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
    "a map for a list": {"env": {"A": "1"}},
    "text for a list": {"env": "A=1"},
    "a list for a map": {"resources": []},
    "a number for a map": {"securityContext": 3},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_does_not_fit_is_left_to_the_api_server(case: str) -> None:
    field, value = next(iter(HOSTILE[case].items()))
    found = inside(HOSTILE[case])
    assert found[field] == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "env", "spec", "containers", "ports", "volumes", "mountPath", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


def nulls(value: Any) -> bool:
    if isinstance(value, dict):
        return any(each is None or nulls(each) for each in value.values())
    return any(nulls(each) for each in value) if isinstance(value, list) else False


@settings(max_examples=300, deadline=None)
@given(JSON, JSON)
def test_no_template_breaks_a_rendering(ours: Any, theirs: Any) -> None:
    before = copy.deepcopy((ours, theirs))
    found = merge(ours, theirs)
    assert (ours, theirs) == before, "neither is touched"
    assert json.dumps(merge(ours, theirs), sort_keys=True) == json.dumps(found, sort_keys=True)
    if isinstance(theirs, dict):
        assert not nulls(found)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["containers", "volumes", "x"]), JSON, max_size=3))
def test_laid_over_twice_is_laid_over_once(theirs: Any) -> None:
    once = merge(OURS, {"spec": theirs})
    assert merge(once, {"spec": theirs}) == once
