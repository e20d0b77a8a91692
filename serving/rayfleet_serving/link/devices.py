"""What a replica computes on, as it tells routers with its endpoint: models that have one in common share it.

A replica with a GPU is on that, or on several; one without is on the CPUs of its machine. Machine and GPU are as Ray
numbers them, so two pods that Kubernetes gives slices of one card are on two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

KEY = "devices"
"""In what a replica tells Serve. One of an older image tells nothing."""
GPU, CPU = "GPU", "CPU"


def told(node: str, gpus: Iterable[str]) -> list[str]:
    """What a replica tells of itself.

    Args:
        node: Ray's id of the machine.
        gpus: Ray's ids of the GPUs that it was given there.
    """
    return [f"{GPU}/{node}/{gpu}" for gpu in gpus] or [f"{CPU}/{node}"]


def read(metadata: Mapping[str, Any]) -> frozenset[str]:
    """What a replica told; none where it told nothing, or nothing that makes sense."""
    devices = metadata.get(KEY)
    if not isinstance(devices, list):
        return frozenset()
    return frozenset(each for each in devices if isinstance(each, str))


def describe(device: str) -> str:
    """For people: "GPU", or "machine"."""
    return "GPU" if device.startswith(f"{GPU}/") else "machine"
