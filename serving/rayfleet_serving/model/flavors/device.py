"""The accelerator a replica may use, and the cap on its memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def torch_device(gpu_memory_bytes: int | None) -> torch.device:
    """The first visible GPU, else the CPU, with the memory of each visible GPU capped.

    The cap is PyTorch's own allocator limit: an allocation over it raises torch.cuda.OutOfMemoryError here and leaves
    the other replicas on the GPU alone. It must be set before anything is loaded. MLFLOW_DEFAULT_PREDICTION_DEVICE
    overrides the choice, as in MLflow; a model may use the others all the same.
    """
    import torch

    wanted = os.environ.get("MLFLOW_DEFAULT_PREDICTION_DEVICE")
    device = torch.device(wanted) if wanted else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and gpu_memory_bytes is not None:
        for index in range(torch.cuda.device_count()):
            total = torch.cuda.get_device_properties(index).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, gpu_memory_bytes / total), index)
    return device
