"""What one replica may take of the memory that it shares with others.

Of a GPU it is `gpuMemory`: PyTorch and onnxruntime get a limit of their own, which fails an allocation, and NVML tells
what the process takes whatever allocates it. Of the machine it is `memory`, a limit on the process. Without a GPU
`gpuMemory` is a part of the process, too: what would lie on the card lies there.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
from contextlib import AbstractContextManager

from rayfleet_serving.link.room import Room
from rayfleet_serving.model import gpu_watch, process_memory
from rayfleet_serving.model.cuda import Cuda, CudaError
from rayfleet_serving.model.errors import LoadError
from rayfleet_serving.model.gpu_watch import GpuAccount
from rayfleet_serving.model.process_memory import MIB, RESERVE, RUNTIME_SLACK, STACKS, DataLimit

logger = logging.getLogger(__name__)

GPU_SLACK = 256 * MIB
"""How far a process may be beyond `gpuMemory` before its replica ends: kernels that CUDA loads when they are first
called lie outside of every library's own limit."""
LOSSES = 3
"""Times that a replica found no memory for requests, after which it is of no use."""
FULL = 0.75
"""A share is full when this much of what the model itself leaves is still taken after a row did not fit, and everything
idle was given back."""


def size(bytes_: int) -> str:
    """As people write it: "6 GiB", "7.1 GiB", "512 MiB"."""
    if bytes_ >= 1024 * MIB:
        return f"{round(bytes_ / 2**30, 1):g} GiB"
    return f"{round(bytes_ / MIB):d} MiB"


