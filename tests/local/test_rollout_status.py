"""`rayfleet rollout status`: what it shows, when it ends, and with which exit code."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rayfleet_operator.api.rollout import Rollout
from rayfleet_operator.api.status import ModelDeploymentStatus
from rayfleet_operator.cli import picture, rollouts, watching
from rayfleet_operator.cli.main import main
from rayfleet_operator.cli.picture import ASCII, SYMBOLS, Signs
from rayfleet_operator.cli.rollouts import Model
from rayfleet_operator.local.state import ShownModel, Slot, Status, Up
from rayfleet_operator.plan import strategy

NOW = datetime(2026, 3, 1, 12, 10, 48, tzinfo=UTC)
SPEC = {"strategy": "Canary", "steps": [{"weight": 10, "hold": "10m"}, {"weight": 50}]}
STAGES = strategy.stages(Rollout.model_validate(SPEC))
UNDER_WAY = {
    "stable": "digits-old",
    "candidate": "digits-new",
    "began": "2026-03-01T12:00:00Z",
    "stage": 0,
    "weight": 10,
    "since": "2026-03-01T12:10:00Z",
    "message": "stage 1 of 3, weight 10: until 2026-03-01T12:20:00Z",
    "analysis": "Inconclusive",
    "checks": [
        {"name": "errorRate", "outcome": "Pass", "message": "2 of 500 requests failed (0.4 %, at most 1% may)"},
        {"name": "latency.max", "outcome": "Inconclusive", "message": "p99 is 90 ms over 40 requests"},
    ],
    "counted": "2026-03-01T12:10:45Z",
}
HOLDING = ("True", "Holding", f"version 2, {UNDER_WAY['message']}")
SETTLED = ("False", "Settled", "version 2 has every request")


def status(
    progress: tuple[str, str, str] | None, degraded: str = "", share: int = 10, **rollout: Any
) -> ModelDeploymentStatus:
    """Of versions 1 and 2, the second with this share; without `rollout` none is under way."""
    told = {"Progressing": progress, "Degraded": ("True", degraded, "see\nthere") if degraded else None}
    return ModelDeploymentStatus.model_validate(
        {
            "observedGeneration": 3,
            "conditions": [
                {
                    "type": kind,
                    "status": each[0],
                    "reason": each[1],
                    "message": each[2],
                    "lastTransitionTime": "2026-03-01T12:00:00Z",
                }
                for kind, each in told.items()
                if each is not None
            ],
            "versions": [
                {"name": name, "app": f"digits-{app}", "weight": weight, "state": "Ready"}
                for name, app, weight in (("2", "new", share), ("1", "old", 100 - share))
                if weight
            ],
            "rollout": rollout or None,
        }
    )


def model(*arguments: Any, generation: int = 3, **rollout: Any) -> Model:
    return Model.of("digits", status(*arguments, **rollout), "", STAGES, generation)


def block(found: Model, signs: Signs = SYMBOLS, now: datetime = NOW) -> list[str]:
    return picture.block(found, now, signs)


def test_all_that_is_known_of_a_step() -> None:
    assert block(model(HOLDING, **UNDER_WAY)) == [
        "digits: Holding: version 2, stage 1 of 3, weight 10: until 2026-03-01T12:20:00Z",
        "  stable     version 1, 90 % of the requests, Ready",
        "  candidate  version 2, 10 % of the requests, Ready",
        "  steps      10% ● → 50% ○ → 100% ○",
        "  weights    held by every router since 2026-03-01T12:10:00Z",
        "  hold       over in 9 min 12 s",
        "  analysis   Inconclusive, counted until 2026-03-01T12:10:45Z",
        "             errorRate    Pass          2 of 500 requests failed (0.4 %, at most 1% may)",
        "             latency.max  Inconclusive  p99 is 90 ms over 40 requests",
    ]


def test_a_step_that_somebody_must_end_has_no_countdown_and_routers_may_lag() -> None:
    message = "stage 2 of 3, weight 50: it waits for somebody to promote it"
    later = {**UNDER_WAY, "stage": 1, "weight": 50, "checks": [], "analysis": "", "message": message}
    assert block(model(("True", "Paused", f"version 2, {message}"), "", 50, **later), ASCII) == [
        f"digits: Paused: version 2, {message}",
        "  stable     version 1, 50 % of the requests, Ready",
        "  candidate  version 2, 50 % of the requests, Ready",
        "  steps      10% [x] -> 50% [>] -> 100% [ ]",
        "  weights    held by every router since 2026-03-01T12:10:00Z",
    ]
    shifting = block(model(("True", "Shifting", "requests move"), "", 50, **{**later, "since": ""}))
    assert shifting[4:] == ["  weights    not yet held by every router", f"  waits      {message}"]
    silent = block(model(("True", "WaitingForRouters", "one is silent"), "", 50, **later))
    assert silent[4] == "  weights    not yet held by every router"


def test_what_was_given_up_keeps_the_numbers_that_decided() -> None:
    why = "9 of 60 requests failed (15 %, at most 1% may)"
    failed = {"name": "errorRate", "outcome": "Fail", "message": why}
    ended = {"ended": "AnalysisFailed", "message": why, "analysis": "Fail", "checks": [failed]}
    over = {**UNDER_WAY, **ended, "weight": 0}
    assert block(model(("False", "RolledBack", f"version 2 was given up: {why}"), "RolledBack", 0, **over)) == [
        f"digits: RolledBack: version 2 was given up: {why}",
        "  stable     version 1, 100 % of the requests, Ready",
        "  steps      10% ✖ → 50% ○ → 100% ○",
        "  analysis   Fail, counted until 2026-03-01T12:10:45Z",
        f"             errorRate  Fail          {why}",
    ]
    draining = block(model(("True", "RolledBack", "its last requests end"), "RolledBack", 0, **over))
    assert f"  given up   AnalysisFailed: {why}" in draining


def test_without_stages_there_are_versions_and_what_is_wrong() -> None:
    assert block(model(SETTLED, "VersionArchived", 100)) == [
        "digits: Settled: version 2 has every request",
        "  serves     version 2, 100 % of the requests, Ready",
        "  degraded   VersionArchived: see there",
    ]
    assert block(model(None, "", 100))[0] == "digits: nothing is known yet"


def test_versions_that_traffic_names_stand_beside_the_models_own() -> None:
    told = status(SETTLED, "", 100)
    named = {"name": "5", "app": "digits-5", "traffic": "challenger", "weight": 5, "mirror": 20, "state": "Ready"}
    versions = [each.model_dump(by_alias=True) for each in told.versions]
    told = ModelDeploymentStatus.model_validate({**told.model_dump(by_alias=True), "versions": [*versions, named]})
    assert block(Model.of("digits", told, "", STAGES))[1:] == [
        "  serves     version 2, 100 % of the requests, Ready",
        "  beside     version 5 (challenger), 5 % of the requests and a copy of 20 %, Ready",
    ]


@pytest.mark.parametrize(
    ("since_s", "text"),
    [(-1, "10 min 1 s"), (0.2, "10 min 0 s"), (570, "30 s"), (599.5, "1 s"), (700, "0 s")],
)
def test_the_countdown_is_of_the_clock_and_the_steps_hold(since_s: float, text: str) -> None:
    now = NOW.replace(second=0) + timedelta(seconds=since_s)
    assert block(model(HOLDING, **UNDER_WAY), now=now)[5] == f"  hold       over in {text}"


def test_long_times() -> None:
    assert picture.duration(timedelta(hours=26, minutes=3, seconds=9)) == "26 h 3 min"


@pytest.mark.parametrize(
    ("encoding", "signs"), [("utf-8", SYMBOLS), ("ascii", ASCII), ("latin-1", ASCII), (None, ASCII)]
)
def test_signs_that_the_output_cannot_write_are_written_in_ascii(encoding: str | None, signs: Signs) -> None:
    assert Signs.of(encoding) == signs


def test_where_lines_stay_one_says_what_changed_and_no_number_that_each_request_changes() -> None:
    said: list[str] = []
    show = watching.changes(lambda found: picture.line(found, SYMBOLS), said.append)
    other = [{**UNDER_WAY["checks"][0], "message": "3 of 600 requests failed"}, UNDER_WAY["checks"][1]]  # type: ignore[index]
    for checks in (UNDER_WAY["checks"], other):
        show(model(HOLDING, **{**UNDER_WAY, "checks": checks, "counted": "2026-03-01T12:10:55Z"}))
    show(model(SETTLED, "", 100))
    assert said == [
        "digits: Holding: version 2, stage 1 of 3, weight 10: until 2026-03-01T12:20:00Z; "
        "version 2 10 %, version 1 90 %; 10% ● → 50% ○ → 100% ○; "
        "analysis Inconclusive (errorRate Pass, latency.max Inconclusive)",
        "digits: Settled: version 2 has every request; version 2 100 %",
    ]


BACK = "m-2/2026-03-01T12:00:00Z/m-1"
GIVEN_UP = {**UNDER_WAY, "ended": "Aborted", "message": "somebody aborted it"}


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (model(HOLDING, **UNDER_WAY), None),
        (model(("False", "RolledBack", "it was given up"), "RolledBack", 0, **GIVEN_UP), 1),
        (model(("True", "Draining", "the last requests"), "", 100), None),
        (model(SETTLED, "", 100), 0),
        (model(SETTLED, "VersionArchived", 100), 0),
        (model(SETTLED, "", 100, generation=4), None),
        (model(("False", "VersionFailed", "it cannot be loaded"), "VersionFailed", 0), 1),
        (model(("False", "AliasNotFound", "nothing moves"), "AliasNotFound", 0), 1),
        (model(None, "", 100), None),
    ],
)
def test_when_it_has_come_to_an_end(found: Model, code: int | None) -> None:
    assert watching.ended(found) == code


def test_a_candidate_that_is_tried_again_is_waited_for() -> None:
    assert watching.ended(model(("False", "VersionFailed", "it did not load"), "VersionFailed", 0, **UNDER_WAY)) is None


def test_nobody_waits_for_a_rollout_that_waits_for_a_version_to_be_named() -> None:
    assert watching.ended(model(("False", "AliasNotFound", "nothing moves"), "AliasNotFound", 10, **UNDER_WAY)) == 1


def test_the_end_of_another_version_is_not_the_one_that_is_waited_for() -> None:
    before = model(SETTLED, "", 100)
    after = dataclasses.replace(before, wanted="4")
    looks = iter([dataclasses.replace(before, wanted="3"), before, after])
    shown: list[Model] = []
    assert watching.follow(lambda: next(looks), shown.append, lambda seconds: None, "4") == 0
    assert shown[-1] is after
    assert len(shown) == 3


def test_going_back_is_no_success_of_the_wanted_version() -> None:
    told = status(SETTLED, "RolledBack", 0)
    history = [
        {"version": "2", "modelId": "m-2", "outcome": "Succeeded", "ended": "2026-03-01T12:00:00Z"},
        {"version": "1", "modelId": "m-1", "outcome": "Succeeded", "ended": "2026-02-01T12:00:00Z"},
    ]
    told = ModelDeploymentStatus.model_validate({**told.model_dump(by_alias=True), "history": history})
    assert watching.ended(Model.of("digits", told, BACK, STAGES, 3)) == 1
    assert watching.ended(Model.of("digits", told, "", STAGES, 3)) == 0


def test_it_looks_once_a_second_until_the_end() -> None:
    looks = iter([model(HOLDING, **UNDER_WAY), model(HOLDING, **UNDER_WAY), model(SETTLED, "", 100)])
    shown: list[Model] = []
    slept: list[float] = []
    assert watching.follow(lambda: next(looks), shown.append, slept.append) == 0
    assert (len(shown), slept) == (3, [1.0, 1.0])


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_is_drawn_again_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([model(HOLDING, **UNDER_WAY), model(SETTLED, "", 100)])
    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert watching.watch(lambda: next(looks), as_json=False) == 0
    first, second = screen.getvalue().split("\x1b[2K", 1)
    assert "10% ● → 50% ○ → 100% ○" in first
    assert "digits: Settled: version 2 has every request" in second
    assert "●" not in second


def test_ctrl_c_ends_it_and_is_no_failure() -> None:
    def look() -> Model:
        raise KeyboardInterrupt

    assert watching.watch(look, as_json=False) == 0


@contextmanager
def running(folder: Path, told: ModelDeploymentStatus) -> Iterator[None]:
    """A `rayfleet up` that says this of the model digits."""
    shown = ShownModel(name="digits", uri="models:/digits@live", conditions=(), versions=(), since=NOW, stages=STAGES)
    up = Up(
        pid=1,
        url="http://127.0.0.1:8000",
        dashboard="http://127.0.0.1:1",
        token_path=None,
        session=None,
        folder=None,
        started=NOW,
        status=Status(models=(shown,), statuses={"digits": told}, updated=NOW),
    )
    with Slot(folder, "127.0.0.1", 8000) as slot:
        slot.write(up)
        yield


@pytest.mark.parametrize(
    ("told", "code", "text"),
    [
        (status(SETTLED, "", 100), 0, "digits: Settled: version 2 has every request; version 2 100 %\n"),
        (status(("False", "RolledBack", "version 2 was given up"), "", 0, **GIVEN_UP), 1, "10% ✖ → 50% ○ → 100% ○"),
    ],
)
def test_a_running_up_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: ModelDeploymentStatus, code: int, text: str
) -> None:
    monkeypatch.setenv("RAYFLEET_STATE_DIR", str(tmp_path))
    with running(tmp_path, told):
        watched = CliRunner().invoke(main, ["rollout", "status", "digits", "--watch"])
        once = CliRunner().invoke(main, ["rollout", "status", "digits"])
    assert (watched.exit_code, once.exit_code) == (code, 0), watched.output
    assert text in watched.output
    assert once.output.startswith(watched.output.split(maxsplit=1)[1].split(";")[0].strip())


def test_an_up_that_ended_is_said_to_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYFLEET_STATE_DIR", str(tmp_path))
    with running(tmp_path, status(HOLDING, **UNDER_WAY)):
        place = rollouts.place(namespace=None, context=None, kubeconfig=None, port=None)
        assert place.model("digits").stages == STAGES
    with pytest.raises(Exception, match="has ended"):
        place.model("digits")


@pytest.mark.parametrize(("rollout", "stages"), [(SPEC, STAGES), ({"strategy": "Newer"}, ()), (None, ())])
def test_on_kubernetes_the_same_is_read_from_the_object(
    monkeypatch: pytest.MonkeyPatch, rollout: dict[str, Any] | None, stages: tuple[Any, ...]
) -> None:
    told = status(HOLDING, **UNDER_WAY)
    obj = {
        "metadata": {"name": "digits", "generation": 4},
        "spec": {"model": {}, **({"rollout": rollout} if rollout else {})},
        "status": told.model_dump(mode="json", by_alias=True),
    }
    place = rollouts.Kubernetes(namespace="vision", context=None, kubeconfig=None)
    monkeypatch.setattr(place, "_kubectl", lambda *words, **more: json.dumps(obj))
    assert place.model("digits") == Model.of("digits", told, "", stages, 4)
