"""What this process has on its GPUs, by NVML: every allocation of every library, and CUDA's own context.

NVML lists the processes on a GPU by the ids that they have on the node, and a container knows its own only as it is
inside. Therefore this process is the one that appears while it opens its CUDA context. Replicas on one machine do that
one after the other. Where several appear at once all the same, as in pods that share a card, those that leave are
struck out until one is left, and until then nothing is known.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rayfleet_serving.model.cuda import Cuda, CudaError

logger = logging.getLogger(__name__)

TURN_S = 30.0
"""How long a replica waits for its turn to open a context, which takes about a second: one may hang in the driver."""


class GpuAccount:
    """One process on its GPUs. `processes` are the ids that may be this one, which has a context on the first GPU."""

    def __init__(self, nvml: Any, devices: Sequence[Any], processes: set[int]) -> None:
        self._nvml = nvml
        self._devices = devices
        self._processes = processes
        self._problem = ""

    def used(self) -> int | None:
        """Bytes that this process has on the GPU where it has most; None where NVML does not tell."""
        try:
            first, *others = (memory_by_process(self._nvml, device) for device in self._devices)
        except self._nvml.NVMLError as error:
            if str(error) != self._problem:  # once, and not at each look
                logger.warning("NVML does not tell what is on the GPU: %s", error)
            self._problem = str(error)
            return None
        self._problem = ""
        if len(self._processes) > 1:
            # Where none is left, NVML has left out this process, too: such a list says nothing of the others.
            self._processes = self._processes & first.keys() or self._processes
        if len(self._processes) != 1:
            return None
        (process,) = self._processes
        if (here := first.get(process)) is None:
            return None
        return max([here, *(listed.get(process) or 0 for listed in others)])

    def least(self) -> int:
        """Bytes of CUDA's context, whichever of the processes this one is; 0 where NVML does not tell."""
        try:
            listed = memory_by_process(self._nvml, self._devices[0])
        except self._nvml.NVMLError:
            return 0
        return min((listed[process] or 0 for process in self._processes & listed.keys()), default=0)


def memory_by_process(nvml: Any, device: Any) -> dict[int, int | None]:
    """Bytes of each process on a GPU; None for one of which the driver does not say."""
    found = nvml.nvmlDeviceGetComputeRunningProcesses(device)
    return {each.pid: each.usedGpuMemory for each in found} | _clients_of_mps(nvml, device)


def _clients_of_mps(nvml: Any, device: Any) -> dict[int, int | None]:
    """They are listed apart; the others' list has MPS' own server."""
    with contextlib.suppress(nvml.NVMLError):  # an old driver
        return {each.pid: each.usedGpuMemory for each in nvml.nvmlDeviceGetMPSComputeRunningProcesses(device)}
    return {}


@contextlib.contextmanager
def _turn(bus_id: str) -> Iterator[None]:
    """While no other replica on this machine opens a context on this GPU; where that cannot be had, all the same."""
    path = Path(tempfile.gettempdir()) / f"rayfleet-gpu-{bus_id}.lock"
    with contextlib.ExitStack() as stack:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            stack.callback(os.close, lock)
            until = time.monotonic() + TURN_S
            while not _locked(lock) and time.monotonic() < until:
                time.sleep(0.05)
        except OSError as error:  # of another user, perhaps
            logger.info("The CUDA context is opened out of turn: %s", error)
        yield


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_account(cuda: Cuda) -> GpuAccount | None:
    """Opens the process' CUDA context and looks for it in NVML; None where there is none, or it lists nothing new."""
    try:
        import pynvml
    except ModuleNotFoundError:
        logger.warning("nvidia-ml-py is not installed: gpuMemory is enforced only by the libraries that can.")
        return None
    try:
        pynvml.nvmlInit()
        bus_ids = cuda.bus_ids()
        devices = [pynvml.nvmlDeviceGetHandleByPciBusId(bus_id) for bus_id in bus_ids]
        with _turn(bus_ids[0]):
            before = memory_by_process(pynvml, devices[0]).keys()
            cuda.open_context()
            new = memory_by_process(pynvml, devices[0]).keys() - before
        # The first client of MPS starts its server, which is new as well.
        new = new & _clients_of_mps(pynvml, devices[0]).keys() or new
    except (pynvml.NVMLError, CudaError) as error:
        logger.warning("The GPU's memory is not watched: %s", error)
        return None
    if os.getpid() in new:
        new = {os.getpid()}
    if not new:
        logger.warning("NVML lists no process of this replica: gpuMemory is enforced only by the libraries that can.")
        return None
    return GpuAccount(pynvml, devices, set(new))
