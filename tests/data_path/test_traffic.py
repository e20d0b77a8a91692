"""Which live version a request goes to. The versions are stand-ins: real ones hold a handle of Serve."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rayfleet_serving.config import VERSION_HEADER, ModelRoute, RolloutMark, Sticky, VersionRoute, Wanted
from rayfleet_serving.metrics import RouterMetrics
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.router.traffic import LiveModel, Traffic


def a_model(*versions: tuple[str, str, int, bool, bool]) -> LiveModel:
    """Of versions as (application, label, weight, ready, leaving)."""
    rows = [
        VersionRoute(app=app, version=label, model_id="m", weight=weight, leaving=leaving)
        for app, label, weight, _, leaving in versions
    ]
    live: list[Any] = [SimpleNamespace(route=row, ready=given[3]) for row, given in zip(rows, versions, strict=True)]
    return LiveModel("digits", ModelRoute(versions=rows), live)


@pytest.mark.parametrize("old_first", [True, False])
def test_of_two_applications_with_one_version_the_one_with_the_requests_is_meant(old_first: bool) -> None:
    old, new = ("digits-a", "3", 100, True, False), ("digits-b", "3", 0, False, False)
    model = a_model(old, new) if old_first else a_model(new, old)
    assert model.version("3").route.app == "digits-a"


def test_a_version_without_weight_can_be_asked_for() -> None:
    model = a_model(("digits-a", "1", 100, True, False), ("digits-b", "2", 0, True, False))
    assert model.version("2").route.app == "digits-b"


def test_a_version_on_its_way_out_can_not() -> None:
    model = a_model(("digits-a", "1", 0, True, True), ("digits-b", "2", 100, True, False))
    with pytest.raises(RequestError, match="no live version '1'; live: 2") as refused:
        model.version("1")
    assert refused.value.status == 404


def named(
    *versions: tuple[str, str, str, int, int], rollout: RolloutMark | None = None, model: str = "digits", down: str = ""
) -> LiveModel:
    """Of versions as (application, label, name, weight, mirror); callers are told apart by a header. a and b are the
    first and the second place; nothing of the application `down` is there."""
    rows = [
        VersionRoute(
            app=app, version=label, model_id="m", name=name, place="ab".find(name), weight=weight, mirror=mirror
        )
        if name in ("a", "b")
        else VersionRoute(app=app, version=label, model_id="m", name=name, weight=weight, mirror=mirror)
        for app, label, name, weight, mirror in versions
    ]
    live: list[Any] = [SimpleNamespace(route=row, ready=row.app not in down) for row in rows]
    return LiveModel(model, ModelRoute(versions=rows, sticky=Sticky(header="x-user"), rollout=rollout), live)


@pytest.mark.parametrize(("label", "app"), [("shadow", "digits-b"), ("2", "digits-c"), ("7", "digits-b")])
def test_a_version_is_found_by_its_name_first_and_by_its_label(label: str, app: str) -> None:
    model = named(
        ("digits-a", "1", "", 100, 0),
        ("digits-b", "7", "shadow", 0, 50),
        ("digits-c", "9", "2", 0, 0),
        ("digits-d", "2", "", 0, 0),
    )
    assert model.version(label).route.app == app
    assert model.choose({VERSION_HEADER.encode(): label.encode()}).route.app == app


def test_no_name_names_no_version() -> None:
    model = named(("digits-a", "1", "", 100, 0), ("digits-b", "7", "shadow", 0, 50))
    with pytest.raises(RequestError, match=r"no live version ''; live: 1, 7 \(shadow\)\."):
        model.version("")


def callers(model: LiveModel) -> dict[str, set[int]]:
    """A thousand callers by the application that answers them."""
    found: dict[str, set[int]] = {version.route.app: set() for version in model.versions}
    for who in range(1000):
        found[model.choose({b"x-user": str(who).encode()}).route.app].add(who)
    return found


def test_whoever_has_a_named_version_keeps_it_while_its_weight_grows() -> None:
    before: set[int] = set()
    for weight in (5, 20, 60):
        # Sorted by application, the other one would come first.
        now = callers(named(("digits-a", "1", "", 100 - weight, 0), ("digits-b", "2", "new", weight, 0)))["digits-b"]
        assert before < now
        before = now


@pytest.mark.parametrize("grows", ["a", "b"])
def test_of_two_named_versions_one_changes_and_the_other_keeps_its_callers(grows: str) -> None:
    """Also where one has failed, and gives up its share for a while."""
    apps = {"a": "digits-b", "b": "digits-a"}
    other = {"a": "b", "b": "a"}[grows]
    kept, before = None, set[int]()
    for weight in (0, 5, 20, 60):
        shares = {grows: weight, other: 20}
        rows = [(apps[name], "1", name, share, 0) for name, share in shares.items()]
        now = callers(named(("digits-c", "3", "", 80 - weight, 0), *rows))
        assert before <= now[apps[grows]]
        assert kept in (None, now[apps[other]])
        before, kept = now[apps[grows]], now[apps[other]]
    assert len(before) > 500


@pytest.mark.parametrize("who", [{}, {b"x-user": b"somebody"}])
def test_what_a_named_version_cannot_answer_here_the_models_own_does(who: dict[bytes, bytes]) -> None:
    model = named(("digits-a", "1", "", 1, 0), ("digits-b", "2", "b", 99, 0), down="digits-b")
    assert {model.choose(who).route.app for _ in range(200)} == {"digits-a"}
    assert model.choose({VERSION_HEADER.encode(): b"b"}).route.app == "digits-b", "whoever names it means it"


def test_a_version_has_every_name_that_means_it() -> None:
    rows = [
        VersionRoute(app="digits-a", version="1", model_id="m", weight=100, other_names=["new", "b"]),
        VersionRoute(app="digits-b", version="2", model_id="m", weight=0, name="c"),
    ]
    model = LiveModel("digits", ModelRoute(versions=rows), [SimpleNamespace(route=row, ready=True) for row in rows])  # type: ignore[misc]
    assert [model.version(name).route.app for name in ("new", "b", "c")] == ["digits-a", "digits-a", "digits-b"]
    with pytest.raises(RequestError, match=r"live: 1 \(new, b\), 2 \(c\)\."):
        model.version("d")


def test_the_same_callers_do_not_come_first_in_each_model() -> None:
    one, other = (
        callers(named(("digits-a", "1", "", 50, 0), ("digits-b", "2", "b", 50, 0), model=model))["digits-b"]
        for model in ("digits", "faces")
    )
    assert 150 < len(one & other) < 350


def test_the_same_callers_do_not_come_first_with_each_candidate() -> None:
    """Of one model, whose stable version is the same one."""
    first = []
    for candidate in ("digits-b", "digits-c"):
        mark = RolloutMark(stable="digits-a", candidate=candidate, began="2026-01-01T00:00:00Z", stage=0)
        first.append(callers(named(("digits-a", "1", "", 50, 0), (candidate, "2", "", 50, 0), rollout=mark))[candidate])
    one, other = first
    assert 150 < len(one & other) < 350


@pytest.mark.parametrize("share", [0, 10, 50])
def test_a_rollout_of_the_other_version_leaves_the_callers_of_a_named_one(share: int) -> None:
    mark = RolloutMark(stable="digits-b", candidate="digits-a", began="2026-01-01T00:00:00Z", stage=0)
    candidate, stable, named_one = ("digits-a", "2"), ("digits-b", "1"), ("digits-c", "7", "beta", 20, 0)
    during = named((*candidate, "", share, 0), (*stable, "", 80 - share, 0), named_one, rollout=mark)
    without = named((*stable, "", 80, 0), named_one)
    assert callers(during)["digits-c"] == callers(without)["digits-c"]


def test_whoever_has_the_candidate_beside_a_named_version_keeps_it() -> None:
    mark = RolloutMark(stable="digits-a", candidate="digits-b", began="2026-01-01T00:00:00Z", stage=0)
    before: set[int] = set()
    for share in (5, 20, 60):
        versions = ("digits-a", "1", "", 80 - share, 0), ("digits-b", "2", "", share, 0), ("digits-c", "7", "z", 20, 0)
        now = callers(named(*versions, rollout=mark))["digits-b"]
        assert before < now
        before = now


def measured(metrics: RouterMetrics, *apps: tuple[int, int | None, float]) -> dict[str, float]:
    """Gauges by name and state, where a version's applications are as (running, wanted, share let in)."""
    traffic = Traffic("r", metrics)
    row = VersionRoute(app="digits-a", version="3", model_id="m", weight=100)
    for number, (running, wanted, ratio) in enumerate(apps):
        live: Any = SimpleNamespace(
            model="digits",
            route=row,
            metrics=metrics.of("digits", "3"),
            running=running,
            wanted=Wanted(replicas=wanted, reason="why") if wanted is not None else None,
            restraint=SimpleNamespace(ratio=ratio),
        )
        traffic._versions[f"digits-{number}"] = live
    traffic.measure()
    gauges = ("rayfleet_replicas", "rayfleet_admitted_ratio")
    samples = [each for family in metrics.registry.collect() if family.name in gauges for each in family.samples]
    return {each.labels.get("state", "admitted"): each.value for each in samples}


@pytest.mark.parametrize("late", [None, 2])
def test_gauges_are_of_all_applications_of_a_version(late: int | None) -> None:
    """After an edit of its spec there are two for a while, and the new one is the last to be told what is needed."""
    seen = measured(RouterMetrics("r"), (3, 4, 0.5), (1, late, 1.0))
    assert seen == {"running": 4.0, "wanted": 4.0 + (late or 0), "admitted": 0.5}


def test_gauges_say_nothing_that_nobody_says_and_nothing_of_what_is_gone() -> None:
    metrics = RouterMetrics("r")
    assert measured(metrics, (3, 4, 1.0)) == {"running": 3.0, "wanted": 4.0, "admitted": 1.0}
    assert measured(metrics, (2, None, 1.0)) == {"running": 2.0, "admitted": 1.0}
    measured(metrics, (3, 4, 1.0))
    metrics.forget("digits", "3")
    assert measured(metrics) == {}
