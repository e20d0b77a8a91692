"""Why a model version cannot be served: one exception, with a reason a program can act on and a message for people."""

from __future__ import annotations

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
]


class LoadError(Exception):
    """The model version cannot be fetched or loaded; it never takes traffic."""

    def __init__(self, reason: LoadReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


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
