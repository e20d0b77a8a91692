"""Shares of one GPU, measured on any machine that has one; without Ray, in less than ten minutes.

    python -m bench.gpu [--device cuda] [--seconds 5] [--rounds 3] [--json gpu.json]

Each model is a process of its own that runs the serving package's caps, batcher and flavours (`bench/gpu_worker.py`):

- the cap holds: a model that allocates without end is refused at its cap, to within 256 MiB, and a batch that does not
  fit is halved until it does. PyTorch and onnxruntime by their own limits; what has none is ended by NVML's word.
- three models on one GPU against one alone, and beside one that allocates without end; with MPS too, where it starts.
- batched against one by one.

`--device cpu` takes the same ways on a machine without a GPU, where the cap is one of the process. Exit code 1: a bound
does not hold. What cannot be tried here is said, and is no failure.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import gpu_models
from rayfleet_serving.model.guard import EXIT_CODE

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
CAP = 1536 * MIB
WITHIN = 256 * MIB
WORKER_S = 120
TOGETHER = 0.8
"""Three models' throughput together, against one alone: taking turns costs less than a fifth."""
ENDS_WITHIN_S = 5.0
"""From the moment that a process without a limit is beyond its cap by more than its slack until it has ended itself."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    bound: str = ""
    holds: bool | None = None
    """None where there is no bound, or it could not be tried."""


class Worker:
    """A model in a process of its own; `options` are those of `gpu_worker`."""

    def __init__(self, kind: str, environ: dict[str, str] | None = None, **options: Any) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DEFAULT_PREDICTION_DEVICE": options["device"]}
        if options["device"] == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.gpu_worker", kind, json.dumps(options)],
            cwd=ROOT,
            env=env | (environ or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        """Wait until its model is loaded and warm."""
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"a worker did not start:\n{self.process.communicate()[1][-3000:]}")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What it measured, with its exit code."""
        try:
            out, errors = self.process.communicate(timeout=WORKER_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise SystemExit(f"a worker did not end within {WORKER_S} s") from None
        lines = out.strip().splitlines()
        if not lines:
            raise SystemExit(f"a worker said nothing:\n{errors[-3000:]}")
        return {**json.loads(lines[-1]), "code": self.process.returncode}

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def run(kind: str, **options: Any) -> dict[str, Any]:
    worker = Worker(kind, **options)
    worker.ready()
    worker.go()
    return worker.result()


def caps(device: str, folder: Path) -> list[Row]:
    rows = []
    for library in ("torch", "onnxruntime"):
        if why := gpu_models.missing(library, device):
            rows.append(Row(f"cap, {library}", f"not tried: {why}"))
            continue
        found = run(
            "hoard", library="wide" if library == "torch" else library, device=device, cap=CAP, folder=str(folder)
        )
        off = found["used"] - CAP
        text = f"{found['used'] / MIB:.0f} MiB of {CAP // MIB}, {off / MIB:+.0f}; {found['measured_by']}"
        rows.append(Row(f"cap, {library}", text, f"within {WITHIN // MIB} MiB", abs(off) <= WITHIN))
        halved = found["answered"] == found["asked"] and found["halved"] > 0
        text = f"{found['answered']} of {found['asked']} rows answered, halved {found['halved']} times"
        rows.append(Row(f"a batch beyond it, {library}", text, "all, halved", halved))
    if device == "cuda" and importlib.util.find_spec("pynvml") is None:
        return [*rows, Row("cap, watched", "not tried: nvidia-ml-py is not installed")]
    found = run("unlimited", device=device, cap=CAP, folder=str(folder))
    if "why" in found:
        return [*rows, Row("cap, watched", f"not tried: {found['why']}")]
    ended = found["code"] == EXIT_CODE and found["seconds"] <= ENDS_WITHIN_S
    text = f"ended itself after {found['seconds']:.1f} s at {found['used'] / MIB:.0f} MiB: {found['said']}"
    return [*rows, Row("cap, watched", text, f"within {ENDS_WITHIN_S:g} s", ended)]


def together(
    device: str,
    folder: Path,
    seconds: float,
    count: int,
    environ: dict[str, str] | None = None,
    *,
    hostile: bool = False,
) -> list[dict[str, Any]]:
    """What each of `count` models did at the same time, beside one that allocates without end."""
    options = {"device": device, "cap": CAP, "folder": str(folder)}
    hog = Worker("hoard", environ, library="wide", forever=True, **options) if hostile else None
    workers = [Worker("serve", environ, seconds=seconds, max_batch=32, **options) for _ in range(count)]
    try:
        for worker in [*workers, *([hog] if hog else [])]:
            worker.ready()
        if hog is not None:
            hog.go()
            time.sleep(1)  # so that it is at its cap
        for worker in workers:
            worker.go()
        return [worker.result() for worker in workers]
    finally:
        for worker in [*workers, *([hog] if hog else [])]:
            worker.stop()


def summary(rounds: list[list[dict[str, Any]]]) -> tuple[float, str]:
    """Rows a second of all models of a round together, and the p99 of the slowest; medians of the rounds."""
    rate = statistics.median(sum(each["rows"] for each in found) for found in rounds)
    p99 = statistics.median(max(each["p99_ms"] for each in found) for found in rounds)
    return rate, f"{rate:.0f} rows/s, p99 {p99:.1f} ms"


def sharing(device: str, folder: Path, seconds: float, rounds: int) -> list[Row]:
    """The sides take turns: what else the machine does meets all of them."""
    found: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in ("alone", "beside", "three", "mps")}
    why = "it is a GPU's"
    for number in range(rounds):
        found["alone"].append(together(device, folder, seconds, 1))
        found["beside"].append(together(device, folder, seconds, 1, hostile=True))
        found["three"].append(together(device, folder, seconds, 3))
        if device == "cuda":
            with mps(folder / f"mps-{number}") as (environ, why):
                if environ is not None:
                    found["mps"].append(together(device, folder, seconds, 3, environ))
    alone, text = summary(found["alone"])
    rows = [Row("one model alone", text)]
    rate, text = summary(found["beside"])
    rows.append(Row("the same beside one that allocates without end", f"{text}: {rate / alone:.2f} of it alone"))
    for name, what in (("three", "three models"), ("mps", "three models, MPS")):
        if not found[name]:
            rows.append(Row(what, f"not tried: {why}"))
            continue
        rate, text = summary(found[name])
        rows.append(
            Row(what, f"{text}: {rate / alone:.2f} of one", f"at least {TOGETHER} of one", rate >= TOGETHER * alone)
        )
    return rows


