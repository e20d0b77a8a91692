"""What this process has on its GPU, by NVML: every allocation of every library, and CUDA's own context.

NVML lists the processes on a GPU by the ids that they have on the node, and a container knows its own only as it is
inside. Therefore this process is the one that appears while it opens its CUDA context. Where several appear at once, as
when replicas start together, those that leave are struck out until one is left, and until then nothing is known.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any

from rayfleet_serving.model.cuda import Cuda, CudaError

logger = logging.getLogger(__name__)


class GpuAccount:
    """One process on one GPU. `processes` are the ids that may be this one."""

    def __init__(self, nvml: Any, device: Any, processes: set[int]) -> None:
        self._nvml = nvml
        self._device = device
        self._processes = processes

    def used(self) -> int | None:
        """Bytes that this process has on the GPU; None where NVML does not tell."""
        try:
            listed = memory_by_process(self._nvml, self._device)
        except self._nvml.NVMLError as error:
            logger.warning("NVML does not tell what is on the GPU: %s", error)
            return None
        if len(self._processes) > 1:
            # Where none is left, NVML has left out this process, too: such a list says nothing of the others.
            self._processes = self._processes & listed.keys() or self._processes
        if len(self._processes) != 1:
            return None
        return listed.get(next(iter(self._processes)))


def memory_by_process(nvml: Any, device: Any) -> dict[int, int | None]:
    """Bytes of each process on a GPU; None for one of which the driver does not say."""
    found = list(nvml.nvmlDeviceGetComputeRunningProcesses(device))
    with contextlib.suppress(nvml.NVMLError):  # an old driver
        # Under MPS they are listed apart.
        found += nvml.nvmlDeviceGetMPSComputeRunningProcesses(device)
    return {each.pid: each.usedGpuMemory for each in found}


def open_account(cuda: Cuda) -> GpuAccount | None:
    """Opens the process' CUDA context and looks for it in NVML; None where there is none, or it lists nothing new."""
    try:
        import pynvml
    except ModuleNotFoundError:
        logger.warning("nvidia-ml-py is not installed: gpuMemory is enforced only by the libraries that can.")
        return None
    try:
        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByPciBusId(cuda.bus_id())
        before = memory_by_process(pynvml, device).keys()
        cuda.open_context()
        new = memory_by_process(pynvml, device).keys() - before
    except (pynvml.NVMLError, CudaError) as error:
        logger.warning("The GPU's memory is not watched: %s", error)
        return None
    if os.getpid() in new:
        new = {os.getpid()}
    if not new:
        logger.warning("NVML lists no process of this replica: gpuMemory is enforced only by the libraries that can.")
        return None
    return GpuAccount(pynvml, device, set(new))
