"""Models in folders of this machine, named by the digest of their content."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from rayfleet_operator.registry.errors import ArtifactNotFound, ArtifactRefused, NotAllowed, VersionNotReady
from rayfleet_serving.config import ModelIdentity
from rayfleet_serving.digest import TreeError, file_digest, tree_digest

Stamp = tuple[str, int, int, int]
"""Path, size, mtime in ns, and inode of a file: while they are the same, so is its content."""


class Files:
    """Resolves folders. Keeps each file's digest, so that looking again at a large model reads nothing."""

    def __init__(self) -> None:
        self._digests: dict[Stamp, bytes] = {}
        self._lock = Lock()
        self._running: dict[Path, Future[ModelIdentity]] = {}
        # Two: one huge model must not keep a small one from being looked at, and more would only share the disk.
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="digest")

    async def resolve(self, path: Path, within_s: float) -> ModelIdentity:
        """The model in the folder `path`, or in the folder that the link `path` points to now.

        Reading goes on when the time is over, and the next call finds what was read.

        Args:
            path: absolute.
            within_s: seconds to wait.

        Raises:
            ArtifactNotFound: no folder, or no MLmodel file in it.
            ArtifactRefused: the folder has no digest.
            NotAllowed: a file cannot be read.
            VersionNotReady: not read to the end in time.
        """
        with self._lock:
            future = self._running.get(path)
            if future is None:
                future = self._running[path] = self._threads.submit(self._identify, path)
                future.add_done_callback(lambda _: self._running.pop(path, None))
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError:
            raise VersionNotReady(
                f"The files of {path} are still being read after {within_s:g} s. The next look continues."
            ) from None

    def _identify(self, path: Path) -> ModelIdentity:
        try:
            # Resolved once, so that a link that moves meanwhile does not mix two folders.
            root = Path(os.path.realpath(path))
            if not (root / "MLmodel").is_file():
                raise ArtifactNotFound(_advise(path, root))
            digest = tree_digest(root, self._digest_of)
        except TreeError as error:
            raise ArtifactRefused(f"The model at {path} has no digest. {error}") from None
        except FileNotFoundError as error:
            raise ArtifactNotFound(
                f"The model at {path} changed while it was read: {error.filename} is gone."
            ) from None
        except OSError as error:
            raise NotAllowed(f"The model at {path} cannot be read: {error}.") from None
        value = digest.removeprefix("sha256:")
        return ModelIdentity(version=value[:12], model_id=f"sha256-{value}", artifact_uri=str(root), digest=digest)

    def _digest_of(self, path: Path) -> bytes:
        stamp = _stamp(path)
        known = self._digests.get(stamp)
        if known is not None:
            return known
        digest = file_digest(path)
        # A file that changed while it was read has no digest worth keeping.
        if _stamp(path) == stamp:
            self._digests[stamp] = digest
        return digest


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return os.fspath(path), status.st_size, status.st_mtime_ns, status.st_ino


def _advise(path: Path, root: Path) -> str:
    if not root.exists():
        return (
            f"There is nothing at {path} on this machine. The path must exist on every machine that serves the model."
        )
    if not root.is_dir():
        return f"{path} is a file. Name the folder that mlflow's save_model wrote, the one with the MLmodel file."
    inside = sorted(child.parent.name for child in root.glob("*/MLmodel"))[:5]
    return f"{path} has no MLmodel file, so it is not a folder that mlflow's save_model wrote." + (
        f" These folders inside it are: {', '.join(inside)}." if inside else ""
    )