class Share(Room):
    """The caps of this process. Nothing holds before `hold`, and nothing at all where no cap is given."""

    def __init__(
        self,
        *,
        memory_bytes: int | None,
        gpu_memory_bytes: int | None,
        has_gpu: bool = False,
        account: GpuAccount | None = None,
        cpus: float | None = 1,
    ) -> None:
        """
        Args:
            memory_bytes: of the whole process.
            gpu_memory_bytes: of each of its GPUs; of this process where there is none.
            has_gpu: whether there is one.
            account: what NVML tells of it.
            cpus: for which libraries start threads; None for all of the machine's.

        Raises:
            LoadError: OutOfMemory where CUDA alone takes as much.
        """
        self.memory_bytes = memory_bytes
        self.gpu_memory_bytes = gpu_memory_bytes
        self.has_gpu = has_gpu
        self._account = account
        self._limit: DataLimit | None = None
        self._slack = RUNTIME_SLACK + STACKS * max(0, _threads(cpus) - 1)
        self.losses = 0
        """Times that there was no memory to take requests or to answer them."""
        context = account.least() if account is not None else 0
        self.library_bytes = gpu_memory_bytes - context if gpu_memory_bytes is not None and has_gpu else None
        """Of a GPU's memory, what the model's own library may allocate: without `context`, which CUDA has taken itself.
        None where there is no GPU: to have a library limit itself takes its import."""
        self._own = 0
        if gpu_memory_bytes is not None and context >= gpu_memory_bytes:
            text = f"its gpuMemory is {size(gpu_memory_bytes)}, and CUDA alone takes {size(context)} of it"
            raise LoadError("OutOfMemory", text)

    @property
    def text(self) -> str:
        """The caps, for people: what follows "more than its"."""
        caps = []
        if self.memory_bytes is not None:
            caps.append(f"{size(self.memory_bytes)} of memory")
        if self.gpu_memory_bytes is not None:
            caps.append(f"{size(self.gpu_memory_bytes)} of GPU memory")
        return " and ".join(caps) or "machine's memory"

    def hold(self) -> None:
        """Begin to enforce the caps. Called once, between the libraries' imports and the model's own bytes: what the
        runtime has asked for by then and never touched is nobody's.

        Raises:
            LoadError: OutOfMemory where the process takes all of its memory already.
        """
        now = process_memory.read()
        if now is None or (self.memory_bytes is None and (self.gpu_memory_bytes is None or self.has_gpu)):
            return
        growth = 0 if self.has_gpu else self.gpu_memory_bytes or 0
        if self.memory_bytes is not None:
            if now.resident >= self.memory_bytes:
                runtime = f"Python, Ray and the model's libraries alone take {size(now.resident)}"
                raise LoadError("OutOfMemory", f"it needs more than its {size(self.memory_bytes)} of memory: {runtime}")
            growth += self.memory_bytes - now.resident
        if self.has_gpu:
            return  # CUDA's driver maps memory of the machine's in its own way; `over` looks at what is taken.
        try:
            self._limit = DataLimit(growth + self._slack)
        except (OSError, ValueError) as error:
            logger.warning("The process has no limit of memory: %s", error)

    def enforced(self) -> AbstractContextManager[None]:
        """While the model computes."""
        return self._limit.enforced() if self._limit is not None else contextlib.nullcontext()

    def reserve(self) -> AbstractContextManager[None]:
        """As of `Room`."""
        return self._limit.reserve() if self._limit is not None else contextlib.nullcontext()

    def answers(self) -> AbstractContextManager[None]:
        """As of `Room`."""
        return self._limit.answers() if self._limit is not None else contextlib.nullcontext()

    def lacked(self, *, for_long: bool = False) -> None:
        """As of `Room`, for the guard."""
        self.losses += LOSSES if for_long else 1

    def part(self) -> None:
        """Let the process say why it ends."""
        if self._limit is not None:
            self._limit.part()

    def memory_used(self) -> int | None:
        """Bytes that the process takes."""
        now = process_memory.read()
        return now.resident if now is not None else None

    def gpu_memory_used(self) -> int | None:
        """Bytes of GPU memory that the process takes, of several GPUs where it takes most. Without one, what it has
        taken since `hold`.
        """
        if self._account is not None:
            return self._account.used()
        if self.gpu_memory_bytes is not None and not self.has_gpu and self._limit is not None:
            return self._limit.used
        return None

    def over(self) -> str | None:
        """What is taken beyond a cap by more than its slack, for people; None where nothing is."""
        used = self.gpu_memory_used() if self.has_gpu else None
        if used is not None and self.gpu_memory_bytes is not None and used > self.gpu_memory_bytes + GPU_SLACK:
            return f"takes {size(used)} of GPU memory, its gpuMemory is {size(self.gpu_memory_bytes)}"
        taken = self.memory_used()
        logical = 0 if self.has_gpu else self.gpu_memory_bytes or 0
        slack = self._slack + (RESERVE if self._limit is not None else 0)
        if taken is not None and self.memory_bytes is not None and taken > self.memory_bytes + logical + slack:
            return f"takes {size(taken)} of memory, its memory is {size(self.memory_bytes + logical)}"
        return None

    def give_back(self) -> None:
        """Give back what is only kept for later. In the device thread, after a row did not fit."""
        gc.collect()
        torch = sys.modules.get("torch")
        if self.has_gpu and torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):  # not glibc
                ctypes.CDLL(None).malloc_trim(0)

    def loaded(self) -> None:
        """What is taken now is the model itself."""
        self._own, _ = self._taken()

    def full(self) -> bool:
        """Whether nearly all of what the model itself leaves of a cap is taken."""
        taken, cap = self._taken()
        return taken > self._own and taken - self._own >= FULL * (cap - self._own)

    def _taken(self) -> tuple[int, int]:
        """Bytes that are taken of a cap, and its own; of a GPU's where there is one. 0 where that is not known."""
        if self._limit is not None:
            return self._limit.used, self._limit.growth
        return self.gpu_memory_used() or 0, self.gpu_memory_bytes or 0


def _threads(cpus: float | None) -> int:
    """How many a library starts, with so many CPUs or where somebody has set a number for it."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    own = int(cpus) if cpus is not None else os.cpu_count() or 1
    return max(own, int(told) if told.isdecimal() else 1)


def open_share(*, memory_bytes: int | None, gpu_memory_bytes: int | None, cpus: float | None = 1) -> Share:
    """The share of this process on the GPU that is visible to it, if any. Raises `LoadError` as `Share` does."""
    if gpu_memory_bytes is None and memory_bytes is None:
        return Share(memory_bytes=None, gpu_memory_bytes=None)
    try:
        cuda = Cuda()
    except CudaError:
        # Of another maker's GPU nothing can be asked; where Ray gives one, it sets this.
        other = bool(os.environ.get("HIP_VISIBLE_DEVICES"))
        return Share(memory_bytes=memory_bytes, gpu_memory_bytes=gpu_memory_bytes, has_gpu=other, cpus=cpus)
    account = gpu_watch.open_account(cuda) if gpu_memory_bytes is not None else None
    return Share(
        memory_bytes=memory_bytes,
        gpu_memory_bytes=gpu_memory_bytes,
        has_gpu=True,
        account=account,
        cpus=cpus,
    )
