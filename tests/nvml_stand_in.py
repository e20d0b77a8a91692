"""A stand-in for NVML's Python module, and for CUDA's driver: GPUs, and the processes that are said to be on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

BUS_ID = "0000:01:00.0"
OTHER_BUS_ID = "0000:02:00.0"


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
    others: dict[int, int | None] | None = None
    """On a second GPU, where this replica has one."""

    def module(self) -> Any:
        """What `import pynvml` gives."""

        def listed(processes: dict[int, int | None]) -> list[Any]:
            if self.broken:
                raise NVMLError("GPU is lost")
            return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes.items()]

        def by_bus_id(bus_id: str) -> str:
            if bus_id not in self.bus_ids():
                raise NVMLError("not found")
            return bus_id

        def under_mps(bus_id: str) -> list[Any]:
            return listed(self.under_mps if bus_id == BUS_ID else {})

        def computing(bus_id: str) -> list[Any]:
            return listed(self.processes if bus_id == BUS_ID else self.others or {})

        return SimpleNamespace(
            NVMLError=NVMLError,
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByPciBusId=by_bus_id,
            nvmlDeviceGetComputeRunningProcesses=computing,
            nvmlDeviceGetMPSComputeRunningProcesses=under_mps,
        )

    def bus_ids(self) -> list[str]:
        """As `cuda.Cuda`."""
        return [BUS_ID] if self.others is None else [BUS_ID, OTHER_BUS_ID]

    def open_context(self) -> None:
        """As `cuda.Cuda`."""
        self.on_context()
