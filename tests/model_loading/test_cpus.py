"""How many threads libraries start in a replica: as many as it has CPUs. Each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from rayfleet_serving.model import cpus

LOOK = """
import os
os.environ["OMP_NUM_THREADS"] = "{omp}"  # as Ray does it before a replica's first line
from rayfleet_serving.model import cpus
cpus.limit({cpus})
import joblib, numpy, threadpoolctl, torch
from joblib.externals.loky import cpu_count
pools = {{pool["num_threads"] for pool in threadpoolctl.threadpool_info()}}
print(pools, torch.get_num_threads(), cpu_count(), os.environ["RAYON_NUM_THREADS"])
"""


def look(cpus: float, omp: int, **given: str) -> str:
    env = {name: value for name, value in os.environ.items() if name not in ("LOKY_MAX_CPU_COUNT", "RAYON_NUM_THREADS")}
    ran = subprocess.run(
        [sys.executable, "-c", LOOK.format(cpus=cpus, omp=omp)],
        env=env | given,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.strip()


@pytest.mark.parametrize("cpus", [0.2, 1.0])
def test_one_cpu_is_one_thread_whatever_the_machine_has(cpus: float) -> None:
    assert look(cpus, 1) == "{1} 1 1 1"


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="joblib counts no CPUs that there are not")
def test_two_cpus_are_two_threads() -> None:
    assert look(2.0, 2) == "{2} 2 2 2"


def test_what_somebody_has_set_stays() -> None:
    assert look(1.0, 1, RAYON_NUM_THREADS="7") == "{1} 1 1 7"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no niceness of their own")
@pytest.mark.parametrize(("count", "behind"), [(None, 5), (4.0, 5), (1.0, 5), (0.5, 8), (0.3, 10), (0.0001, 19)])
def test_what_computes_goes_behind_what_answers_by_what_it_asked_for(count: float | None, behind: int) -> None:
    found: list[int] = []

    def computes() -> None:
        cpus.yield_to_others(count)
        child = threading.Thread(target=lambda: found.append(nice()))
        child.start()
        child.join()

    thread = threading.Thread(target=computes)
    before = nice()
    thread.start()
    thread.join()
    assert found == [min(before + behind, 19)]
    assert nice() == before, "the others stay as they are"


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
