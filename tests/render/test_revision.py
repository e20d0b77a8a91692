"""Which rendered cluster a fleet has: kept as long as what people wrote stays the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.render import objects, revision
from rayfleet_operator.render.raycluster import cluster_spec

from .specs import FULL, KINDS, NAME, OWNERS, SMALL, spec

BASE = revision.inputs_digest(FULL, "")


def changed(field: str, value: Any) -> dict[str, Any]:
    """A path with dots; None takes the field away."""
    found: dict[str, Any] = copy.deepcopy(FULL)
    *parents, last = field.split(".")
    at: Any = found
    for each in parents:
        at = at[int(each)] if each.isdigit() else at[each]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return found


SAME = [
    changed("routers", {"replicas": 9, "cpu": "3"}),
    changed("routers", None),
    changed("progressDeadline", "2h"),
    changed("gpuSharing", "MPS"),
    changed("workerGroups.1.gpuMemory", "24Gi"),
    changed("workerGroups.0.minReplicas", 7),
    changed("workerGroups.1.maxReplicas", 100),
    changed("workerGroups.0.maxReplicas", 5),
    changed("workerGroups", list(reversed(FULL["workerGroups"]))),
    changed("env", list(reversed(FULL["env"]))),
    changed("imagePullSecrets", list(reversed(FULL["imagePullSecrets"]))),
    changed("head.gcsFaultTolerance.passwordSecret", {"name": "redis", "key": "password"}),
]
OTHER = [
    changed("image", "example.com/rayfleet-serving:2"),
    changed("rayVersion", "2.60.1"),
    changed("imagePullPolicy", None),
    changed("serviceAccountName", None),
    changed("env", FULL["env"][:1]),
    changed("envFrom", list(reversed(FULL["envFrom"]))),
    changed("head.cpu", "2"),
    changed("head.gcsFaultTolerance", None),
    changed("head.template", {"spec": {}}),
    changed("workerGroups.0.name", "other"),
    changed("workerGroups.0.cpu", "3"),
    changed("workerGroups.0.gpu", 1),
    changed("workerGroups.1.template.spec.tolerations", []),
    changed("workerGroups", FULL["workerGroups"][:1]),
    changed("workerGroups.1.maxReplicas", 1),
    changed("modelCache", {"claimName": "shared"}),
]


@pytest.mark.parametrize("written", SAME, ids=range(len(SAME)))
def test_what_no_pod_sees_is_the_same(written: dict[str, Any]) -> None:
    assert revision.inputs_digest(written, "") == BASE


def test_everything_else_is_another() -> None:
    digests = [BASE, *(revision.inputs_digest(written, "") for written in OTHER), revision.inputs_digest(FULL, "now")]
    assert len(set(digests)) == len(digests)


def test_a_default_that_the_api_server_writes_is_as_if_nothing_was_written() -> None:
    plain = {"workerGroups": [{"name": "a"}]}
    filled = {"workerGroups": [{"name": "a", "minReplicas": 1, "cpu": "2", "memory": "4Gi"}]}
    assert revision.inputs_digest(plain, "") == revision.inputs_digest(filled, "")
    empty = {"head": {}, "modelCache": {}, "env": [], "envFrom": [], "imagePullSecrets": [], "workerGroups": []}
    assert revision.inputs_digest({}, "") == revision.inputs_digest(empty, "")
    assert revision.inputs_digest({}, "") == revision.inputs_digest({"head": {"template": {}}}, "")


@pytest.mark.parametrize("field", ["cpu", "memory"])
def test_a_size_of_the_head_that_is_written_counts_whatever_is_the_default(field: str) -> None:
    """The administrator's default may be another, and a pod has that then."""
    built_in = getattr(spec({}).head, field)
    assert revision.inputs_digest({"head": {field: built_in}}, "") != revision.inputs_digest({}, "")


def test_digests_stay_what_they_are() -> None:
    """Another digest of the same spec makes the next release render every cluster anew."""
    assert revision.inputs_digest({}, "") == "6ab8b5a658"
    assert revision.inputs_digest(SMALL, "") == "01821e6c7f"
    assert BASE == "478132be3b"
    assert revision.inputs_digest(KINDS, "") == "75fb135de7"


def kept(inputs: str, number: int, cluster: dict[str, Any] | None = None) -> dict[str, Any]:
    return objects.revision(NAME, OWNERS, inputs=inputs, cluster=cluster or {}, number=number)


def test_the_revision_of_these_inputs_is_found_and_the_newest_of_all() -> None:
    found = [kept("a", 1), kept("b", 3), kept("c", 2)]
    assert revision.kept(found, "c") == found[2]
    assert revision.kept(found, "x") is None
    assert revision.newest(found) == found[1]
    assert revision.newest([]) is None


def test_after_a_change_is_taken_back_the_live_revision_is_not_the_newest() -> None:
    found = [kept("a", 1), kept("b", 2)]
    live = {"metadata": {"annotations": {"rayfleet.io/inputs": "a"}}}
    assert revision.current(found, live) == found[0]
    assert revision.current(found, None) == found[1]
    assert revision.current(found, {"metadata": {}}) == found[1]
    assert revision.current(found, {"metadata": {"annotations": {"rayfleet.io/inputs": "x"}}}) == found[1]


def test_a_deleted_revision_is_read_back_from_the_rayservice() -> None:
    cluster = cluster_spec(NAME, spec(SMALL))
    live = objects.rayservice(
        NAME, OWNERS, cluster=cluster, serve_config=b"", inputs="a", environment="", longest_request_s=1
    )
    assert revision.rendered([], live, "a") == cluster
    assert revision.rendered([], live, "b") is None
    other = kept("b", 1, {"rayVersion": "2.52.0"})
    assert revision.rendered([other], live, "a") == cluster
    assert revision.rendered([other], live, "b") == {"rayVersion": "2.52.0"}
    assert revision.rendered([other], None, "b") is None, "nothing runs that was made of it"


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(8)), st.sets(st.integers(0, 7), min_size=1, max_size=3))
def test_few_revisions_are_kept_those_in_use_among_them(numbers: list[int], used: set[int]) -> None:
    found = [kept(f"i{number}", number) for number in numbers]
    gone = {each["revision"] for each in revision.surplus(found, {f"i{number}" for number in used})}
    left = set(range(8)) - gone
    assert left == used | set(sorted(set(range(8)) - used)[-(revision.KEPT - 1) :])