@contextlib.contextmanager
def mps(folder: Path) -> Iterator[tuple[dict[str, str] | None, str]]:
    """The variables of a third of a GPU under an MPS of our own; None with the reason where it does not start."""
    command = shutil.which("nvidia-cuda-mps-control")
    if command is None:
        yield None, "nvidia-cuda-mps-control is not installed"
        return
    folder.mkdir()
    pipes = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    started = subprocess.run(
        [command, "-d"], env=os.environ | pipes, capture_output=True, text=True, timeout=30, check=False
    )
    if started.returncode:
        yield None, (started.stderr or started.stdout).strip() or f"it ended with {started.returncode}"
        return
    try:
        yield pipes | {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "33"}, ""
    finally:
        subprocess.run([command], input="quit\n", env=os.environ | pipes, text=True, timeout=60, check=False)


def batching(device: str, folder: Path, seconds: float, rounds: int) -> list[Row]:
    found: dict[int, list[list[dict[str, Any]]]] = {1: [], 32: []}
    for _ in range(rounds):
        for most, runs in found.items():
            options = {"device": device, "cap": CAP, "folder": str(folder)}
            runs.append([run("serve", seconds=seconds, max_batch=most, **options)])
    single, text = summary(found[1])
    rows = [Row("one by one", text)]
    rate, text = summary(found[32])
    ratio = rate / single
    return [*rows, Row("batches of up to 32", f"{text}: {ratio:.1f} times", "more than one by one", ratio > 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of throughput")
    parser.add_argument("--rounds", type=int, default=3, help="in which the sides take turns")
    parser.add_argument("--json", type=Path, help="where the rows are written as well")
    options = parser.parse_args()
    if why := gpu_models.missing("torch", options.device):
        raise SystemExit(f"{why}; --device cpu takes the same ways without a GPU")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gpu_models.save(folder, options.device)
        rows = caps(options.device, folder)
        rows += sharing(options.device, folder, options.seconds, options.rounds)
        rows += batching(options.device, folder, options.seconds, options.rounds)
    print(f"{gpu_models.describe(options.device)}; {time.monotonic() - begin:.0f} s\n")
    print("| what | measured | bound | holds |\n|---|---|---|---|")
    for row in rows:
        holds = "" if row.holds is None else "yes" if row.holds else "NO"
        print(f"| {row.what} | {row.measured} | {row.bound} | {holds} |")
    if options.json:
        document = {"device": gpu_models.describe(options.device), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if any(row.holds is False for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
