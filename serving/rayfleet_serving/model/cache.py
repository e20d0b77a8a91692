"""Model artifacts on this machine's disk: each version downloaded once, verified each time it is used.

    <root>/<key>/model/…     the artifacts
    <root>/<key>/digest      their tree digest when they were downloaded
    <root>/<key>.lock        flock: shared to verify, exclusive to download
    <root>/.<key>.partial/   a download under way
    <root>/.<key>.replaced/  what was there before, for the moment between two renames

The key is the model id where that is the digest of the content, which every use verifies. Any other id is only what
one registry says, and another could say the same of other bytes: its key also holds a digest of where the bytes
come from.

An entry appears by one rename, so it is whole or absent. One that is not valid stays until another is there in its
place, as processes may read from it. Whoever holds the exclusive lock owns the folders with a dot; the kernel releases
a dead process's lock, so one of them whose lock is free is a crash's leftover.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rayfleet_serving.config import ModelIdentity
from rayfleet_serving.digest import TreeError, tree_digest
from rayfleet_serving.model import mlmodel
from rayfleet_serving.model.download import download, stored_bytes
from rayfleet_serving.model.errors import LoadError

logger = logging.getLogger(__name__)

CACHE_DIR_VARIABLE = "RAYFLEET_CACHE_DIR"
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def default_root() -> Path:
    """RAYFLEET_CACHE_DIR, else ~/.cache/rayfleet/models."""
    configured = os.environ.get(CACHE_DIR_VARIABLE)
    return Path(configured) if configured else Path.home() / ".cache" / "rayfleet" / "models"


def cache_key(identity: ModelIdentity, tracking_uri: str | None) -> str:
    """The folder of a version: "sha256-…" for a content digest, else "<model id>-<12 hex digits of its source>"."""
    if identity.digest is not None:
        return identity.model_id
    server = ""  # object stores and paths have none
    if identity.artifact_uri.startswith("mlflow-artifacts:"):
        server = (tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "").rstrip("/")
    source = hashlib.sha256(os.fsencode(f"{server} {identity.artifact_uri}")).hexdigest()
    return f"{identity.model_id}-{source[:12]}"


class ModelCache:
    """A cache folder, shared by every process of the machine that names it."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()

    def fetch(
        self, identity: ModelIdentity, tracking_uri: str | None, before_download: Callable[[], None] = lambda: None
    ) -> Path:
        """The folder with the version's artifacts, downloaded if need be. A verified entry needs no network.

        Whoever downloads calls `before_download` first; what that raises is raised.

        An entry whose bytes changed since they were downloaded is downloaded again, and replaced once that is verified.
        Several processes asking at once download once; the others wait.

        Raises:
            LoadError: DownloadFailed, DiskFull, DigestMismatch or ModelIdMismatch; the cache is as it was.
        """
        key = cache_key(identity, tracking_uri)
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", key):
            raise LoadError("DownloadFailed", f"{key!r} cannot name a folder of the cache")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self._lock(key, fcntl.LOCK_SH):
                if self._valid(key, identity):
                    return self._entry(key) / "model"
            with self._lock(key, fcntl.LOCK_EX):
                if not self._valid(key, identity):  # or another process has downloaded it meanwhile
                    self._remove_leftovers()
                    for leftover in (self._partial(key), self._replaced(key)):
                        shutil.rmtree(leftover, ignore_errors=True)
                    before_download()
                    self._download(key, identity, tracking_uri)
        except OSError as e:
            if e.errno in DISK_FULL:
                raise self._disk_full(None) from e
            raise LoadError("DownloadFailed", f"the model cache at {self.root} cannot be used: {e}") from e
        return self._entry(key) / "model"

    def _entry(self, key: str) -> Path:
        return self.root / key

    def _partial(self, key: str) -> Path:
        return self.root / f".{key}.partial"

    def _replaced(self, key: str) -> Path:
        return self.root / f".{key}.replaced"

    @contextmanager
    def _lock(self, key: str, kind: int) -> Iterator[None]:
        with (self.root / f"{key}.lock").open("a") as file:
            fcntl.flock(file, kind)
            yield

    def _valid(self, key: str, identity: ModelIdentity) -> bool:
        """Whether the entry is there and its bytes are those downloaded, and those asked for."""
        entry = self._entry(key)
        if not entry.exists():
            return False
        try:
            recorded = (entry / "digest").read_text()
            found = tree_digest(entry / "model")
        except (OSError, TreeError) as e:
            logger.warning("%s is not whole (%s); it is downloaded again", entry, e)
            return False
        if found != recorded or found != (identity.digest or found):
            logger.warning("%s has digest %s instead of %s; it is downloaded again", entry, found, recorded)
            return False
        return True

    def _download(self, key: str, identity: ModelIdentity, tracking_uri: str | None) -> None:
        partial = self._partial(key)
        needed = stored_bytes(identity.artifact_uri, tracking_uri)
        if needed > shutil.disk_usage(self.root).free:
            raise self._disk_full(needed)
        tree = partial / "model"
        tree.mkdir(parents=True)
        try:
            download(identity.artifact_uri, tracking_uri, tree)
            (partial / "digest").write_text(_verified_digest(identity, tree))
            _sync(partial)
            self._replace(key)
        except LoadError as e:
            # Through MLflow's client a full disk is a text among others.
            if e.reason == "DownloadFailed" and os.strerror(errno.ENOSPC) in e.message:
                raise self._disk_full(needed) from e
            raise
        except OSError as e:
            if e.errno in DISK_FULL:
                raise self._disk_full(needed) from e
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _replace(self, key: str) -> None:
        """Puts a whole download in the entry's place."""
        entry, replaced = self._entry(key), self._replaced(key)
        if entry.exists():  # a folder that holds files cannot be renamed over
            entry.rename(replaced)
        self._partial(key).rename(entry)
        _sync_file(self.root)
        shutil.rmtree(replaced, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Removes what processes that died left of other versions: it may be what fills the disk."""
        for leftover in (*self.root.glob(".*.partial"), *self.root.glob(".*.replaced")):
            key = leftover.stem.removeprefix(".")
            with (self.root / f"{key}.lock").open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(leftover, ignore_errors=True)

    def _disk_full(self, needed: int | None) -> LoadError:
        free = shutil.disk_usage(self.root).free
        wants = f"the model needs {needed} bytes, " if needed is not None else ""
        return LoadError(
            "DiskFull",
            f"no room in the model cache at {self.root}: {wants}{free} bytes are free. Free some, or set "
            f"{CACHE_DIR_VARIABLE} to a larger disk",
        )


def _verified_digest(identity: ModelIdentity, tree: Path) -> str:
    """The tree's digest, once it is seen to be the version asked for.

    Raises:
        LoadError: DigestMismatch, ModelIdMismatch, or CorruptModel where the tree has no digest or no MLmodel.
    """
    try:
        digest = tree_digest(tree)
    except TreeError as e:
        raise LoadError("CorruptModel", f"{identity.artifact_uri}: {e}") from None
    if identity.digest is not None and digest != identity.digest:
        raise LoadError(
            "DigestMismatch",
            f"{identity.artifact_uri} has digest {digest}, but {identity.digest} was asked for: its files have changed "
            f"since version {identity.version} was resolved. Write each model into a folder of its own",
        )
    if identity.model_id.startswith("m-"):
        found = mlmodel.read(tree).model_id
        if found != identity.model_id:
            raise LoadError(
                "ModelIdMismatch",
                f"{identity.artifact_uri} holds model {found}, but {identity.model_id} was asked for: another "
                f"model was logged over version {identity.version}. Log the model in a new run and register a new "
                f"version",
            )
    return digest


def _sync(root: Path) -> None:
    """Forces a tree to disk, so that the rename that follows never outlives its content."""
    for folder, _, files in os.walk(root):
        for name in files:
            _sync_file(Path(folder, name))
        _sync_file(Path(folder))


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
