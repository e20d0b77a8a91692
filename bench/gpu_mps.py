"""An MPS daemon of `bench.gpu`'s own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


class MpsError(Exception):
    """Why there is no MPS."""


@contextlib.contextmanager
def mps(folder: Path) -> Iterator[dict[str, str]]:
    """The variables of a third of a GPU under an MPS of our own. Raises `MpsError` where it does not start, or nothing
    has used it: CUDA says nothing where it goes on without."""
    command = shutil.which("nvidia-cuda-mps-control")
    if command is None:
        raise MpsError("nvidia-cuda-mps-control is not installed")
    folder.mkdir()
    pipes = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}

    def control(*arguments: str, said: str = "") -> str:
        # To a file: the daemon keeps what it is given, and a pipe would be waited for as long as it lives.
        with tempfile.TemporaryFile("w+") as file:
            try:
                code = subprocess.run(
                    [command, *arguments],
                    input=said,
                    env=os.environ | pipes,
                    stdout=file,
                    stderr=file,
                    text=True,
                    timeout=30,
                    check=False,
                ).returncode
            except (OSError, subprocess.TimeoutExpired) as error:
                raise MpsError(f"its control does not answer: {error}") from None
            file.seek(0)
            text = file.read().strip()
        if code:
            raise MpsError(text or f"its control ended with {code}")
        return text

    control("-d")
    try:
        yield pipes | {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "33"}
        if not control(said="get_server_list\n"):
            raise MpsError("no model has used it")
    finally:
        with contextlib.suppress(MpsError):
            control(said="quit\n")
