"""`rayfleet simulate` shows a run, and says what is wrong with what it was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rayfleet_operator.cli import plot
from rayfleet_operator.cli.main import main

SPEC = """\
apiVersion: rayfleet.io/v1alpha1
kind: ModelDeployment
metadata: {name: digits}
spec:
  fleet: vision
  model: {uri: "models:/digits@champion"}
  batching: {maxBatchSize: 8}
  autoscaling:
    minReplicas: 1
    maxReplicas: 4
    targetOngoingRequests: 5
    latency: {target: 500ms}
    lookBackPeriod: 5s
    upscaleDelay: 5s
    downscaleDelay: 30s
"""
FLEET = """\
---
apiVersion: rayfleet.io/v1alpha1
kind: ModelFleet
metadata: {name: vision}
spec: {routers: {replicas: 3}}
"""
SCHEDULES = """\
    schedules: [{name: early, start: "1 8 * * *", duration: 2m, minReplicas: 3}]
"""
CURVE = {"batchSeconds": {"1": 0.04, "8": 0.1}, "hopSeconds": 0.003, "startUpSeconds": 4}
STEPS = ("--shape", "steps:60s@10,120s@120,120s@10")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.yaml").write_text(SPEC)
    (tmp_path / "curve.json").write_text(json.dumps(CURVE))
    return tmp_path


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *arguments])


def shown(*arguments: str) -> str:
    result = simulate("digits.yaml", "--curve", "curve.json", *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_it_shows_replicas_latency_and_cost_over_time(folder: Path) -> None:
    text = shown(*STEPS, "--price-per-hour", "3.6")
    assert text.splitlines()[:2] == [
        "digits: 1 to 4 replicas, 5 requests for each, p99 within 500 ms; look-back 5 s, up after 5 s, down after 30 s",
        "a batch takes 40 ms for 1 row, 100 ms for 8 rows, and 3 ms of way; a replica answers 4 s after it is wanted; "
        "2 routers",
    ]
    head, *rows = text.split("\n\n")[1].splitlines()
    assert head.split() == ["time", "requests/s", "wanted", "running", "busy", "p50", "p99", "429", "504"]
    assert [row.split()[0] for row in rows[:3]] == ["0:00", "0:15", "0:30"]
    assert rows[0].split()[2:4] == ["1", "1"]
    assert max(int(row.split()[3]) for row in rows) > 1
    assert "requests/s, at most" in text
    assert "█" in text
    assert "1 to 4: " in text or "1 to 3: " in text or "1 to 2: " in text
    # At 3.6 an hour, a replica-second costs a thousandth.
    seconds = next(line for line in text.splitlines() if line.startswith("replica-seconds")).split()[1].rstrip(":")
    cost = next(line for line in text.splitlines() if line.startswith("cost")).split()[1]
    assert float(cost) == pytest.approx(float(seconds) / 1000, abs=0.01)


def test_the_same_seed_gives_the_same_text_and_another_one_not(folder: Path) -> None:
    assert shown(*STEPS) == shown(*STEPS, "--seed", "0") != shown(*STEPS, "--seed", "1")


def test_a_terminal_that_knows_no_blocks_gets_others(folder: Path) -> None:
    result = CliRunner(charset="ascii").invoke(main, ["simulate", "digits.yaml", "--curve", "1=40ms", *STEPS])
    assert result.exit_code == 0, result.output
    assert result.output.isascii()
    assert "#" in result.output


def test_all_numbers_can_be_had_as_json(folder: Path) -> None:
    shown(*STEPS, "--json", "out.json", "--price-per-hour", "2")
    found = json.loads((folder / "out.json").read_text())
    totals = found["totals"]
    assert totals["requests"] == totals["answered"] == sum(span["requests"] for span in found["spans"])
    assert totals["cost"] == pytest.approx(totals["replica_seconds"] / 1800)
    assert sum(span["replica_seconds"] for span in found["spans"]) == pytest.approx(totals["replica_seconds"])
    assert found["seconds"]["time"][:3] == [0, 1, 2]
    assert found["changes"][0]["before"] == 1
    assert totals["changes"] == len(found["changes"])


@pytest.mark.parametrize("name", ["out.png", "out.svg"])
def test_it_draws_a_picture(folder: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    shown(*STEPS, "--plot", name)
    assert (folder / name).stat().st_size > 10_000


def test_without_matplotlib_a_picture_is_refused_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    result = simulate("digits.yaml", "--curve", "curve.json", *STEPS, "--plot", "out.png")
    assert result.exit_code == 1
    assert "a picture needs matplotlib, which is not installed; pip install 'rayfleet[plot]'" in result.output


def test_a_trace_is_replayed_as_it_came(folder: Path) -> None:
    (folder / "trace.csv").write_text("time,rows\n0.5,1\n0.5,2\n7,8\n")
    assert "3 in 0:08: 3 answered" in shown("--trace", "trace.csv")


def test_a_table_of_rates_is_a_trace(folder: Path) -> None:
    (folder / "rates.csv").write_text("duration,rate\n100s,10\n50s,0\n")
    text = shown("--trace", "rates.csv")
    (number,) = (int(line.split()[1]) for line in text.splitlines() if line.startswith("requests "))
    assert 900 < number < 1100
    assert "in 2:30" in text


def test_routers_are_those_of_the_fleet(folder: Path) -> None:
    (folder / "digits.yaml").write_text(SPEC + FLEET)
    assert "3 routers" in shown(*STEPS)
    assert "1 router\n" in shown(*STEPS, "--routers", "1")


def test_a_model_that_names_no_fleet_has_the_one_of_its_own_name(folder: Path) -> None:
    (folder / "digits.yaml").write_text(SPEC.replace("  fleet: vision\n", "") + FLEET.replace("vision", "digits"))
    assert "3 routers" in shown(*STEPS)


def test_a_model_that_does_not_scale_has_its_replicas(folder: Path) -> None:
    text = SPEC.split("  autoscaling:")[0] + "  replicas: 3\n"
    (folder / "digits.yaml").write_text(text)
    assert shown(*STEPS).startswith("digits: 3 replicas, always\n")


def test_schedules_are_on_when_the_run_says_it_is_their_time(folder: Path) -> None:
    (folder / "digits.yaml").write_text(SPEC + SCHEDULES)
    text = shown("--shape", "steps:300s@1", "--begin", "2026-03-02T08:00:00Z", "--every", "30s")
    rows = text.split("\n\n")[1].splitlines()[1:]
    # On from minute 1 to 3; then the others go after half a minute.
    assert [int(row.split()[2]) for row in rows[:8]] == [1, 3, 3, 3, 3, 3, 1, 1]


def test_a_traces_own_moments_tell_schedules_when_it_is(folder: Path) -> None:
    (folder / "digits.yaml").write_text(SPEC + SCHEDULES)
    (folder / "trace.csv").write_text("2026-03-02T08:00:30Z\n2026-03-02T08:02:30Z\n")
    assert "0:30  1 to 3" in shown("--trace", "trace.csv")


def test_without_a_beginning_schedules_cannot_be_simulated(folder: Path) -> None:
    (folder / "digits.yaml").write_text(SPEC + SCHEDULES)
    result = simulate("digits.yaml", "--curve", "curve.json", *STEPS)
    assert result.exit_code == 1
    assert "nothing says when the run begins; give --begin" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["digits.yaml", *STEPS], 1, "how long does a batch take? Give --curve FILE"),
        (["digits.yaml", "--curve", "curve.json"], 2, "give one of --trace and --shape"),
        (["digits.yaml", "--curve", "curve.json", "--trace", "t.csv", *STEPS], 2, "give one of --trace and --shape"),
        (["digits.yaml", "--curve", "curve.json", "--shape", "steps:1"], 1, "--shape: '1' is not DURATION@RATE"),
        (["digits.yaml", "--curve", "curve.json", "--shape", "steps:24h@1000"], 1, "more than 20000000 requests"),
        (
            ["digits.yaml", "--curve", "curve.json", "--shape", "steps:3000h@0"],
            1,
            "go over 125 days; replay at most 92",
        ),
        (["digits.yaml", "--curve", "1=x", *STEPS], 1, "--curve: '1=x'"),
        (["digits.yaml", "--curve", "no.json", *STEPS], 1, "no.json: cannot be read: No such file"),
        (["digits.yaml", "--curve", "digits.yaml", *STEPS], 1, "digits.yaml: line 1, column 1: not JSON"),
        (["digits.yaml", "--curve", "curve.json", "--trace", "no.csv"], 1, "no.csv: cannot be read: No such file"),
        (["digits.yaml", "--curve", "curve.json", "--trace", "bad.csv"], 1, "bad.csv:3: time: 'soon' is no time"),
        (["digits.yaml", "--curve", "curve.json", "--trace", "binary"], 1, "binary: not UTF-8 text"),
        (["no.yaml", "--curve", "curve.json", *STEPS], 1, "no.yaml: no such file"),
        (["bad.yaml", "--curve", "curve.json", *STEPS], 1, "bad.yaml:4: ModelDeployment/digits spec.model: missing"),
        (["two.yaml", "--curve", "curve.json", *STEPS], 1, "several ModelDeployments: digits, other; choose one"),
        (["two.yaml", "--model", "x", "--curve", "curve.json", *STEPS], 1, "no ModelDeployment 'x'; there is digits"),
        (["digits.yaml", "--curve", "curve.json", *STEPS, "--start-up", "8"], 2, "'8' is not a duration"),
        (["digits.yaml", "--curve", "curve.json", *STEPS, "--begin", "today"], 2, "'today' is no moment"),
        (["digits.yaml", "--curve", "curve.json", *STEPS, "--begin", "2026-03-02T08:00"], 2, "is no moment in a time"),
        (["digits.yaml", "--curve", "curve.json", *STEPS, "--every", "0s"], 2, "--every: a row is of 1s at least"),
        (["digits.yaml", "--curve", "curve.json", *STEPS, "--plot", "out.gif"], 1, "out.gif is no picture's name"),
        (["digits.yaml", "--curve", "curve.json", *STEPS, "--plot", "no/out.png"], 1, "there is no such folder"),
        (["digits.yaml", "--curve", "curve.json", *STEPS, "--json", "no/out.json"], 1, "no/out.json cannot be written"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, arguments: list[str], code: int, said: str) -> None:
    (folder / "bad.csv").write_text("time\n1\nsoon\n")
    (folder / "binary").write_bytes(b"1\n\xff\xfe\n")
    (folder / "bad.yaml").write_text(SPEC.replace('  model: {uri: "models:/digits@champion"}\n', ""))
    (folder / "two.yaml").write_text(SPEC + "---\n" + SPEC.replace("digits}", "other}"))
    result = simulate(*arguments)
    assert said in result.output
    assert result.exit_code == code
