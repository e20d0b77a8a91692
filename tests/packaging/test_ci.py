"""make and .ci/run clean up after themselves and say what is missing. Programs that they start are stand-ins."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from cluster.binaries import GROUPS
from cluster.deadline import until
from helm_chart import ROOT

PYTHON = """\
#!/bin/sh
echo "$*" >> "{calls}"
case "$*" in
    *layout*) echo "{logs}" ;;
    "-m cluster up") exit {up} ;;
    *"{fails}"*) echo "what a test said"; exit 1 ;;
    *pytest*) exit {tests} ;;
esac
"""


def make(
    target: str, folder: Path, *, ci: bool = False, up: int = 0, tests: int = 0, fails: str | None = None
) -> tuple[int, list[str], str]:
    """make's status, what it ran, and what it said, when `up` and the tests end with these statuses, and what has the
    word `fails` among its arguments fails."""
    logs, calls, python = folder / "state" / "logs", folder / "calls", folder / "venv" / "bin" / "python"
    logs.mkdir(parents=True)
    (logs / "kubelet.log").write_text("why\n")
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.format(calls=calls, logs=logs, up=up, tests=tests, fails=fails))
    python.chmod(0o755)
    (folder / "venv" / "dev.installed").touch()
    command = ["make", target, f"VENV={folder / 'venv'}", f"LOGS={folder / 'kept'}", f"CI={1 if ci else ''}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=_quiet())
    return ran.returncode, calls.read_text().splitlines(), ran.stdout


def _quiet() -> dict[str, str]:
    """Without what a make above this one tells its children."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "CI")}


@pytest.mark.parametrize(
    ("up", "tests", "good"), [(0, 0, True), (0, 1, False), (1, 0, False)], ids=["passes", "tests-fail", "up-fails"]
)
def test_under_ci_the_cluster_always_ends(tmp_path: Path, up: int, tests: int, good: bool) -> None:
    status, calls, said = make("e2e", tmp_path, ci=True, up=up, tests=tests)
    assert (status == 0) == good
    assert calls[-1] == "-m cluster down"
    assert any("pytest" in call for call in calls) == (up == 0)
    assert (tmp_path / "kept" / "kubelet.log").is_file() == (not good)
    assert (str(tmp_path / "kept") in said) == (not good)


def test_without_ci_the_cluster_stays(tmp_path: Path) -> None:
    status, calls, _ = make("e2e", tmp_path, tests=1)
    assert status != 0
    assert "-m cluster down" not in calls


def test_everything_that_tests_run_is_built_ahead_of_them(tmp_path: Path) -> None:
    """A build takes longer than a test may."""
    _, calls, _ = make("test", tmp_path)
    assert calls[0] == "-m cluster.binaries tests"
    texts = [file.read_text() for file in (ROOT / "tests").rglob("*.py")]
    asked_for = {name for text in texts for name in re.findall(r'\bbinary\("([a-z-]+)"\)', text)}
    assert asked_for - {"kind"} == set(GROUPS["tests"])


PARTS = {None: "passes", "pytest tests/local": "ray", "pytest tests/cluster": "kubernetes", "--ignore": "parts"}


@pytest.mark.parametrize("part", PARTS, ids=PARTS.values())
def test_the_tests_pass_when_every_part_does(tmp_path: Path, part: str | None) -> None:
    status, calls, said = make("test", tmp_path, fails=part)
    assert (status == 0) == (part is None)
    assert ("what a test said" in said) == (part is not None)
    words = [word for call in calls if "pytest" in call for word in call.split()]
    run = {word for word in words if word.startswith("tests/")}
    left_out = {word.removeprefix("--ignore=") for word in words if word.startswith("--ignore=")}
    assert left_out == run | {"tests/disruption", "tests/browser", "tests/e2e"}, "no folder is nobody's"
    assert all((ROOT / folder).is_dir() for folder in left_out)


