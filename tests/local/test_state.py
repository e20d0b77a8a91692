"""What other terminals can know of an `up`."""

from __future__ import annotations

import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from rayfleet_operator.cli.status import status
from rayfleet_operator.local import state
from rayfleet_operator.local.state import ShownCondition, ShownModel, Slot, Status, Taken, Up

FULL_DISK = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from rayfleet_operator.local.state import Slot, Status, Up
now = datetime.now(UTC)
up = Up(pid=1, url="u", dashboard="d", token_path=None, session=None, folder=None, started=now,
        status=Status(updated=now))
with Slot(Path(sys.argv[1]), "127.0.0.1", 8000) as slot:
    slot.write(up)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for _ in range(3):
        try:
            slot.write(up)
        except OSError:
            print(*sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""

HOLDER = """
import sys, time
from pathlib import Path
from rayfleet_operator.local.state import Slot, Up
with Slot(Path(sys.argv[1]), "127.0.0.1", 8000) as slot:
    slot.write(Up.model_validate_json(sys.argv[2]))
    print("held", flush=True)
    time.sleep(600)
"""


def an_up(port: int) -> Up:
    now = datetime.now(UTC)
    return Up(
        pid=1,
        url=f"http://127.0.0.1:{port}",
        dashboard="http://127.0.0.1:1",
        token_path=None,
        session=None,
        folder=None,
        started=now,
        status=Status(updated=now),
    )


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    with Slot(folder, "127.0.0.1", 8000) as slot:
        slot.write(an_up(8000))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_an_up_is_seen_while_it_runs_and_forgotten_when_it_ended(tmp_path: Path) -> None:
    with Slot(tmp_path, "127.0.0.1", 8000) as slot, Slot(tmp_path, "127.0.0.1", 8001) as other:
        slot.write(an_up(8000))
        other.write(an_up(8001))
        assert [up.url for up in state.running(tmp_path)] == ["http://127.0.0.1:8000", "http://127.0.0.1:8001"]
    assert state.running(tmp_path) == state.killed(tmp_path) == []


def test_one_endpoint_has_one_up(tmp_path: Path) -> None:
    with Slot(tmp_path, "127.0.0.1", 8000) as slot:
        slot.write(an_up(8000))
        with pytest.raises(Taken, match="process 1"), Slot(tmp_path, "127.0.0.1", 8000):
            pass
        assert len(state.running(tmp_path)) == 1


def test_a_killed_up_is_told_from_a_running_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path), an_up(8000).model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        (up,) = state.running(tmp_path)
        state.forget(tmp_path, up)
        assert state.running(tmp_path) == [up], "one that runs is not forgotten"
        holder.kill()
        holder.wait()
    assert (state.running(tmp_path), state.killed(tmp_path)) == ([], [up])
    state.forget(tmp_path, up)
    assert state.killed(tmp_path) == []


def test_a_file_of_another_release_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "127.0.0.1_9.json").write_text('{"pid": 1}')
    assert state.running(tmp_path) == state.killed(tmp_path) == []


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"RAYFLEET_STATE_DIR": "/a", "XDG_STATE_HOME": "/b"}, Path("/a")),
        ({"XDG_STATE_HOME": "/b"}, Path("/b/rayfleet")),
        ({}, Path.home() / ".local/state/rayfleet"),
    ],
)
def test_where_it_is(environ: dict[str, str], folder: Path) -> None:
    assert state.state_folder(environ) == folder


def test_a_full_disk_is_not_filled_with_what_could_not_be_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, check=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["127.0.0.1_8000.json 127.0.0.1_8000.lock"] * 3


@pytest.mark.parametrize(("age_s", "code"), [(1, 0), (60, 1)])
def test_a_status_that_is_old_is_no_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: int, code: int) -> None:
    monkeypatch.setenv("RAYFLEET_STATE_DIR", str(tmp_path))
    conditions = [("Ready", "True"), ("Progressing", "False"), ("Degraded", "False")]
    model = ShownModel(
        name="digits",
        uri="models:/digits/1",
        conditions=tuple(ShownCondition(type=kind, status=yes, reason="R", message="") for kind, yes in conditions),  # type: ignore[arg-type]
        versions=(),
        since=datetime.now(UTC),
    )
    seen = Status(models=(model,), updated=datetime.now(UTC) - timedelta(seconds=age_s))
    with Slot(tmp_path, "127.0.0.1", 8000) as slot:
        slot.write(an_up(8000).model_copy(update={"status": seen}))
        result = CliRunner().invoke(status)
    assert result.exit_code == code
    assert ("last seen 60 s ago" in result.stdout) == (code == 1)
