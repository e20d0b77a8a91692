"""A stand-in for NVML's Python module, and for CUDA's driver: one GPU, and the processes that are said to be on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

BUS_ID = "0000:01:00.0"


class NVMLError(Exception):
    """As NVML's own."""


@dataclass
class Card:
    """What NVML lists: bytes by process, as the node numbers them."""

    processes: dict[int, int | None] = field(default_factory=dict)
    under_mps: dict[int, int | None] = field(default_factory=dict)
    on_context: Callable[[], None] = lambda: None
    """What happens on the card while this process opens its context."""
    broken: bool = False

    def module(self) -> Any:
        """What `import pynvml` gives."""

        def listed(processes: dict[int, int | None]) -> list[Any]:
            if self.broken:
                raise NVMLError("GPU is lost")
            return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes.items()]

        def by_bus_id(bus_id: str) -> str:
            if bus_id != BUS_ID:
                raise NVMLError("not found")
            return "the card"

        return SimpleNamespace(
            NVMLError=NVMLError,
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByPciBusId=by_bus_id,
            nvmlDeviceGetComputeRunningProcesses=lambda device: listed(self.processes),
            nvmlDeviceGetMPSComputeRunningProcesses=lambda device: listed(self.under_mps),
        )

    def bus_id(self) -> str:
        """As `cuda.Cuda`."""
        return BUS_ID

    def open_context(self) -> None:
        """As `cuda.Cuda`."""
        self.on_context()
