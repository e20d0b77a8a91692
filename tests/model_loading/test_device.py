"""The cap on a GPU's memory. There is no GPU here: what stands in for CUDA takes devices as PyTorch does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rayfleet_serving.model.flavors import onnx
from rayfleet_serving.model.flavors.device import torch_device

GIB = 2**30


@pytest.fixture
def capped(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """The share of its memory that each GPU is capped to; there are two, of 16 GiB."""
    shares: dict[int, float] = {}

    def cap(fraction: float, device: Any) -> None:
        # As in set_per_process_memory_fraction, which needs a driver before it looks at its arguments.
        shares[torch.cuda._utils._get_device_index(device)] = fraction

    monkeypatch.delenv("MLFLOW_DEFAULT_PREDICTION_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=16 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", cap)
    return shares


@pytest.mark.parametrize(("asked", "share"), [(4 * GIB, 0.25), (32 * GIB, 1.0)])
def test_a_replica_gets_its_share_of_the_gpu(capped: dict[int, float], asked: int, share: float) -> None:
    assert torch_device(asked).type == "cuda"
    assert capped == {0: share, 1: share}


def test_with_the_device_that_mlflow_is_told_of_the_others_are_capped_as_well(
    capped: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DEFAULT_PREDICTION_DEVICE", "cuda:1")
    assert torch_device(8 * GIB).index == 1
    assert capped == {0: 0.5, 1: 0.5}


def test_without_gpu_memory_nothing_is_capped(capped: dict[int, float]) -> None:
    torch_device(None)
    assert capped == {}


@pytest.mark.parametrize("asked", [4 * GIB, None])
def test_an_onnx_session_gets_a_limit_for_its_arena(asked: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    (name, options), cpu = onnx._providers(asked)
    assert (name, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options.pop("arena_extend_strategy") == "kSameAsRequested"
    assert options == ({} if asked is None else {"gpu_mem_limit": asked})
