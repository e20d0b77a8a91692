"""What the driver is asked, and what its refusals mean. The driver is a stand-in."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from nvml_stand_in import BUS_ID, OTHER_BUS_ID

from rayfleet_serving.model import cuda, share
from rayfleet_serving.model.cuda import Cuda, CudaError
from rayfleet_serving.model.errors import out_of_memory
from rayfleet_serving.model.share import open_share

NO_DEVICE = 100


class Driver:
    """Functions as libcuda has them, of which some fail."""

    def __init__(self, *, gpus: int = 1, fails: str = "") -> None:
        self.gpus = gpus
        self.fails = fails
        self.contexts = 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == self.fails:
                return NO_DEVICE
            if name == "cuDeviceGetCount":
                arguments[0]._obj.value = self.gpus
            elif name == "cuDeviceGet":
                arguments[0]._obj.value = arguments[1]
            elif name == "cuDeviceGetPCIBusId":
                arguments[0].value = (BUS_ID, OTHER_BUS_ID)[arguments[2].value].encode()
                assert arguments[1] > len(BUS_ID)
            elif name == "cuDevicePrimaryCtxRetain":
                assert arguments[1].value == 0
                self.contexts += 1
            return 0

        return call


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Driver:
    found = Driver(**getattr(request, "param", {}))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: found)
    return found


@pytest.mark.parametrize("driver", [{"gpus": 2}], indirect=True)
def test_the_visible_gpus_are_found_and_a_context_opened_on_the_first(driver: Driver) -> None:
    found = Cuda()
    assert (found.bus_ids(), driver.contexts) == ([BUS_ID, OTHER_BUS_ID], 0)
    found.open_context()
    assert driver.contexts == 1


@pytest.mark.parametrize("driver", [{"gpus": 0}, {"fails": "cuInit"}, {"fails": "cuDeviceGetCount"}], indirect=True)
def test_a_machine_without_a_gpu_is_told(driver: Driver) -> None:
    with pytest.raises(CudaError, match=r"no GPU is visible|fails with 100"):
        Cuda()


def test_a_machine_without_a_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cuda, "LIBRARY", "libno-such-driver.so.1")
    with pytest.raises(CudaError, match="no-such-driver"):
        Cuda()
    held = open_share(memory_bytes=None, gpu_memory_bytes=2**30)
    assert (held.has_gpu, held.library_bytes) == (False, None)


def test_another_makers_gpu_is_one_that_no_limit_of_the_process_stands_in_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libno-such-driver.so.1")
    for name in cuda.VISIBLE:
        monkeypatch.setenv(name, "0")
    held = open_share(memory_bytes=None, gpu_memory_bytes=2**30)
    assert (held.has_gpu, held.library_bytes) == (True, 2**30)
    cuda.hide()
    assert not open_share(memory_bytes=None, gpu_memory_bytes=2**30).has_gpu


def test_without_a_cap_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "Cuda", None)
    assert open_share(memory_bytes=None, gpu_memory_bytes=None).over() is None


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("Available memory of 1024 is smaller than requested bytes of 4096", True),
        ("[Errno 12] Cannot allocate memory", True),
        ("/lib/_C.so: failed to map segment from shared object", True),
        ("/lib/_C.so: failed to map segment from shared object: Operation not permitted", False),
        ("/lib/libgomp.so.1: cannot allocate memory in static TLS block", False),
        ("CUDA error: an illegal memory access was encountered", False),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", False),
    ],
)
def test_what_the_libraries_say_of_lacking_memory(text: str, lacks: bool) -> None:
    assert out_of_memory(RuntimeError(text)) == lacks
