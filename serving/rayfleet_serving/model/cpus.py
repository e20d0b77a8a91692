"""A replica's part of the CPUs: how many threads its libraries start, and who goes first where all are busy.

Ray sets OMP_NUM_THREADS, which PyTorch, OpenBLAS, XGBoost and scikit-learn's own loops follow, and onnxruntime by
`flavors.onnx`. What follows it not is named here.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading

VARIABLES = ("LOKY_MAX_CPU_COUNT", "RAYON_NUM_THREADS")
"""Joblib's, for estimators with n_jobs=-1, and that of tokenizers."""


def limit(count: float | None) -> None:
    """Have libraries that are not loaded yet start at most so many threads each; at least one, None for no limit.

    A variable that somebody has set stays as it is.
    """
    if count is not None:
        for name in VARIABLES:
            os.environ.setdefault(name, str(max(1, int(count))))


BEHIND = 5
"""How much nicer what computes is than what answers: it gets about a third of the time of a router that is as busy."""
NICEST = 19
STEP = 1.25
"""Of the CPU time of two busy threads, one step of niceness apart (Linux, sched/core.c: sched_prio_to_weight)."""


def yield_to_others(count: float | None) -> None:
    """Have this thread, and those that it starts, compute behind the event loops of this machine.

    A model of half a CPU goes behind one of a whole CPU, by as much as it asked for less. It matters only where there
    is more to do than there are CPUs.

    Args:
        count: the replica's CPUs.
    """
    if sys.platform != "linux":
        return  # elsewhere it would be the whole process
    thread = threading.get_native_id()
    less = round(math.log(1 / min(1.0, max(count or 1.0, 0.01)), STEP))
    with contextlib.suppress(OSError):
        nice = os.getpriority(os.PRIO_PROCESS, thread) + BEHIND + less
        os.setpriority(os.PRIO_PROCESS, thread, min(nice, NICEST))
