"""When a new Ray cluster is told of: one pass before it is asked for, and until KubeRay has begun to build it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from render.specs import FULL, NAME, OWNERS, spec

from rayfleet_operator.plan.switch import Clusters, ObservedCluster
from rayfleet_operator.reconcile.announcement import Said, announcement
from rayfleet_operator.reconcile.change import Change
from rayfleet_operator.reconcile.known import Known
from rayfleet_operator.reconcile.observe import Children
from rayfleet_operator.reconcile.wanted import Wanted
from rayfleet_operator.render import objects, revision, upgrade
from rayfleet_operator.render.raycluster import cluster_spec

Json = dict[str, Any]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OTHER = {**FULL, "image": "example.com/rayfleet-serving:2"}
THIRD = {**FULL, "image": "example.com/rayfleet-serving:3"}


def inputs(written: Json) -> str:
    return revision.inputs_digest(written, "")


def kept(written: Json, number: int = 1) -> Json:
    return objects.revision(
        NAME,
        OWNERS,
        inputs=inputs(written),
        cluster=cluster_spec(NAME, spec(written)),
        number=number,
        asked=upgrade.asked(written, ""),
    )


def ray_service(written: Json, *, generation: int = 1, observed: int | None = None) -> Json:
    found = objects.rayservice(
        NAME,
        OWNERS,
        cluster=cluster_spec(NAME, spec(written)),
        serve_config=b"",
        inputs=inputs(written),
        environment="",
        longest_request_s=1,
    )
    found["metadata"]["generation"] = generation
    return found | ({"status": {"observedGeneration": observed}} if observed is not None else {})


def ray_cluster(written: Json) -> Json:
    annotations = {"rayfleet.io/inputs": inputs(written)}
    return {"metadata": {"name": "x", "annotations": annotations}, "spec": cluster_spec(NAME, spec(written))}


def change(
    wanted: Json, live: Json | None, clusters: dict[str, Json], revisions: list[Json] | None = None, **more: Any
) -> Change:
    fleet = {"metadata": {"name": "vision", "namespace": "ml", "uid": "0a1b"}, "spec": wanted}
    return Change(
        asked=Wanted(name=NAME, fleet=fleet, models={}, strangers={}, own=None, elsewhere=None),
        spec=spec(wanted),
        found=Children(
            ray_service=live,
            clash=None,
            service=None,
            ray_clusters=clusters,
            pods=[],
            auth_secret=None,
            credentials_secret=None,
            network_policy=None,
            revisions=[kept(FULL)] if revisions is None else revisions,
        ),
        known=Known(access={}, files={}, versions={}, asking=False),
        config={},
        longest_request_s=1,
        token="t",
        made_with="k",
        inputs=inputs(wanted),
        kept=None,
        gpu_sharing="TimeSlicing",
        **{"held": False, "announced": False, "network_policy": True, "dashboard_clients": (), **more},
    )


def clusters(*names: str, active: str | None = None, pending: str | None = None) -> Clusters:
    found = {name: ObservedCluster(name=name, created=NOW) for name in names}
    return Clusters(by_name=found, followed=active, active=active, pending=pending, reached=True)


A = {"a": ray_cluster(FULL)}
ONE = clusters("a", active="a")
TAKES = "a new Ray cluster of 4 pods (9.6 CPUs, 79.5 GiB, 2 GPUs), up to 11 pods"


def test_it_is_told_in_one_pass_and_asked_for_in_the_next() -> None:
    first, said = announcement(change(OTHER, ray_service(FULL), A), ONE, {}, Said())
    assert first is not None
    assert first.first
    assert first.text.startswith(f"spec.image changes: {TAKES}")
    second, said = announcement(change(OTHER, ray_service(FULL), A), ONE, {}, said)
    assert second is not None
    assert (second.text, second.first) == (first.text, False)
    # Written by now, and KubeRay has not looked yet; then it has, and has begun to build.
    live = ray_service(OTHER, generation=2, observed=1)
    third, said = announcement(change(OTHER, live, A, [kept(FULL), kept(OTHER, 2)]), ONE, {}, said)
    assert third is not None
    assert (third.text, third.first) == (first.text, False)
    live = ray_service(OTHER, generation=2, observed=2)
    both = {**A, "b": ray_cluster(OTHER)}
    found = change(OTHER, live, both, [kept(FULL), kept(OTHER, 2)])
    assert announcement(found, clusters("a", "b", active="a", pending="b"), {}, said) == (None, Said())


def test_after_another_change_it_is_told_anew() -> None:
    _, said = announcement(change(OTHER, ray_service(FULL), A), ONE, {}, Said())
    _, said = announcement(change(OTHER, ray_service(FULL), A), ONE, {}, said)
    _, said = announcement(change(FULL, ray_service(FULL), A), ONE, {}, said)
    assert said == Said(), "taken back before it was taken"
    again, _ = announcement(change(OTHER, ray_service(FULL), A), ONE, {}, said)
    assert again is not None
    assert again.first


def test_one_that_is_not_taken_is_told_of_once() -> None:
    said, firsts = Said(), []
    for _ in range(4):
        found, said = announcement(change(OTHER, ray_service(FULL), A), ONE, {}, said)
        firsts.append(found is not None and found.first)
    assert firsts == [True, False, False, False]


def test_never_two_passes_in_a_row_whatever_comes_between() -> None:
    _, said = announcement(change(OTHER, ray_service(FULL), A), ONE, {}, Said())
    second, said = announcement(change(THIRD, ray_service(FULL), A), ONE, {}, said)
    assert second is not None
    assert not second.first


@pytest.mark.parametrize(
    "found",
    [
        change(FULL, ray_service(FULL), A),
        change({**FULL, "routers": {"replicas": 5}}, ray_service(FULL), A),
        change({**FULL, "workerGroups": [*FULL["workerGroups"], {"name": "more"}]}, ray_service(FULL), A),
        change(OTHER, None, {}),
        change(OTHER, ray_service(FULL), {}),
        change(OTHER, ray_service(FULL), A, held=True),
        change(OTHER, ray_service(OTHER), A, [kept(FULL), kept(OTHER, 2)]),
    ],
    ids=[
        "nothing",
        "routers",
        "another group",
        "no RayService",
        "no cluster",
        "it waits for the first",
        "KubeRay does not say what it saw",
    ],
)
def test_nothing_is_told_where_no_cluster_is_built_beside_another(found: Change) -> None:
    assert announcement(found, ONE, {}, Said())[0] is None


def test_going_back_while_a_new_one_is_built_is_told_since_kuberay_builds_a_third() -> None:
    both = {**A, "b": ray_cluster(OTHER)}
    found = change(FULL, ray_service(OTHER), both, [kept(FULL), kept(OTHER, 2)])
    two = clusters("a", "b", active="a", pending="b")
    first, said = announcement(found, two, {}, Said())
    assert first is not None
    assert first.first
    assert first.text.startswith("spec.image changes")
    assert announcement(found, two, {}, said)[0] is None, "the one that is built is told of"


def test_a_revision_of_an_older_release_names_no_field() -> None:
    old = kept(FULL)
    del old["data"]["asked"]
    found, _ = announcement(change(OTHER, ray_service(FULL), A, [old]), ONE, {}, Said())
    assert found is not None
    assert found.text.startswith(f"what the pods are made of changes: {TAKES}")
    for odd in (None, 3, {}, {"spec": 3}, {"spec": {}, "metadata": None}, {"spec": {"x": 1}, "metadata": {}}):
        old["data"]["asked"] = odd
        found, _ = announcement(change(OTHER, ray_service(FULL), A, [old]), ONE, {}, Said())
        assert found is not None


def test_a_lost_revision_is_read_from_the_cluster_itself() -> None:
    found, _ = announcement(change(OTHER, ray_service(FULL), A, []), ONE, {}, Said())
    assert found is not None
    assert found.text.startswith(f"what the pods are made of changes: {TAKES}")
    with_more = replace(
        change(OTHER, ray_service(FULL), A, []), known=Known(access={}, files={}, versions={}, asking=True)
    )
    assert announcement(with_more, ONE, {}, Said())[0] is not None
