"""`rayfleet rollout` on a real API server, by way of the real kubectl."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cluster.binaries import binary
from cluster.control_plane import ControlPlane

from rayfleet_operator.cli.main import main

Json = dict[str, Any]
Say = Callable[..., Result]

STEPS = [{"weight": 10, "hold": "10m"}, {"weight": 50}]
ATTEMPT = "digits-new/2026-01-01T00:00:00Z"
UNDER_WAY = {
    "conditions": [
        {
            "type": "Progressing",
            "status": "True",
            "reason": "Holding",
            "message": "version 2, stage 1 of 3, weight 10: until later",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ],
    "versions": [
        {"name": "1", "app": "digits-old", "weight": 90, "state": "Ready"},
        {"name": "2", "app": "digits-new", "weight": 10, "state": "Ready"},
    ],
    "rollout": {
        "stable": "digits-old",
        "candidate": "digits-new",
        "began": "2026-01-01T00:00:00Z",
        "stage": 0,
        "weight": 10,
        "message": "stage 1 of 3, weight 10: until later",
        "analysis": "Inconclusive",
        "checks": [{"name": "errorRate", "outcome": "Inconclusive", "message": "1 of 40 requests failed"}],
        "counted": "2026-01-01T00:00:00Z",
    },
    "history": [
        {"version": "0", "outcome": "RolledBack", "ended": "2026-01-01T00:00:00Z", "message": "AnalysisFailed: slow"}
    ],
}


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    name = f"rollout-{os.urandom(4).hex()}"
    control_plane.kubectl("create", "namespace", name)
    model = {
        "apiVersion": "rayfleet.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": name},
        "spec": {"model": {"uri": "models:/digits@live"}, "rollout": {"strategy": "Canary", "steps": STEPS}},
    }
    control_plane.kubectl.apply([model])
    tell(control_plane, name, UNDER_WAY)
    return name


def tell(control_plane: ControlPlane, namespace: str, status: Json) -> None:
    """As the operator writes it."""
    patch = json.dumps({"status": status})
    control_plane.kubectl("patch", "md", "digits", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def model(control_plane: ControlPlane, namespace: str) -> Json:
    found: Json = control_plane.kubectl.json("get", "md", "digits", "-n", namespace)
    return found


@pytest.fixture
def say(control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    monkeypatch.setenv("PATH", f"{binary('kubectl').parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RAYFLEET_STATE_DIR", str(tmp_path))

    def say(command: str, *more: str, name: str = "digits") -> Result:
        where = ("--namespace", namespace, "--kubeconfig", str(control_plane.kubeconfig))
        return CliRunner().invoke(main, ["rollout", command, name, *more, *where])

    return say


def annotations(obj: Json) -> Json:
    """Ours."""
    found = obj["metadata"].get("annotations") or {}
    return {key: value for key, value in found.items() if key.startswith("rayfleet.io/")}


def test_it_tells_what_the_status_says(say: Say) -> None:
    told = say("status")
    assert told.exit_code == 0, told.output
    for part in ("Holding", "version 1, 90 %", "version 2, 10 %", "stage 1 of 3", "1 of 40 requests failed"):
        assert part in told.output
    assert "→ 50% ○ → 100% ○" in told.output
    assert json.loads(say("status", "--json").output)["rollout"]["candidate"] == "digits-new"
    assert say("history").output.split(maxsplit=1)[1].strip() == "version 0  RolledBack: AnalysisFailed: slow"


def test_the_last_command_is_the_one_that_holds(say: Say, control_plane: ControlPlane, namespace: str) -> None:
    assert say("promote").exit_code == 0
    assert annotations(model(control_plane, namespace)) == {"rayfleet.io/promote": f"{ATTEMPT}/0"}
    assert say("promote", "--all").exit_code == 0
    assert annotations(model(control_plane, namespace)) == {"rayfleet.io/promote": f"{ATTEMPT}/all"}
    assert say("abort").exit_code == 0
    assert annotations(model(control_plane, namespace)) == {"rayfleet.io/abort": ATTEMPT}
    tell(control_plane, namespace, {"rollout": {**UNDER_WAY["rollout"], "ended": "Aborted"}})  # type: ignore[dict-item]
    assert say("retry").exit_code == 0
    assert annotations(model(control_plane, namespace)).keys() == {"rayfleet.io/retry"}


SERVED = {
    "versions": [{"name": "2", "modelId": "m-2", "app": "digits-new", "weight": 100, "state": "Ready"}],
    "rollout": None,
    "resolved": {"uri": "models:/digits@live", "version": "2", "modelId": "m-2", "artifactUri": "s3://b/2"},
    "history": [
        {"version": "2", "modelId": "m-2", "outcome": "Succeeded", "ended": "2026-01-02T00:00:00Z"},
        *(
            {"version": each, "modelId": f"m-{each}", "artifactUri": f"s3://b/{each}", "outcome": "Succeeded"}
            | {"ended": "2026-01-01T00:00:00Z"}
            for each in ("1", "0")
        ),
    ],
}
LEFT = "m-2/2026-01-02T00:00:00Z"


def test_back_to_the_version_before_or_to_another_one(say: Say, control_plane: ControlPlane, namespace: str) -> None:
    tell(control_plane, namespace, SERVED)
    assert say("rollback").output == "digits: back to version 1.\n"
    assert annotations(model(control_plane, namespace)) == {"rayfleet.io/rollback": f"{LEFT}/m-1"}
    assert say("rollback", "--to", "0").exit_code == 0
    assert annotations(model(control_plane, namespace)) == {"rayfleet.io/rollback": f"{LEFT}/m-0"}
    refused = say("rollback", "--to", "7")
    assert (refused.exit_code, "can be gone back to: 1, 0" in refused.output) == (1, True)

    assert say("retry").exit_code == 0
    assert annotations(model(control_plane, namespace)).keys() == {"rayfleet.io/retry"}
    assert "no candidate was given up" in say("retry").output


def test_a_retry_cannot_take_back_what_another_hand_wrote(
    say: Say, control_plane: ControlPlane, namespace: str
) -> None:
    tell(control_plane, namespace, SERVED)
    control_plane.kubectl("annotate", "md", "digits", "-n", namespace, f"rayfleet.io/rollback={LEFT}/m-1")
    refused = say("retry")
    assert (refused.exit_code, "by another hand" in refused.output) == (1, True)


def test_under_way_going_back_is_to_give_the_candidate_up(
    say: Say, control_plane: ControlPlane, namespace: str
) -> None:
    refused = say("rollback", "--to", "0")
    assert (refused.exit_code, "abort ends it first" in refused.output) == (1, True)
    assert say("rollback").output == "digits: back to version 1; the candidate is given up.\n"
    assert annotations(model(control_plane, namespace)) == {"rayfleet.io/abort": ATTEMPT}


def test_what_has_every_request_is_not_promoted_by_mistake(
    say: Say, control_plane: ControlPlane, namespace: str
) -> None:
    tell(control_plane, namespace, {"rollout": {**UNDER_WAY["rollout"], "stage": 2, "weight": 100}})  # type: ignore[dict-item]
    refused = say("promote")
    assert (refused.exit_code, "has every request" in refused.output) == (1, True)
    assert annotations(model(control_plane, namespace)) == {}


def test_in_the_last_stage_all_stages_are_behind_it(say: Say, control_plane: ControlPlane, namespace: str) -> None:
    paused = {"type": "Progressing", "status": "True", "reason": "Paused", "message": "", "observedGeneration": 1}
    condition = {**paused, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    last = {"conditions": [condition], "rollout": {**UNDER_WAY["rollout"], "stage": 2, "weight": 100}}  # type: ignore[dict-item]
    tell(control_plane, namespace, last)
    assert say("promote", "--all").exit_code == 0
    assert annotations(model(control_plane, namespace)) == {"rayfleet.io/promote": f"{ATTEMPT}/2"}


def test_before_it_is_ready_there_is_no_step_to_go_past(say: Say, control_plane: ControlPlane, namespace: str) -> None:
    tell(control_plane, namespace, {"rollout": {**UNDER_WAY["rollout"], "stage": -1, "weight": 0}})  # type: ignore[dict-item]
    refused = say("promote")
    assert (refused.exit_code, "not ready yet" in refused.output) == (1, True)
    assert say("promote", "--all").exit_code == 0
    assert annotations(model(control_plane, namespace)) == {"rayfleet.io/promote": f"{ATTEMPT}/all"}


def test_a_pause_is_a_field_and_says_nothing_of_commands(say: Say, control_plane: ControlPlane, namespace: str) -> None:
    say("promote")
    assert say("pause").exit_code == 0
    found = model(control_plane, namespace)
    assert found["spec"]["rollout"] == {"strategy": "Canary", "steps": STEPS, "paused": True}
    assert annotations(found) == {"rayfleet.io/promote": f"{ATTEMPT}/0"}
    assert say("resume").exit_code == 0
    assert model(control_plane, namespace)["spec"]["rollout"]["paused"] is False


@pytest.mark.parametrize(
    ("command", "said"),
    [("retry", "no candidate was given up"), ("promote", "no rollout is under way"), ("abort", "no rollout")],
)
def test_what_makes_no_sense_now_is_refused(
    say: Say, control_plane: ControlPlane, namespace: str, command: str, said: str
) -> None:
    if command != "retry":
        control_plane.kubectl("delete", "md", "digits", "-n", namespace)
        spec = {"model": {"uri": "models:/digits@live"}}
        metadata = {"name": "digits", "namespace": namespace}
        control_plane.kubectl.apply(
            [{"apiVersion": "rayfleet.io/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": spec}]
        )
    refused = say(command)
    assert refused.exit_code == 1
    assert said in refused.output


def test_a_pause_of_what_has_no_stages_is_refused_in_the_api_servers_words(
    say: Say, control_plane: ControlPlane, namespace: str
) -> None:
    patch = json.dumps({"spec": {"rollout": None}})
    control_plane.kubectl("patch", "md", "digits", "-n", namespace, "--type=merge", "-p", patch)
    refused = say("pause")
    assert refused.exit_code == 1
    assert "no stages" in refused.output


def test_a_model_that_there_is_not(say: Say) -> None:
    refused = say("status", name="nobody")
    assert refused.exit_code == 1
    assert '"nobody" not found' in refused.output
    assert "Traceback" not in refused.output
