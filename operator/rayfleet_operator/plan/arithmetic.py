"""Why a replica finds no room, with the sums: "needs 0.5 GPU, 0.2 free on 2 GPUs"."""

from __future__ import annotations

from rayfleet_operator.plan.packing import GIB, UNIT, Need, Packed, Packing, kinds_named, units

Sorts = list[tuple[Packed, int]]
"""Workers, and how many there are that are alike."""


def why_not(packing: Packing, need: Need) -> str:
    """What is lacking for one replica that `Packing.place` did not place: the first thing, of GPUs, their memory, CPUs
    and memory, that no worker has beside those before it."""
    right = [(worker, count) for worker, count in packing.sorts() if need.may_run_on(worker.worker)]
    if not right and need.accelerator:
        there = kinds_named(packing.room.kinds)
        return f"needs a GPU of the kind {need.accelerator}, and no worker has one (kinds that there are: {there})"
    if not right:
        return "needs a worker, and there is none"
    if need.gpus:
        if text := _gpus(right, need):
            return text
        right = [(worker, count) for worker, count in right if _shares(worker, need) >= (need.whole or 1)]
        if text := _gpu_memory(right, need):
            return text
        right = [(worker, count) for worker, count in right if worker.gpus_for(need) is not None]
    where = "beside such a GPU" if need.gpus else "on one worker"
    most = max(worker.cpus for worker, _ in right)
    if units(need.cpus) > most:
        return f"needs {_plural(need.cpus, 'CPU')}, {count_text(most)} free {where}"
    right = [(worker, count) for worker, count in right if worker.cpus >= units(need.cpus)]
    memory = max(worker.memory for worker, _ in right)
    return f"needs {size_text(need.memory)} of memory, {size_text(memory)} free {where}"


def _gpus(right: Sorts, need: Need) -> str | None:
    """None where some worker has the GPUs, whatever of their memory is free."""
    if any(_shares(worker, need) >= (need.whole or 1) for worker, _ in right):
        return None
    kind = f" of the kind {need.accelerator}" if need.accelerator else ""
    number = sum(count * len(worker.gpus) for worker, count in right)
    if not number:
        return f"needs {_plural(need.gpus, 'GPU')}{kind}, and there is none"
    if need.whole > 1:
        most = max(sum(gpu.share == UNIT for gpu in worker.gpus) for worker, _ in right)
        return f"needs {need.whole} GPUs{kind} of one worker, {most} free on one"
    free = sum(count * sum(gpu.share for gpu in worker.gpus) for worker, count in right)
    text = f"needs {_plural(need.gpus, 'GPU')}{kind}, {count_text(free)} free on {_plural(number, 'GPU')}"
    if free < units(need.gpus):
        return text
    most = max(gpu.share for worker, _ in right for gpu in worker.gpus)
    return f"{text}, at most {count_text(most)} on one"


def _gpu_memory(right: Sorts, need: Need) -> str | None:
    """None where some worker has GPUs with that much; `right` have the shares."""
    if any(worker.gpus_for(need) is not None for worker, _ in right):
        return None
    free = [
        gpu.memory
        for worker, _ in right
        for gpu in worker.gpus
        if gpu.share >= min(units(need.gpus), UNIT) and gpu.memory is not None
    ]
    where = f"on a GPU with {count_text(units(need.gpus))} free" if not need.whole else "on a free GPU"
    return f"needs {size_text(need.gpu_memory)} of GPU memory, {size_text(max(free))} free {where}"


def _shares(worker: Packed, need: Need) -> int:
    """GPUs of the worker that have what is asked for of each."""
    return sum(gpu.share >= min(units(need.gpus), UNIT) for gpu in worker.gpus)


def asked_text(need: Need) -> str:
    """What one replica asks for, for people: "0.5 GPU, 1 CPU"."""
    parts = [_plural(need.gpus, "GPU")] if need.gpus else []
    parts += [f"{size_text(need.gpu_memory)} of GPU memory"] if need.gpu_memory else []
    parts += [_plural(need.cpus, "CPU")] if need.cpus else []
    return ", ".join([*parts, *([f"{size_text(need.memory)} of memory"] if need.memory else [])])


def count_text(ten_thousandths: int) -> str:
    """CPUs or GPUs for people: "0.2"."""
    return f"{ten_thousandths / UNIT:.10g}"


def size_text(size: int) -> str:
    """Bytes for people: "2 GiB"."""
    return f"{size / GIB:.4g} GiB" if size >= GIB or not size else f"{size / 2**20:.4g} MiB"


def _plural(count: float, noun: str) -> str:
    return f"{count_text(units(count))} {noun}{'' if units(count) <= UNIT else 's'}"
