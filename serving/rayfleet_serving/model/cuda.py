"""The visible GPUs, asked through the driver itself: not every image has PyTorch."""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_char, c_int, c_void_p

LIBRARY = "libcuda.so.1"
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def hide() -> None:
    """No library that is loaded from now on sees a GPU."""
    for name in VISIBLE:
        os.environ[name] = ""


class CudaError(Exception):
    """The driver refused."""


class Cuda:
    """The driver's library. Raises `CudaError` where there is none, or no GPU is visible."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise CudaError(str(error)) from None
        self._call("cuInit", 0)
        count = c_int()
        self._call("cuDeviceGetCount", byref(count))
        if not count.value:
            raise CudaError("no GPU is visible")
        self._devices = [self._device(index) for index in range(count.value)]

    def bus_ids(self) -> list[str]:
        """Where the visible GPUs are. Their indices here are others than NVML's."""
        return [self._bus_id(device) for device in self._devices]

    def open_context(self) -> None:
        """Open the context that PyTorch, onnxruntime and XGBoost share, on the first one, of which it takes hundreds of
        MiB.
        """
        self._context = c_void_p()
        self._call("cuDevicePrimaryCtxRetain", byref(self._context), self._devices[0])

    def _device(self, index: int) -> c_int:
        device = c_int()
        self._call("cuDeviceGet", byref(device), index)
        return device

    def _bus_id(self, device: c_int) -> str:
        text = (c_char * 64)()
        self._call("cuDeviceGetPCIBusId", text, len(text), device)
        return text.value.decode()

    def _call(self, name: str, *arguments: object) -> None:
        if code := getattr(self._library, name)(*arguments):
            raise CudaError(f"{name} fails with {code}")