def test_ci_runs_every_target_that_tests() -> None:
    run = (ROOT / ".ci" / "run").read_text().splitlines()
    assert {f"make {name}" for name in ("lint", "demo", "test", "test-disruption", "test-browser", "e2e")} <= set(run)


def test_ci_says_first_that_it_needs_go(tmp_path: Path) -> None:
    tools = _tools(tmp_path)
    ran = subprocess.run([ROOT / ".ci" / "run"], env={"PATH": str(tools)}, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "needs Go 1.26 or newer" in ran.stderr
    assert not (tmp_path / "made").exists()


def test_ci_says_first_that_the_disk_is_too_full(tmp_path: Path) -> None:
    tools = _tools(tmp_path)
    _program(tools / "go", "exit 0")
    _program(tools / "python3", 'echo "$*: too full" >&2; exit 1')
    ran = subprocess.run([ROOT / ".ci" / "run"], env={"PATH": str(tools)}, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (1, ".ci/room.py: too full\n")
    assert not (tmp_path / "made").exists()


def test_room_is_asked_for_what_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, state = tmp_path / "cache", tmp_path / "state"
    monkeypatch.setenv("RAYFLEET_CLUSTER_CACHE", str(cache))
    monkeypatch.setenv("RAYFLEET_CLUSTER_STATE", str(state))
    free = shutil.disk_usage(tmp_path)._replace(free=15 * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    shortages = runpy.run_path(str(ROOT / ".ci" / "room.py"))["shortages"]
    (said,) = shortages()
    assert re.search(r"15\.0 GiB free, and about 2[0-9] are needed", said)
    assert str(tmp_path) in said
    (cache / "bin").mkdir(parents=True)
    (cache / "bin" / "prometheus").touch()
    state.mkdir()
    (state / "images.json").touch()
    assert shortages() == []


def test_what_ci_compiles_beside_the_tests_ends_with_it(tmp_path: Path) -> None:
    tools, pid = _tools(tmp_path), tmp_path / "pid"
    _program(tools / "go", "exit 0")
    compiling = f"case $* in *binaries) sh -c 'echo $$ > {pid}; exec sleep 600' & wait ;; esac"
    failing = f"case $* in lint) while [ ! -s {pid} ]; do sleep 0.1; done; exit 1 ;; esac"
    _program(tools / "make", f"{compiling}\n{failing}")
    ran = subprocess.run([ROOT / ".ci" / "run"], env={"PATH": str(tools)}, capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0
    child = int(pid.read_text())
    try:
        until("the compiler has ended", lambda: not _runs(child), 10)
    finally:
        if _runs(child):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("built", [0, 1])
def test_ci_ends_no_process_group_that_is_not_its_own_any_more(tmp_path: Path, built: int) -> None:
    tools, killed, spy = _tools(tmp_path), tmp_path / "killed", tmp_path / "spy"
    _program(tools / "go", "exit 0")
    _program(tools / "make", f"case $* in *binaries) echo the compiler spoke; exit {built} ;; esac")
    spy.write_text(f'kill() {{ echo "$@" >> {killed}; }}\n')
    environment = {"PATH": str(tools), "BASH_ENV": str(spy), "TMPDIR": str(tmp_path)}
    ran = subprocess.run([ROOT / ".ci" / "run"], env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, "the compiler spoke" in ran.stderr) == (built, built != 0)
    assert not killed.exists()
    assert not list(tmp_path.glob("tmp.*")), "the log stays"


def _tools(folder: Path) -> Path:
    """A folder with what .ci/run is made of, and a make that only says that it was there."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "env", "dirname", "mktemp", "nice", "rm", "cat", "sleep", "touch"):
        (tools / name).symlink_to(_found(name))
    _program(tools / "make", f"touch {folder / 'made'}")
    _program(tools / "python3", "exit 0")
    return tools


def _found(name: str) -> Path:
    return next(Path(folder, name) for folder in ("/usr/bin", "/bin") if Path(folder, name).exists())


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
