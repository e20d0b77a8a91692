"""Argo CD's health checks give the answers that their tests, written in Argo CD's own form, ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import lua51

from rayfleet_operator.api.fleet import ModelFleet
from rayfleet_operator.api.types import GROUP, ModelDeployment
from rayfleet_operator.plan.conditions import NOTICES, Reason
from rayfleet_operator.plan.fleet_conditions import FleetReason

ARGOCD = Path(__file__).parents[2] / "deploy" / "argocd"
CUSTOMIZATIONS = ARGOCD / "resource_customizations"
SCRIPTS = sorted(CUSTOMIZATIONS.glob("*/*/health.lua"))
CASES = [
    pytest.param(script, case, id=f"{script.parent.name}-{Path(case['inputPath']).stem}")
    for script in SCRIPTS
    for case in yaml.safe_load((script.parent / "health_test.yaml").read_text())["tests"]
]
STATUSES = {"Healthy", "Progressing", "Degraded", "Suspended"}
NOT_THERE = ("string", "math", "io", "os", "debug", "coroutine", "require", "package", "dofile", "loadfile", "python")
"""Argo CD gives a script Lua's base and its table library."""


def health(script: str, resource: dict[str, Any]) -> dict[str, str]:
    """What Argo CD would make of a resource."""
    lua = lua51.LuaRuntime(unpack_returned_tuples=True)
    for name in NOT_THERE:
        lua.globals()[name] = None
    lua.globals()["obj"] = lua.table_from(resource, recursive=True)
    run: Callable[[], Any] = lua.eval(f"function() {script}\nend")
    return dict(run())


@pytest.mark.parametrize(("script", "case"), CASES)
def test_health_is_what_argo_cd_expects(script: Path, case: dict[str, Any]) -> None:
    resource = yaml.safe_load((script.parent / case["inputPath"]).read_text())
    assert health(script.read_text(), resource) == case["healthStatus"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_every_resource_beside_a_script_is_tried_and_every_answer_seen(script: Path) -> None:
    cases = yaml.safe_load((script.parent / "health_test.yaml").read_text())["tests"]
    tried = sorted(case["inputPath"] for case in cases)
    assert tried == sorted(f"testdata/{file.name}" for file in (script.parent / "testdata").iterdir())
    answers = {case["healthStatus"]["status"] for case in cases}
    assert {"Healthy", "Progressing", "Degraded"} <= answers <= STATUSES


OURS = [script for script in SCRIPTS if script.parents[1].name == GROUP]


def test_both_kinds_of_ours_have_one_script() -> None:
    assert len(OURS) == 2
    assert OURS[0].read_text() == OURS[1].read_text()


@pytest.mark.parametrize("reason", [Reason.VERSION_FAILED, FleetReason.PROGRESS_DEADLINE_EXCEEDED])
def test_reasons_that_do_not_pass_are_called_what_the_operator_calls_them(reason: str) -> None:
    assert f"  {reason} = true,\n" in OURS[0].read_text()


def test_what_is_only_told_holds_nothing_up() -> None:
    listed = "".join(f"  {reason} = true,\n" for reason in sorted(NOTICES))
    assert f"local notices = {{\n{listed}}}\n" in OURS[0].read_text()


@pytest.mark.parametrize("kind", [ModelDeployment, ModelFleet])
def test_what_is_tried_is_valid(kind: type[ModelDeployment] | type[ModelFleet]) -> None:
    files = sorted((CUSTOMIZATIONS / GROUP / kind.__name__ / "testdata").glob("*.yaml"))
    assert [kind.model_validate(yaml.safe_load(file.read_text())).kind for file in files] == [kind.__name__] * len(
        files
    )


def test_the_patch_of_argo_cds_configmap_holds_every_script() -> None:
    data = yaml.safe_load((ARGOCD / "argocd-cm.yaml").read_text())["data"]
    assert data == {
        f"resource.customizations.health.{script.parents[1].name}_{script.parent.name}": script.read_text()
        for script in SCRIPTS
    }
