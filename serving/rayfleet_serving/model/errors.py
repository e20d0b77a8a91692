"""Why a model version cannot be served: one exception, with a reason a program can act on and a message for people."""

from __future__ import annotations

import re
from typing import Literal

LoadReason = Literal[
    "MissingPackage",
    "CodeExecutionNotAllowed",
    "CorruptModel",
    "UnsupportedFlavor",
    "CredentialsMissing",
    "DownloadFailed",
    "DigestMismatch",
    "ModelIdMismatch",
    "DiskFull",
    "WarmUpFailed",
    "OutOfMemory",
]


class LoadError(Exception):
    """The model version cannot be fetched or loaded; it never takes traffic."""

    def __init__(self, reason: LoadReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


LACKING = re.compile(
    r"can(no|')t allocate memory(?! in static TLS)"
    r"|failed to map segment from shared object(?!: Operation not permitted)"
    r"|failed to allocate memory|out of memory|std::bad_alloc|bad allocation"
    r"|cudaErrorMemoryAllocation|(CUBLAS|CUDNN|CUSPARSE|CUSOLVER)_STATUS_\w*ALLOC(ATION)?_FAILED"
    r"|Available memory of \d+ is smaller than requested",
    re.IGNORECASE,
)
"""What libraries say that have no exception of their own for it: PyTorch's CPU allocator and its wrapped CUDA errors,
onnxruntime's arenas on either device, XGBoost, C++ itself, and the system where a file or library is mapped. Those of
the CPU are tried at a real cap by a test."""


def out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch could have succeeded: a MemoryError, numpy's included, torch.OutOfMemoryError under any
    of its names, or a text of `LACKING`."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return LACKING.search(describe(error)) is not None


class OutputError(ValueError):
    """The model answered something that has no batch axis: a single value, nothing, or an object of its own."""


def describe(error: BaseException) -> str:
    """`ValueError: its text`, fit for UTF-8: lone surrogates, as in undecodable file names, become question marks.

    Never raises: a model's own exception may fail when it is asked for its text.
    """
    try:
        text = str(error)
    except BaseException as unspeakable:
        text = f"its text cannot be had ({type(unspeakable).__name__})"
    return f"{type(error).__name__}: {text}".strip().encode("utf-8", errors="replace").decode("utf-8")
