"""What `up` and `status` show of a status."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from rayfleet_operator.local import view
from rayfleet_operator.local.state import ShownCondition, ShownModel, ShownVersion, Status
from rayfleet_operator.local.view import Lines, table

NOW = datetime(2026, 1, 1, tzinfo=UTC)
URL = "http://127.0.0.1:8000"


def a_model(
    *versions: ShownVersion, progressing: tuple[str, str] = ("False", "Settled"), degraded: str = ""
) -> ShownModel:
    return ShownModel(
        name="digits",
        uri="models:/digits@champion",
        conditions=(
            ShownCondition(type="Ready", status="True", reason="Serving", message="version 2 answers"),
            ShownCondition(
                type="Progressing",
                status=progressing[0],  # type: ignore[arg-type]
                reason=progressing[1],
                message="version 2 loads" if progressing[0] == "True" else "",
            ),
            ShownCondition(
                type="Degraded",
                status="True" if degraded else "False",
                reason=degraded or "AsExpected",
                message="see the registry" if degraded else "",
            ),
        ),
        versions=versions,
        since=NOW,
    )


def a_version(running: int | None, target: int | None) -> ShownVersion:
    return ShownVersion(
        version="2", model_id="m", weight=100, state="RUNNING", replicas_running=running, replicas_target=target
    )


@pytest.mark.parametrize(("running", "target", "shown"), [(1, 3, "1 of 3"), (0, 1, "0 of 1"), (None, None, "-")])
def test_a_version_shows_how_many_replicas_answer_of_those_that_should(
    running: int | None, target: int | None, shown: str
) -> None:
    status = Status(models=(a_model(a_version(running, target)),), updated=NOW)
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(table(status, URL))
    header, row, *_ = console.export_text().splitlines()
    column = slice(header.index("REPLICAS"), header.index("VERSION STATE"))
    assert row[column].strip() == shown


def test_versions_beside_the_models_own_are_shown_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    b = a_version(1, 1).model_copy(update={"version": "3", "weight": 10, "name": "b"})
    shadow = b.model_copy(update={"version": "4", "weight": 0, "name": "shadow", "mirror": 25})
    model = a_model(a_version(1, 1)).model_copy(update={"versions": (a_version(1, 1), b, shadow)})
    Lines(URL).show(Status(models=(model,), updated=NOW))
    told = capsys.readouterr().out
    assert "version 3 (b) 10 % RUNNING, replicas 1 of 1, version 4 (shadow) mirrors 25 % RUNNING" in told
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(table(Status(models=(model,), updated=NOW), URL))
    assert [line.split()[:2] for line in console.export_text().splitlines()[2:4]] == [["3", "(b)"], ["4", "(shadow)"]]


def test_an_edit_is_acknowledged_even_where_nothing_else_changes(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(URL)
    before = Status(models=(a_model(a_version(1, 1)),), files_read=NOW, updated=NOW)
    lines.show(before)
    first = capsys.readouterr().out
    assert "version 2 100 % RUNNING, replicas 1 of 1" in first
    assert "read again" not in first
    lines.show(before.model_copy(update={"updated": NOW + timedelta(seconds=2)}))
    assert capsys.readouterr().out == ""
    lines.show(before.model_copy(update={"files_read": NOW + timedelta(seconds=3)}))
    assert capsys.readouterr().out.endswith("the files changed and were read again\n")


@pytest.mark.parametrize(
    ("degraded", "progressing", "state", "message"),
    [
        ("VersionArchived", ("False", "Settled"), "Ready, VersionArchived", "see the registry"),
        ("VersionArchived", ("True", "Deploying"), "Ready, Deploying", "version 2 loads\nsee the registry"),
        ("VersionFailed", ("True", "Deploying"), "Ready, VersionFailed", "see the registry"),
    ],
)
def test_what_the_registry_says_of_a_version_that_serves_does_not_hide_what_is_under_way(
    degraded: str, progressing: tuple[str, str], state: str, message: str
) -> None:
    of = a_model(a_version(1, 1), progressing=progressing, degraded=degraded)
    assert view.state(of) == state
    assert view.message(of) == message
    # `rayfleet status` and the live table are this table.
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(table(Status(models=(of,), updated=NOW), URL))
    text = console.export_text()
    assert state in text
    assert "see the registry" in text


def test_how_many_replicas_are_wanted_and_why_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    model = a_model(a_version(3, 3)).model_copy(update={"scaling": "3 → 5: p99 312 ms > 200 ms"})
    lines, status = Lines(URL), Status(models=(model,), updated=NOW)
    lines.show(status)
    lines.show(status)
    assert capsys.readouterr().out.count("replicas 3 → 5: p99 312 ms > 200 ms") == 1
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(table(status, URL))
    assert "digits: replicas 3 → 5: p99 312 ms > 200 ms" in console.export_text()
