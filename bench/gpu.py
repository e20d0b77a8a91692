"""Shares of one GPU, measured on any machine that has one; without Ray, in less than ten minutes.

    python -m bench.gpu [--device cuda] [--seconds 5] [--rounds 3] [--json gpu.json]

It needs a checkout, PyTorch, numpy, pandas and PyYAML, and nvidia-ml-py to see what NVML says. Each model is a process
of its own that runs the serving package's caps, batcher and flavours (`bench/gpu_worker.py`):

- the cap holds: a model that allocates without end is refused at its cap, to within 256 MiB, and a batch that does not
  fit is halved until it does. PyTorch and onnxruntime by their own limits; what has none is ended by NVML's word.
- three models on one GPU against one alone, and beside one that allocates without end; with MPS too, where it starts.
- batched against one by one.

`--device cpu` takes the same ways on a machine without a GPU, where the cap is one of the process. Exit code 1: a bound
does not hold, or a part failed; the others are measured all the same. What cannot be tried here is said, and is no
failure.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import bare, gpu_models  # noqa: F401 - bare before the serving package
from bench.gpu_mps import MpsError, mps
from rayfleet_serving.model.guard import EXIT_CODE

ROOT = Path(__file__).resolve().parent.parent
BEGAN = time.monotonic()
MIB = 2**20
CAP = 1536 * MIB
WITHIN = 256 * MIB
WORKER_S = 120
"""For a worker to start, and to end. The first one of a machine reads PyTorch from its disk."""
LAST_ROUND_S = 300.0
"""After so long only a part's first round begins: a slow machine has fewer, and takes no more than ten minutes."""
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


class WorkerFailedError(Exception):
    """A worker did not do what it was to; the end of what it said."""


class Worker:
    """A model in a process of its own; `options` are those of `gpu_worker`."""

    def __init__(self, kind: str, environ: dict[str, str] | None = None, **options: Any) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DEFAULT_PREDICTION_DEVICE": options["device"]}
        if options["device"] == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would stop it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.gpu_worker", kind, json.dumps(options)],
            cwd=ROOT,
            env=env | (environ or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ready(self) -> None:
        """Wait until its model is loaded and warm."""
        assert self.process.stdout is not None
        too_late = threading.Timer(WORKER_S, self.process.kill)
        too_late.start()
        said = self.process.stdout.readline().strip()
        too_late.cancel()
        if said != "ready":
            raise WorkerFailedError(f"a worker did not start: {self.said()}")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What it measured, with its exit code."""
        try:
            out, _ = self.process.communicate(timeout=WORKER_S)
        except subprocess.TimeoutExpired:
            raise WorkerFailedError(f"a worker did not end within {WORKER_S} s: {self.said()}") from None
        lines = out.strip().splitlines()
        if not lines:
            raise WorkerFailedError(f"a worker ended with {self.process.returncode}: {self.said()}")
        return {**json.loads(lines[-1]), "code": self.process.returncode}

    def said(self) -> str:
        """Its last words; all of them go to where ours go."""
        self.stop()
        self._errors.seek(0)
        text = self._errors.read()
        print(text[-3000:], file=sys.stderr)
        return (text.strip().splitlines() or ["nothing was said"])[-1]

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def run(kind: str, **options: Any) -> dict[str, Any]:
    worker = Worker(kind, **options)
    try:
        worker.ready()
        worker.go()
        return worker.result()
    finally:
        worker.stop()


def cap(library: str, device: str, folder: Path) -> list[Row]:
    if why := gpu_models.missing(library, device):
        return [Row(f"cap, {library}", f"not tried: {why}")]
    model = "wide" if library == "torch" else library
    found = run("hoard", model=model, device=device, cap=CAP, folder=str(folder))
    if "why" in found:
        return [Row(f"cap, {library}", f"not tried: {found['why']}")]
    off = found["used"] - CAP
    text = f"{found['used'] / MIB:.0f} MiB of {CAP // MIB}, {off / MIB:+.0f}; {found['measured_by']}"
    if found["context"]:
        text += f"; CUDA's context {found['context'] / MIB:.0f}"
    rows = [Row(f"cap, {library}", text, f"within {WITHIN // MIB} MiB", abs(off) <= WITHIN)]
    halved = found["answered"] == found["asked"] and found["halved"] > 0
    text = f"{found['answered']} of {found['asked']} rows answered, halved {found['halved']} times"
    return [*rows, Row(f"a batch beyond it, {library}", text, "all, halved", halved)]


def watched(device: str, folder: Path) -> list[Row]:
    if device == "cuda" and importlib.util.find_spec("pynvml") is None:
        return [Row("cap, watched", "not tried: nvidia-ml-py is not installed")]
    found = run("unlimited", device=device, cap=CAP, folder=str(folder))
    if "why" in found:
        return [Row("cap, watched", f"not tried: {found['why']}")]
    ended = found["code"] == EXIT_CODE and found["seconds"] <= ENDS_WITHIN_S
    text = f"ended itself after {found['seconds']:.1f} s at {found['used'] / MIB:.0f} MiB: {found['said']}"
    return [Row("cap, watched", text, f"within {ENDS_WITHIN_S:g} s", ended)]


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
    hog = Worker("hoard", environ, model="wide", forever=True, **options) if hostile else None
    workers = [Worker("serve", environ, seconds=seconds, max_batch=32, **options) for _ in range(count)]
    try:
        for worker in [*workers, *([hog] if hog else [])]:
            worker.ready()
        if hog is not None:
            hog.go()
            time.sleep(1)  # so that it is at its cap
        for worker in workers:
            worker.go()
        results = [worker.result() for worker in workers]
        if hog is not None and hog.process.poll() is not None:
            raise WorkerFailedError(f"the one that allocates without end has ended: {hog.said()}")
        return results
    finally:
        for worker in [*workers, *([hog] if hog else [])]:
            worker.stop()


def summary(rounds: list[list[dict[str, Any]]]) -> tuple[float, str]:
    """Rows a second of all models of a round together, and the p99 of the slowest; medians of the rounds."""
    rate = statistics.median(sum(each["rows"] for each in found) for found in rounds)
    p99 = statistics.median(max(each["p99_ms"] for each in found) for found in rounds)
    return rate, f"{rate:.0f} rows/s, p99 {p99:.1f} ms"


def rounds_in_time(count: int) -> Iterator[int]:
    """So many, or as many as begin in time; at least one."""
    for number in range(count):
        if not number or time.monotonic() - BEGAN < LAST_ROUND_S:
            yield number


def sharing(device: str, folder: Path, seconds: float, rounds: int) -> list[Row]:
    """The sides take turns: what else the machine does meets all of them."""
    found: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in ("alone", "beside", "three", "mps")}
    why = "" if device == "cuda" else "it is a GPU's"
    for number in rounds_in_time(rounds):
        found["alone"].append(together(device, folder, seconds, 1))
        found["beside"].append(together(device, folder, seconds, 1, hostile=True))
        found["three"].append(together(device, folder, seconds, 3))
        if not why:
            try:
                with mps(folder / f"mps-{number}") as environ:
                    shared = together(device, folder, seconds, 3, environ)
                found["mps"].append(shared)
            except (MpsError, WorkerFailedError) as error:
                why = str(error)
    alone, text = summary(found["alone"])
    busy = statistics.median(each["busy"] for (each,) in found["alone"])
    rows = [Row("one model alone", f"{text}, computing {100 * busy:.0f} % of the time")]
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


def batching(device: str, folder: Path, seconds: float, rounds: int) -> list[Row]:
    found: dict[int, list[list[dict[str, Any]]]] = {1: [], 32: []}
    for _ in rounds_in_time(rounds):
        for most, runs in found.items():
            options = {"device": device, "cap": CAP, "folder": str(folder)}
            runs.append([run("serve", seconds=seconds, max_batch=most, **options)])
    single, text = summary(found[1])
    rows = [Row("one by one", text)]
    rate, text = summary(found[32])
    ratio = rate / single
    return [*rows, Row("batches of up to 32", f"{text}: {ratio:.1f} times", "more than one by one", ratio > 1)]


def tried(what: str, measure: Callable[[], list[Row]]) -> list[Row]:
    """What a part measured, or one row that says why it failed."""
    try:
        return measure()
    except Exception as error:  # what the other parts measure is worth having
        traceback.print_exc()
        return [Row(what, f"failed: {error}", "runs", False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of throughput")
    parser.add_argument("--rounds", type=int, default=3, help="in which the sides take turns")
    parser.add_argument("--json", type=Path, help="where the rows are written as well")
    options = parser.parse_args()
    if why := gpu_models.missing("torch", options.device):
        raise SystemExit(f"{why}; --device cpu takes the same ways without a GPU")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = options.device, folder
        rows = tried("cap, torch", lambda: cap("torch", *given))
        rows += tried("cap, onnxruntime", lambda: cap("onnxruntime", *given))
        rows += tried("cap, watched", lambda: watched(*given))
        rows += tried("models together", lambda: sharing(*given, options.seconds, options.rounds))
        rows += tried("batches", lambda: batching(*given, options.seconds, options.rounds))
    print(f"{gpu_models.describe(options.device)}; {time.monotonic() - BEGAN:.0f} s\n")
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
